"""What config.json implies about linear layers: the shapes of their weights, and how many layers.

Names and defaults are those of `rsr_formats.architectures`. The file is untrusted: if the
architecture is unknown, or a value that is needed is not a positive integer, nothing is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from rsr_formats.architectures import (
    ANY_PREFIX,
    MIXERS,
    PROJECTIONS,
    Architecture,
    DeltaNet,
    of_config,
)
from rsr_formats.experts import EXPERTS, Experts, experts_of
from rsr_formats.experts import PROJECTIONS as EXPERT_PROJECTIONS
from rsr_formats.text import listed

from ..common.errors import SourceError


@dataclass(frozen=True)
class ExpectedShape:
    """The shape that config.json implies for a weight, and the keys that it follows from."""

    shape: tuple[int, int]  # (out_features, in_features)
    keys: str
    is_vocabulary: bool = False  # rows are tokens; files may pad them


_LAYER = re.compile(
    rf"(?P<prefix>{ANY_PREFIX})layers\.(?P<layer>0|[1-9][0-9]{{0,8}})\."
    rf"(?P<module>{'|'.join(map(re.escape, PROJECTIONS))})\.weight"
)
_EXPERT = re.compile(
    rf"(?P<prefix>{ANY_PREFIX})layers\.(?P<layer>0|[1-9][0-9]{{0,8}})\."
    rf"{re.escape(EXPERTS)}\.(?P<number>0|[1-9][0-9]{{0,8}})\."
    rf"(?P<projection>{'|'.join(EXPERT_PROJECTIONS)})\.weight"
)
_VOCABULARY = re.compile(rf"(?:(?:{ANY_PREFIX})embed_tokens|(?:language_model\.)?lm_head)\.weight")

_MAX = 1 << 31  # exclusive limit of a dimension
_LISTED = 20  # missing tensors that a message names
_SEARCHED = 1 << 12  # layers among which these are looked for; config.json may say 2^31


def is_linear(name: str) -> bool:
    """Return whether config.json may imply a shape for the weight `name`."""
    return any(p.fullmatch(name) is not None for p in (_LAYER, _EXPERT, _VOCABULARY))


def expected_shape(config: dict[str, Any], name: str) -> ExpectedShape | None:
    """Return the shape of the weight `name`, None if the name or the architecture is unknown."""
    architecture = of_config(config)
    hidden = _integer(config.get("hidden_size"))
    if architecture is None or hidden is None:
        return None
    if _VOCABULARY.fullmatch(name):
        tokens = _integer(config.get("vocab_size"))
        if tokens is None:
            return None
        keys = f"vocab_size {tokens}, hidden_size {hidden}"
        return ExpectedShape((tokens, hidden), keys, is_vocabulary=True)
    if (expert := _EXPERT.fullmatch(name)) is not None:
        return _expert_shape(config, expert["projection"], hidden)
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return None
    out_width, in_width = architecture.widths(layer["module"])
    wide, key = _width(config, architecture, in_width if out_width == "hidden" else out_width)
    if wide is None:
        return None
    shape = (hidden, wide) if out_width == "hidden" else (wide, hidden)
    return ExpectedShape(shape, f"{key}, hidden_size {hidden}")


def _expert_shape(config: dict[str, Any], projection: str, hidden: int) -> ExpectedShape | None:
    try:
        experts = experts_of(config)
    except ValueError:
        return None
    if experts is None:
        return None
    keys = f"moe_intermediate_size {experts.moe_intermediate_size}, hidden_size {hidden}"
    return ExpectedShape(experts.shape_of(projection, hidden), keys)


def check_shape(config: dict[str, Any], name: str, shape: tuple[int, int], found: str) -> None:
    """Check the shape of a ternary matrix against config.json.

    Args:
        config: the config.json.
        name: of the weight.
        shape: (out_features, in_features).
        found: dtype and shape in the file, for the message.

    Raises:
        SourceError: config.json implies another shape. The rows of embedding and head are not
            compared.
    """
    expected = expected_shape(config, name)
    if expected is None:
        return
    if shape != expected.shape and not (expected.is_vocabulary and shape[1] == expected.shape[1]):
        raise SourceError(
            f"{name}: {found} is a matrix of {list(shape)}, but config.json implies "
            f"{list(expected.shape)} ({expected.keys}): are they from the same model?"
        )


def missing_weights(config: dict[str, Any], names: Iterable[str]) -> str | None:
    """Name the projections that some layers lack and others have; None if no layer lacks one.

    Args:
        config: the config.json; `num_hidden_layers` is how many layers there should be.
        names: of all tensors.
    """
    layers, architecture = _integer(config.get("num_hidden_layers")), of_config(config)
    if layers is None or architecture is None:
        return None
    try:
        experts = experts_of(config)
    except ValueError:
        return None
    found: dict[tuple[str, str], set[int]] = {}  # (prefix, module): layers that have it
    prefixes: dict[str, set[tuple[int, str]]] = {}  # prefix: (layer, module) of experts
    for name in names:
        if (match := _LAYER.fullmatch(name)) is not None:
            layer, module = int(match["layer"]), match["module"]
            if layer < layers:
                found.setdefault((match["prefix"], module), set()).add(layer)
        elif experts is not None and (match := _EXPERT.fullmatch(name)) is not None:
            layer, number = int(match["layer"]), int(match["number"])
            if layer < layers and experts.are_in(layer) and number < experts.num_experts:
                module = f"{EXPERTS}.{number}.{match['projection']}"
                prefixes.setdefault(match["prefix"], set()).add((layer, module))
    expected = {module: _expected(config, architecture, experts, module) for _, module in found}
    missing = sum(
        expected[module].count(layers) - sum(map(expected[module].has, have))
        for (_, module), have in found.items()
    )
    if experts is not None:
        of_layer = experts.num_experts * len(EXPERT_PROJECTIONS)
        every = of_layer * experts.layers_among(layers)
        missing += sum(every - len(have) for have in prefixes.values())
    if not missing:
        return None
    searched = range(min(layers, _SEARCHED))
    absent = (
        f"{prefix}layers.{layer}.{module}.weight"
        for layer in searched
        for (prefix, module), have in found.items()
        if layer not in have and expected[module].has(layer)
    )
    absent_experts = (
        f"{prefix}layers.{layer}.{module}.weight"
        for prefix, have in prefixes.items()
        for layer in searched
        if experts is not None and experts.are_in(layer)
        for module in experts.modules()
        if (layer, module) not in have
    )
    names = list(islice(chain(absent, absent_experts), _LISTED))
    some = listed(names, len(names), count=missing) if names else f"{missing} weights"
    return (
        f"weights are missing from the {layers} layers that config.json announces "
        f"(num_hidden_layers): {some}"
    )


@dataclass(frozen=True)
class _Expected:
    """The layers that have a projection: those of a pattern that repeats, unless experts do."""

    pattern: list[bool]
    experts: Experts | None

    def has(self, layer: int) -> bool:
        """Return whether a layer has the projection."""
        is_replaced = self.experts is not None and self.experts.are_in(layer)
        return self.pattern[layer % len(self.pattern)] and not is_replaced

    def count(self, layers: int) -> int:
        """Return how many of the first `layers` layers have it."""
        if self.experts is not None:
            return layers - self.experts.layers_among(layers)
        whole, rest = divmod(layers, len(self.pattern))
        return whole * sum(self.pattern) + sum(self.pattern[:rest])


def _expected(
    config: dict[str, Any], architecture: Architecture, experts: Experts | None, module: str
) -> _Expected:
    """Return which layers have a projection."""
    if module.startswith("mlp."):
        return _Expected([True], experts)
    others = {kind for kind, prefix in MIXERS.items() if not module.startswith(prefix)}
    if not others & set(architecture.mixers.values()):
        return _Expected([True], None)
    kinds = architecture.layer_types(config)
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        return _Expected([False], None)  # whatever needs the kinds reports it
    found = [architecture.mixers.get(kind) not in {None, *others} for kind in kinds]
    return _Expected(found or [False], None)


def _width(
    config: dict[str, Any], architecture: Architecture, width: str
) -> tuple[int | None, str]:
    """Return a width of `PROJECTIONS` other than hidden_size, and the keys it follows from."""
    if width == "intermediate":
        wide = _integer(config.get("intermediate_size"))
        return wide, f"intermediate_size {wide}"
    if width == "gate_up":
        wide = _integer(config.get("intermediate_size"))
        return wide and 2 * wide, f"twice intermediate_size {wide}"
    if width == "qkv":
        queries, of_queries = _width(config, architecture, "queries")
        keys, of_keys = _width(config, architecture, "keys")
        if queries is None or keys is None:
            return None, ""
        return queries + 2 * keys, f"{of_queries}, {of_keys} twice"
    if width == "gated_queries":
        queries, of_queries = _width(config, architecture, "queries")
        return queries and 2 * queries, f"twice {of_queries}"
    if width.startswith("delta_"):
        return _delta_width(config, architecture, width)
    key, count = "num_attention_heads", _integer(config.get("num_attention_heads"))
    size = config.get("head_dim", architecture.head_dim)
    if size is None and architecture.head_dim is None and count is not None:
        size = (_integer(config.get("hidden_size")) or 0) // count
    if width == "keys":
        groups = config.get("num_key_value_heads", architecture.num_key_value_heads)
        if groups is not None:  # null or absent: as many as num_attention_heads
            key, count = "num_key_value_heads", _integer(groups)
    size = _integer(size)
    if count is None or size is None:
        return None, ""
    return count * size, f"{key} {count} x head_dim {size}"


def _delta_width(
    config: dict[str, Any], architecture: Architecture, width: str
) -> tuple[int | None, str]:
    """Return a width of a gated delta net, and the keys it follows from."""
    if architecture.delta_net is None:
        return None, ""
    sizes = {
        key: _integer(default if config.get(key) is None else config[key])
        for key, default in vars(architecture.delta_net).items()
    }
    known = {key: size for key, size in sizes.items() if size is not None}
    if len(known) < len(sizes):
        return None, ""
    of = DeltaNet(**known)
    widths = {
        "delta_channels": of.channels,
        "delta_values": of.values_width,
        "delta_heads": of.linear_num_value_heads,
    }
    return widths[width], ", ".join(f"{key} {size}" for key, size in known.items())


def _integer(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _MAX else None
