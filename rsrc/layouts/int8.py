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
        counts = np.zeros(256, np.int64)
        for piece in tensor.pieces():
            counts += np.bincount(np.frombuffer(piece, np.uint8), minlength=256)
        values = np.flatnonzero(counts).astype(np.uint8).view(np.int8)
        if len(values) and (values.min() < -1 or values.max() > 1):
            return f"I8 with values from {values.min()} to {values.max()}, not -1, 0, 1"
        digits = digits_that_occur(-1 in values, 0 in values, 1 in values)
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
