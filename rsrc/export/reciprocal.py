"""The divisor that stands for a scale."""

from __future__ import annotations

import numpy as np

from ..layouts.float_bits import from_float32, to_float32
from .dtypes import BY_SIZE


def nearest_reciprocal(scale: np.float32) -> np.float32:
    """Return the float32 whose reciprocal is nearest `scale`, of as few bits as possible."""
    one = np.float32(1)
    with np.errstate(over="ignore", divide="ignore"):
        near = one / scale
        # Below a power of 2, reciprocals are sparser than floats: 1 / scale itself may miss.
        around = [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))]
        short = [to_float32(from_float32(near.reshape(1), d).view(np.uint8), d)[0] for d in BY_SIZE]
        candidates = [v for v in (*short, *around) if np.isfinite(v) and v > 0]
        return min(candidates, key=lambda v: abs(np.float64(one / v) - scale), default=near)
