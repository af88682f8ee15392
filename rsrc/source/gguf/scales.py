"""Scales of matrices that blocks hold rounded to float16, in keys that only rsrc knows.

llama.cpp multiplies by the rounded scales. A model whose activations are quantized to int8 would
round some of them to the neighboring step with these, so it would not come back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...common.errors import SourceError

NAMES, SCALES = "rsr.scaled_tensors", "rsr.scales"
_MAX_TENSORS = 1 << 15


def scale_metadata(scales: Mapping[str, float]) -> dict[str, list[str] | list[float]]:
    """Return the keys for matrices of one float32 scale each, by their GGUF names."""
    return {NAMES: list(scales), SCALES: list(scales.values())} if scales else {}


def exact_factors(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return by what to multiply the rounded scales, by the GGUF name of the matrix.

    In float64, rounded scale times factor gives the float32 scale exactly.

    Raises:
        SourceError: the keys are not a list of names and a number for each.
    """
    names, scales = metadata.get(NAMES), metadata.get(SCALES)
    if names is None and scales is None:
        return {}
    if not isinstance(scales, np.ndarray) or scales.dtype != np.float32:
        raise SourceError(f"{SCALES} is not a list of float32 numbers")
    if isinstance(names, str | np.ndarray) or not isinstance(names, Sequence):
        raise SourceError(f"{NAMES} is not a list of strings")
    if len(names) != len(scales) or len(names) > _MAX_TENSORS:
        raise SourceError(f"{NAMES} has {len(names)} names for {len(scales)} {SCALES}")
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16).astype(np.float64)
    if not (np.isfinite(rounded) & (rounded != 0)).all():
        raise SourceError(f"{SCALES} has a value that is 0 or infinite in float16")
    factors = (scales.astype(np.float64) / rounded).tolist()
    return {str(name): factor for name, factor in zip(names, factors, strict=True)}
