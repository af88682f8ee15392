"""The RoPE of a model as GGUF metadata and tensors, from which llama.cpp computes the same angles.

llama.cpp divides the frequency of each pair by its factor in a tensor, if there is one, and by
`rope.scaling.factor`, unless the type is none. Yarn blends scaled and unscaled angles, as
transformers does. Cosines and sines are multiplied by `attn_factor`, with yarn also by
1 + 0.1 ln(factor). `yarn_attn_factor` is not written: what it means depends on the version of
llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import Architecture, of_config
from rsr_formats.numerics import yarn_pair
from rsr_formats.text import shown

from ...common.errors import ExportError, SourceError
from ...source.gguf.config import rope_factors
from ...source.gguf.tokenizer_common import Note
from ..model_files import Config

Factors = npt.NDArray[np.float32]
Value = int | float | str | list[int]

# Architectures of GGUF that rotate a part of a head in llama.cpp, and that need the sections of
# positions that have three coordinates.
_ROTATE_A_SHARE = {"phi3", "qwen35"}
_HAVE_SECTIONS = {"qwen35"}
_RESCALED = ("llama3", "yarn", "longrope")  # refer to the context length before scaling
_ORIGINAL = "original_max_position_embeddings"
_MAX_PAIRS = 1 << 15
_LARGEST = 1e18  # beyond the settings of any model


@dataclass(frozen=True)
class GgufRope:
    """The metadata, by keys after the architecture's prefix, and the tensors."""

    metadata: dict[str, Value] = field(default_factory=dict)
    tensors: dict[str, Factors] = field(default_factory=dict)  # (pairs,) each


@dataclass(frozen=True)
class _Rope:
    """The settings of config.json."""

    scaling: Mapping[str, Any]
    theta: float
    head_dim: int
    positions: int

    @property
    def kind(self) -> object:
        found = self.scaling.get("rope_type", self.scaling.get("type"))
        return "default" if found is None else found

    def number(self, key: str, default: float | None = None) -> float:
        """Return the positive number under a key.

        Raises:
            ExportError: there is none, and no default.
        """
        value: Any = self.scaling.get(key)
        value = default if value is None else value
        if not _is_positive(value):
            raise ExportError(
                f"config.json: {key} of RoPE scaling {shown(self.kind)} is {shown(value)}, "
                "expected a number above 0"
            )
        return float(value)

    @property
    def original(self) -> float:
        """The context length before scaling."""
        return self.number(_ORIGINAL, self.positions)


def _is_positive(value: Any) -> bool:
    """Return whether a JSON value is a number that float32 holds, above 0."""
    return type(value) in (int, float) and 0 < value <= _LARGEST  # True has another type


