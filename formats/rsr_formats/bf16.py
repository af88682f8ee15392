"""BF16, which NumPy lacks: the upper half of a float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def widen_bf16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return BF16 numbers, given as uint16 bits, as float32 of the same shape: an exact copy."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
