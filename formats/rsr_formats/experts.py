"""Mixtures of experts: the layers that have one, and the names and shapes of its tensors.

In such a layer the MLP is replaced by a router and a number of small MLPs, the experts. The router
chooses a few of them for each token. Checkpoints hold the experts as many matrices or as one
three-dimensional tensor; a `.rsr` file always holds the matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .architectures import of_config
from .text import shown

ROUTER = "mlp.gate"  # its module within a layer
EXPERTS = "mlp.experts"
# The matrices of an expert, and (out_features, in_features) of each: "expert" is
# moe_intermediate_size.
PROJECTIONS = {
    "gate_proj": ("expert", "hidden"),
    "up_proj": ("expert", "hidden"),
    "down_proj": ("hidden", "expert"),
}
MAX_EXPERTS = 1 << 16  # of a layer; the largest known model has 512

_NUMBERS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step")
KEYS = (*_NUMBERS, "num_local_experts", "norm_topk_prob", "mlp_only_layers")  # of config.json


@dataclass(frozen=True)
class Experts:
    """The settings of a mixture of experts, by their names in config.json.

    Attributes:
        num_experts: of each layer that has experts.
        num_experts_per_tok: how many of them a token takes.
        moe_intermediate_size: width of an expert.
        norm_topk_prob: whether the weights of the chosen experts are divided by their sum.
        decoder_sparse_step: n, if every nth layer has experts.
        mlp_only_layers: numbers of layers that have an MLP whatever `decoder_sparse_step` says.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: frozenset[int] = frozenset()

    def are_in(self, layer: int) -> bool:
        """Return whether a layer, numbered from 0, has experts instead of an MLP."""
        return self._is_due(layer) and layer not in self.mlp_only_layers

    @property
    def are_everywhere(self) -> bool:
        """Whether all layers have experts."""
        return self.decoder_sparse_step == 1 and not self.mlp_only_layers

    def layers_among(self, count: int) -> int:
        """Return how many of the first `count` layers have experts."""
        only = sum(self._is_due(n) for n in self.mlp_only_layers if 0 <= n < count)
        return count // self.decoder_sparse_step - only

    def _is_due(self, layer: int) -> bool:
        return (layer + 1) % self.decoder_sparse_step == 0

    def modules(self) -> Iterator[str]:
        """Yield the modules of all experts within a layer."""
        for number in range(self.num_experts):
            for projection in PROJECTIONS:
                yield f"{EXPERTS}.{number}.{projection}"

    def shape_of(self, projection: str, hidden: int) -> tuple[int, int]:
        """Return (out_features, in_features) of a matrix, named as in `PROJECTIONS`."""
        widths = {"hidden": hidden, "expert": self.moe_intermediate_size}
        out_features, in_features = (widths[width] for width in PROJECTIONS[projection])
        return out_features, in_features


def experts_of(config: Mapping[str, Any]) -> Experts | None:
    """Return the experts that a config.json describes; None for an architecture without them.

    Raises:
        ValueError: a setting has a value that it cannot have; the message says which.
    """
    known = of_config(config)
    if known is None or not known.has_experts:
        return None
    values = {key: _whole(config, key, known.own_keys[key]) for key in _NUMBERS}
    if config.get("num_experts") is None and config.get("num_local_experts") is not None:
        values["num_experts"] = _whole(config, "num_local_experts", 0)
    if values["num_experts"] > MAX_EXPERTS:
        raise ValueError(
            f"config.json: num_experts is {values['num_experts']}, expected at most {MAX_EXPERTS}"
        )
    if values["num_experts_per_tok"] > values["num_experts"]:
        raise ValueError(
            f"config.json: num_experts_per_tok is {values['num_experts_per_tok']}, but there are "
            f"{values['num_experts']} experts (num_experts)"
        )
    norm = config.get("norm_topk_prob")
    if norm is not None and type(norm) is not bool:
        raise ValueError(f"config.json: norm_topk_prob is {shown(norm)}, expected true or false")
    only = config.get("mlp_only_layers")
    if only is not None and not (isinstance(only, list) and all(type(n) is int for n in only)):
        raise ValueError("config.json: mlp_only_layers is not a list of integers")
    return Experts(**values, norm_topk_prob=bool(norm), mlp_only_layers=frozenset(only or ()))


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError(f"config.json: {key} is {shown(value)}, expected a positive integer")
    return value
