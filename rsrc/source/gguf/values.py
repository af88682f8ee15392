"""Read numbers from GGUF metadata and JSON, whose values may be of any type."""

from __future__ import annotations

from typing import Any

import numpy as np


def whole_of(value: Any) -> int | None:
    """Return an integer >= 0, or the one that an array repeats for every layer; else None."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value):
        value = value[0] if (value == value[0]).all() else None
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        return int(value)
    return None


def number_of(value: Any) -> float | None:
    """Return a finite number in the shortest decimal form that rounds to its float32, or None."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        return None
    try:
        with np.errstate(over="ignore"):
            number = np.float32(value)
    except OverflowError:  # an integer of JSON, beyond float64
        return None
    return float(str(number)) if np.isfinite(number) else None
