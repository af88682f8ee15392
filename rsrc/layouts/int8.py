"""I8 tensors whose values are -1, 0, 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.layout import BINARY_BITS, BINARY_SIGNS, TERNARY

from ..checkpoint import Checkpoint, SourceTensor
from .base import Bytes, DigitArray, Layout, Restored, TernaryTensor


def digits_that_occur(negative: bool, zero: bool, positive: bool) -> tuple[int, ...]:
    """Return the smallest digit alphabet for the signs that occur.

    Binary only where exactly its two values occur: a matrix of one value, or of {-s, 0}, is
    ternary, so that small and empty matrices are what their neighbours are.
    """
    if negative and positive and not zero:
        return BINARY_SIGNS
    if zero and positive and not negative:
        return BINARY_BITS
    return TERNARY


class Int8(Layout):
    """One byte per weight, no scale."""

    name = "int8"

    def recognise(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional I8 tensors with values -1, 0, 1 only."""
        if tensor.dtype != "I8" or len(tensor.shape) != 2:
            return None
        lowest = highest = 0
        zero = False
        for piece in tensor.pieces():
            values = np.frombuffer(piece, np.int8)
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
            zero = zero or not values.all()
        if lowest < -1 or highest > 1:
            return f"I8 with values from {lowest} to {highest}, not -1, 0, 1"
        digits = digits_that_occur(lowest < 0, zero, highest > 0)
        shape = (tensor.shape[0], tensor.shape[1])
        return TernaryTensor(tensor, self, shape, digits, None, "none")

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window: (value - lowest) / step between digits."""
        window = raw.reshape(t.shape)[rows, columns]
        if t.digits == BINARY_SIGNS:
            digits: DigitArray = np.right_shift(window + np.uint8(1), 1)  # 255 (-1) wraps to 0
        else:
            digits = np.subtract(window, t.digits[0] & 255, dtype=np.uint8)
        return digits

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return the digit values as int8."""
        return np.array(r.record.digits, np.int8)[r.digits]
