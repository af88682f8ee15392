"""RoPE scaling in the metadata and tensors of a GGUF file, as settings of config.json.

llama.cpp computes the angle of pair i at position p as follows (`rope_yarn` in ggml). A frequency
f is theta^(-2i/d), divided by the factor of the pair if the file has a tensor of factors. The angle
is p f / scale; with yarn, it is a blend of that and p f, by a ramp over the pairs. Cosines and
sines are multiplied by attn_factor, with yarn also by 1 + 0.1 ln(scale). What no other type of
transformers expresses becomes longrope, which lists the divisor of each frequency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsr_formats.numerics import llama3_kept, yarn_pair
from rsr_formats.text import shown

from ...common.errors import SourceError
from .values import number_of, whole_of

Factors = npt.NDArray[np.float32]

FREQS = "rope_freqs.weight"
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = (FREQS, SHORT, LONG)
ALPHA = "rope.scaling.alpha"  # stretches the base of the frequencies of HunYuan
THETA = 10000.0  # of files without rope.freq_base

# Settings of all Llama 3 models. GGUF stores only the factors that follow from them, so a file's
# factors are compared with these.
LLAMA3: dict[str, float] = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

_TYPES = ("none", "linear", "yarn", "longrope")
_MAX_HEAD_DIM = 1 << 16


class Rope(NamedTuple):
    """What RoPE rotates of a head."""

    head_dim: int | None  # rotated features
    theta: float
    context_length: int | None


class _Scaling(NamedTuple):
    """The settings under rope.scaling, with llama.cpp's defaults."""

    kind: str  # one of _TYPES
    scale: float
    attn_factor: float
    blend: float  # yarn's ext_factor: 0 without yarn
    beta_fast: float
    beta_slow: float
    log_multiplier: float
    given: Mapping[str, Any]  # the original context length and yarn's betas, if the file has them


def rope_scaling(
    metadata: Mapping[str, Any],
    prefix: str,
    rope: Rope,
    tensors: Mapping[str, Factors],
    read: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Return `rope_scaling` of config.json, None if frequencies are not scaled.

    Args:
        metadata: of the file.
        prefix: of the architecture's keys.
        rope: the head, by the settings in config.json.
        tensors: those of `ROPE_TENSORS` that the file has. The settings replace all of them. If the
            result is None, they are kept, and the runtime checks their length and values.
        read: keys of rope_parameters that only some classes read, this one among them.

    Raises:
        SourceError: a key has a value that llama.cpp does not accept, or contradicts a tensor.
    """
    scaling = _read(metadata, prefix, tensors)
    if scaling.kind == "longrope":
        return _longrope(scaling, prefix, rope, tensors)
    is_plain = scaling.scale == 1 and scaling.attn_factor == 1
    factors = tensors.get(FREQS)
    if factors is not None:
        if is_plain and not _fit(factors, rope):
            return None
        factors = _checked(FREQS, factors, rope)
        if is_plain and (settings := _llama3(factors, rope)) is not None:
            return settings
        if is_plain and (factors == 1).all():
            return None
        return _listed(scaling, rope, factors, factors)
    if is_plain:
        alpha = number_of(metadata.get(prefix + ALPHA)) if "alpha" in read else None
        return {"rope_type": "dynamic", "factor": 1.0, "alpha": alpha} if alpha else None
    if scaling.blend == 1:
        return _yarn(scaling)
    if scaling.blend or scaling.attn_factor != 1:
        ones = np.ones(_pairs(prefix, rope), np.float32)
        return _listed(scaling, rope, ones, ones)
    return {"rope_type": "linear", "factor": scaling.scale}


def llama3_factors(
    theta: float, head_dim: int, factor: float, low: float, high: float, original: float
) -> Factors:
    """Return by what Llama 3's scaling divides each frequency, (head_dim / 2,).

    The divisor is 1 for short wavelengths, `factor` for long ones, and a blend between them
    (transformers, modeling_rope_utils.py); see `llama3_kept` for the other arguments.
    """
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    kept = llama3_kept(wavelengths, low, high, original)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)


def _read(metadata: Mapping[str, Any], prefix: str, tensors: Mapping[str, Factors]) -> _Scaling:
    def number(name: str, default: float, least: float | None = 0) -> float:
        key = prefix + name
        if key not in metadata:
            return default
        found = number_of(metadata[key])
        if found is None or (least is not None and found < least):
            raise SourceError(f"{key} is {_short(metadata[key])}, expected a number, 0 or more")
        return found

    by_default = "longrope" if SHORT in tensors or LONG in tensors else "linear"
    key = prefix + "rope.scaling.type"
    kind = metadata.get(key, by_default)
    if not isinstance(kind, str) or kind not in _TYPES:
        raise SourceError(
            f"{key} is {_short(kind)}, which neither rsrc nor llama.cpp supports; known are "
            + ", ".join(_TYPES)
        )
    if by_default == "longrope" and kind != by_default:
        raise SourceError(f"{key} is {kind!r}, but there are tensors of longrope, such as {LONG}")
    factor = "rope.scaling.factor"
    if prefix + factor not in metadata:
        factor = "rope.scale_linear"
    scale = number(factor, 0.0) or 1.0
    blend = number("rope.scaling.yarn_ext_factor", -1.0, None)
    given: dict[str, Any] = {}
    original = prefix + "rope.scaling.original_context_length"
    if original in metadata:
        given["original_max_position_embeddings"] = whole_of(metadata[original])
        if not given["original_max_position_embeddings"]:
            raise SourceError(f"{original} is {_short(metadata[original])}, expected 1 or more")
    for name in ("beta_fast", "beta_slow"):
        if f"{prefix}rope.scaling.yarn_{name}" in metadata:
            given[name] = number(f"rope.scaling.yarn_{name}", 0.0)
    if kind == "none":
        scale = 1.0
    if blend < 0:
        blend = float(kind == "yarn")
    if scale == 1:  # yarn would blend two equal angles
        blend = 0.0
    return _Scaling(
        kind,
        scale,
        number("rope.scaling.attn_factor", 1.0),
        blend,
        given.get("beta_fast", 32.0),
        given.get("beta_slow", 1.0),
        number("rope.scaling.yarn_log_multiplier", 0.0),
        given,
    )


def _llama3(factors: Factors, rope: Rope) -> dict[str, Any] | None:
    """Return Llama 3's scaling if it gives these factors."""
    largest = _short_float(factors.max())
    if largest <= 1 or rope.theta <= 1:
        return None
    expected = llama3_factors(rope.theta, 2 * len(factors), largest, *LLAMA3.values())
    if not np.allclose(expected, factors, rtol=1e-5, atol=0):
        return None
    return {"rope_type": "llama3", "factor": largest, **LLAMA3}


def _longrope(
    scaling: _Scaling, prefix: str, rope: Rope, tensors: Mapping[str, Factors]
) -> dict[str, Any]:
    missing = [name for name in (SHORT, LONG) if name not in tensors]
    if missing or FREQS in tensors:
        raise SourceError(
            f"RoPE scaling longrope needs the tensors {SHORT} and {LONG}, "
            + (f"but there is no {missing[0]}" if missing else f"but there is {FREQS}, too")
        )
    _pairs(prefix, rope)
    short, long = (_checked(name, tensors[name], rope) for name in (SHORT, LONG))
    return _listed(scaling, rope, short, long)


def _yarn(scaling: _Scaling) -> dict[str, Any]:
    settings = {"rope_type": "yarn", "factor": scaling.scale, **scaling.given}
    if scaling.attn_factor != 1:
        settings["attention_factor"] = _short_float(_magnitude(scaling))
    elif scaling.log_multiplier:
        settings |= {"mscale": 1.0, "mscale_all_dim": scaling.log_multiplier}
    return settings


def _listed(scaling: _Scaling, rope: Rope, short: Factors, long: Factors) -> dict[str, Any]:
    """Return longrope, with the divisor of each frequency times that of the scaling."""
    divisors = _divisors(scaling, rope, len(short))
    with np.errstate(over="ignore"):
        short, long = ((part * divisors).astype(np.float32) for part in (short, long))
    if not (np.isfinite(short).all() and np.isfinite(long).all()):
        raise SourceError(f"RoPE scaling by {scaling.scale} is out of range")
    original = scaling.given.get("original_max_position_embeddings", rope.context_length)
    settings: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": [_short_float(x) for x in short],
        "long_factor": [_short_float(x) for x in long],
        "attention_factor": _short_float(_magnitude(scaling)),
    }
    if original is not None:
        settings["original_max_position_embeddings"] = original
    return settings


