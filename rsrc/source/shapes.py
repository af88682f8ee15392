"""What config.json says of a model's linear layers: the shapes of their weights, and their number.

The names, and what a key that is absent stands for, are those of transformers' classes (and of
1bitLLM's BitnetForCausalLM). The file is a stranger's: where a value that is needed is no positive
integer, or the class is another one, nothing is expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rsr_formats.architectures import PROJECTIONS, Architecture, of_config
from rsr_formats.text import listed

from ..common.errors import SourceError


@dataclass(frozen=True)
class ExpectedShape:
    """The shape that config.json gives a weight, and by which of its keys."""

    out_features: int
    in_features: int
    keys: str
    is_vocabulary: bool = False  # its rows are tokens, which files may pad

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.out_features, self.in_features


_LAYER = re.compile(
    r"(?P<prefix>(?:model\.)?)layers\.(?P<layer>0|[1-9][0-9]{0,8})\."
    rf"(?P<module>{'|'.join(map(re.escape, PROJECTIONS))})\.weight"
)
_VOCABULARY = re.compile(r"(?:(?:model\.)?embed_tokens|lm_head)\.weight")

_MAX = 1 << 31  # no dimension is as large
_LISTED = 20  # missing tensors that a message names


def is_linear(name: str) -> bool:
    """Return whether `name` is one that a config.json may give a shape."""
    return (_LAYER.fullmatch(name) or _VOCABULARY.fullmatch(name)) is not None


def expected_shape(config: dict[str, Any], name: str) -> ExpectedShape | None:
    """Return the shape of the weight `name`, or None if the name or the model is not known."""
    architecture = of_config(config)
    hidden = _integer(config.get("hidden_size"))
    if architecture is None or hidden is None:
        return None
    if _VOCABULARY.fullmatch(name):
        tokens = _integer(config.get("vocab_size"))
        if tokens is None:
            return None
        return ExpectedShape(tokens, hidden, f"vocab_size {tokens}, hidden_size {hidden}", True)
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return None
    out_width, in_width = PROJECTIONS[layer["module"]]
    wide, key = _width(config, architecture, in_width if out_width == "hidden" else out_width)
    if wide is None:
        return None
    keys = f"{key}, hidden_size {hidden}"
    if out_width == "hidden":
        return ExpectedShape(hidden, wide, keys)
    return ExpectedShape(wide, hidden, keys)


def check_shape(config: dict[str, Any], name: str, shape: tuple[int, int], found: str) -> None:
    """Check the shape of a ternary matrix against what config.json gives it.

    Args:
        config: the config.json.
        name: of the weight.
        shape: (out_features, in_features).
        found: dtype and shape in the file, in words.

    Raises:
        SourceError: they contradict each other. A vocabulary's rows are not compared.
    """
    expected = expected_shape(config, name)
    if expected is None:
        return
    if shape != expected.shape and not (expected.is_vocabulary and shape[1] == expected.shape[1]):
        raise SourceError(
            f"{name}: {found} is a matrix of {list(shape)}, but config.json gives it "
            f"{list(expected.shape)} ({expected.keys}): are they of the same model?"
        )


def missing_weights(config: dict[str, Any], names: Iterable[str]) -> str | None:
    """Say which layers lack a projection that others have; None if none does.

    Args:
        config: the config.json; its num_hidden_layers counts the layers.
        names: of all tensors.
    """
    layers = _integer(config.get("num_hidden_layers"))
    if layers is None or of_config(config) is None:
        return None
    found: dict[tuple[str, str], set[int]] = {}  # the layers of each prefix and module
    for name in names:
        match = _LAYER.fullmatch(name)
        if match is not None and int(match["layer"]) < layers:
            found.setdefault((match["prefix"], match["module"]), set()).add(int(match["layer"]))
    missing = sum(layers - len(have) for have in found.values())
    if not missing:
        return None
    some = listed(list(islice(_missing(found, layers), _LISTED)), _LISTED, count=missing)
    return (
        f"weights are missing of the {layers} layers that config.json gives it "
        f"(num_hidden_layers): {some}"
    )


def _missing(found: dict[tuple[str, str], set[int]], layers: int) -> Iterator[str]:
    for layer in range(layers):
        for (prefix, module), have in found.items():
            if layer not in have:
                yield f"{prefix}layers.{layer}.{module}.weight"


def _width(
    config: dict[str, Any], architecture: Architecture, width: str
) -> tuple[int | None, str]:
    """Return a width of `PROJECTIONS` other than hidden_size, and its keys in words."""
    if width == "intermediate":
        wide = _integer(config.get("intermediate_size"))
        return wide, f"intermediate_size {wide}"
    key, count = "num_attention_heads", _integer(config.get("num_attention_heads"))
    size = config.get("head_dim", architecture.head_dim)
    if size is None and architecture.head_dim is None and count is not None:
        size = (_integer(config.get("hidden_size")) or 0) // count
    if width == "keys":
        groups = config.get("num_key_value_heads", architecture.num_key_value_heads)
        if groups is not None:  # null, too, stands for num_attention_heads
            key, count = "num_key_value_heads", _integer(groups)
    size = _integer(size)
    if count is None or size is None:
        return None, ""
    return count * size, f"{key} {count} x head_dim {size}"


def _integer(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _MAX else None