def gguf_rope(config: Config, note: Note) -> GgufRope:
    """Return how GGUF says what config.json says of RoPE.

    Args:
        config: config.json with `head_dim`, `rope_theta` and `max_position_embeddings`.
        note: takes each sentence for the user.

    Raises:
        ExportError: GGUF has no way to say it, or a setting is missing or no number.
        SourceError: a setting of Llama 3's scaling is out of range, or llama.cpp rotates whole
            heads.
    """
    rope, known = _read(config), of_config(config)
    rotated = _rotated(rope, known)
    rope = replace(rope, head_dim=rotated)
    metadata: dict[str, Value] = {
        "rope.freq_base": rope.theta,
        "rope.dimension_count": rotated,
    }
    if known is not None and set(known.gguf_names) & _HAVE_SECTIONS:
        # In turns, each pair has one of three coordinates; those of a text are equal.
        metadata["rope.dimension_sections"] = [(rotated // 2 + i) // 3 for i in (2, 1, 0)] + [0]
    if rope.kind == "default":
        return GgufRope(metadata)
    if rope.kind == "linear":
        metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.number("factor")}
        return GgufRope(metadata)
    if rope.kind == "dynamic" and rope.head_dim > 2 and known and "alpha" in known.rope_keys:
        stretch = rope.number("alpha", 1.0) ** (rope.head_dim / (rope.head_dim - 2))
        metadata["rope.freq_base"] = rope.theta * stretch
        return GgufRope(metadata)
    if rope.kind == "dynamic":
        note(
            "RoPE scaling 'dynamic' is not written, as GGUF has no name for it: it changes "
            f"positions from {rope.positions:,} on"
        )
        return GgufRope(metadata)
    if rope.kind == "llama3":
        scaling = {**rope.scaling, "factor": rope.number("factor"), _ORIGINAL: rope.original}
        of_rotated = {"head_dim": rotated, "rope_parameters": scaling, "rope_scaling": None}
        factors = rope_factors({**config, **of_rotated})
        assert factors is not None
        return GgufRope(metadata, {"rope_freqs.weight": factors})
    if rope.kind == "yarn":
        return _yarn(rope, metadata)
    if rope.kind == "longrope":
        return _longrope(rope, metadata)
    raise ExportError(
        f"GGUF has no name for RoPE scaling {shown(rope.kind)} in config.json: export the model in "
        "another form"
    )


def _read(config: Config) -> _Rope:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise ExportError(f"config.json: rope_scaling is {shown(scaling)}, expected an object")
    scaling = dict(scaling)
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in _RESCALED and config.get(_ORIGINAL) is not None:
        scaling[_ORIGINAL] = config[_ORIGINAL]  # takes precedence, as in transformers
    if scaling.get("rope_theta") is None:
        scaling["rope_theta"] = config["rope_theta"]
    if scaling.get("partial_rotary_factor") is None:
        scaling["partial_rotary_factor"] = config.get("partial_rotary_factor")
    rope = _Rope(scaling, 0.0, config["head_dim"], config["max_position_embeddings"])
    theta = rope.number("rope_theta")
    if theta <= 1:
        raise ExportError(f"config.json: rope_theta is {theta:g}, expected more than 1")
    return _Rope(scaling, theta, rope.head_dim, rope.positions)


def _rotated(rope: _Rope, known: Architecture | None) -> int:
    """Return how many features of a head are rotated.

    Raises:
        SourceError: some are not, which llama.cpp does not have in this architecture.
    """
    usual = None if known is None else known.partial_rotary_factor
    share = rope.number("partial_rotary_factor", usual or 1.0)
    rotated = min(rope.head_dim, int(rope.head_dim * share))
    if rotated != rope.head_dim and (known is None or not set(known.gguf_names) & _ROTATE_A_SHARE):
        raise SourceError(
            f"config.json: RoPE rotates {rotated} of the {rope.head_dim} features of a head "
            "(partial_rotary_factor), and in this architecture llama.cpp rotates all"
        )
    return rotated


def _yarn(rope: _Rope, metadata: dict[str, Value]) -> GgufRope:
    factor = rope.number("factor")
    if factor < 1:
        raise ExportError(
            f"config.json: factor of RoPE scaling 'yarn' is {factor:g}, and llama.cpp treats "
            "factors below 1 differently from transformers"
        )
    usual = 1 + 0.1 * math.log(factor)
    magnitude = usual
    if rope.scaling.get("mscale") is not None and rope.scaling.get("mscale_all_dim") is not None:
        log = 0.1 * math.log(factor)
        magnitude = (rope.number("mscale") * log + 1) / (rope.number("mscale_all_dim") * log + 1)
    magnitude = rope.number("attention_factor", magnitude)
    if rope.scaling.get("truncate") is False:
        # llama.cpp rounds the pairs between which it blends, so each pair gets its own factor.
        if magnitude != 1:
            metadata["rope.scaling.attn_factor"] = magnitude
        return GgufRope(metadata, {"rope_freqs.weight": _untruncated(rope, factor)})
    metadata |= {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": _whole(rope, _ORIGINAL, rope.original),
    }
    for key in ("beta_fast", "beta_slow"):
        if rope.scaling.get(key) is not None:
            metadata[f"rope.scaling.yarn_{key}"] = rope.number(key)
    if magnitude != usual:
        metadata["rope.scaling.attn_factor"] = magnitude / usual
    return GgufRope(metadata)


def _untruncated(rope: _Rope, factor: float) -> Factors:
    """Return by what yarn divides each frequency if its bounds are not rounded, (pairs,)."""
    pairs = _pairs(rope)
    fast, slow = (
        yarn_pair(rope.number(key, turns), rope.original, rope.theta, 2 * pairs)
        for key, turns in (("beta_fast", 32), ("beta_slow", 1))
    )
    first, last = max(fast, 0), min(slow, 2 * pairs - 1)
    stretched = np.clip((np.arange(pairs) - first) / (last - first or 0.001), 0, 1)
    return np.asarray(1 / (stretched / factor + 1 - stretched), np.float32)


def _longrope(rope: _Rope, metadata: dict[str, Value]) -> GgufRope:
    """Return LongRoPE; the factor is left out, as llama.cpp would divide by it, too."""
    original = rope.original
    factor = rope.number("factor", rope.positions / original)
    magnitude = 1.0
    if factor > 1 and original > 1:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original))
    metadata |= {
        "rope.scaling.type": "longrope",
        "rope.scaling.attn_factor": rope.number("attention_factor", magnitude),
        "rope.scaling.original_context_length": _whole(rope, _ORIGINAL, original),
    }
    return GgufRope(
        metadata,
        {
            "rope_factors_long.weight": _listed(rope, "long_factor"),
            "rope_factors_short.weight": _listed(rope, "short_factor"),
        },
    )


def _listed(rope: _Rope, key: str) -> Factors:
    found, pairs = rope.scaling.get(key), _pairs(rope)
    if not isinstance(found, list) or len(found) != pairs or not all(map(_is_positive, found)):
        have = f"{len(found)} values" if isinstance(found, list) else shown(found)
        raise ExportError(
            f"config.json: {key} of RoPE scaling 'longrope' has {have}, expected {pairs} numbers "
            "above 0, one for each pair of features of a head"
        )
    return np.array(found, np.float64).astype(np.float32)


def _pairs(rope: _Rope) -> int:
    pairs = rope.head_dim // 2
    if not 0 < pairs <= _MAX_PAIRS:
        raise ExportError(
            f"config.json: head_dim is {rope.head_dim}, expected 2 to {2 * _MAX_PAIRS}"
        )
    return pairs


def _whole(rope: _Rope, key: str, value: float) -> int:
    if value != int(value):
        raise ExportError(
            f"config.json: {key} of RoPE scaling {shown(rope.kind)} is {value:g}, expected a whole "
            "number"
        )
    return int(value)