def _divisors(s: _Scaling, rope: Rope, pairs: int) -> npt.NDArray[np.float64]:
    """Return by what the scaling divides each frequency, (pairs,)."""
    if not s.blend:
        return np.full(pairs, s.scale)
    original = s.given.get("original_max_position_embeddings", rope.context_length) or 0
    if rope.theta <= 1:
        raise SourceError(f"rope.freq_base is {rope.theta}, expected more than 1")

    def pair_of(turns: float) -> float:
        return yarn_pair(turns, original, rope.theta, 2 * pairs) if turns and original else 0

    first = max(math.floor(pair_of(s.beta_fast)), 0)
    last = min(math.ceil(pair_of(s.beta_slow)), 2 * pairs - 1)
    ramp = 1 - np.clip((np.arange(pairs) - first) / max(0.001, last - first), 0, 1)
    kept = ramp * s.blend
    return np.asarray(1 / ((1 - kept) / s.scale + kept), np.float64)


def _magnitude(s: _Scaling) -> float:
    """Return the factor of sines and cosines."""
    if not s.blend or s.scale <= 1:
        return s.attn_factor
    log = 0.1 * math.log(s.scale)
    return s.attn_factor * (log + 1) / (s.log_multiplier * log + 1)


def _fit(factors: Factors, rope: Rope) -> bool:
    is_whole = rope.head_dim is not None and rope.head_dim == 2 * len(factors)
    return is_whole and bool(np.isfinite(factors).all() and (factors > 0).all())


def _checked(name: str, factors: Factors, rope: Rope) -> Factors:
    if _fit(factors, rope):
        return factors
    raise SourceError(
        f"{name} has {len(factors)} values, expected {rope.head_dim or 0} / 2 positive numbers, "
        "one for each pair of features of a head"
    )


def _pairs(prefix: str, rope: Rope) -> int:
    if not rope.head_dim or rope.head_dim % 2 or rope.head_dim > _MAX_HEAD_DIM:
        raise SourceError(
            f"{prefix}rope.scaling: found heads of {rope.head_dim or 0} features, expected an even "
            f"number up to {_MAX_HEAD_DIM} under {prefix}attention.key_length"
        )
    return rope.head_dim // 2


def _short(value: Any) -> str:
    return shown(value if isinstance(value, str | int | float) else str(value)[:40])


def _short_float(value: float) -> float:
    """Return the shortest decimal number that rounds to the float32 nearest to `value`."""
    return float(str(np.float32(value)))
