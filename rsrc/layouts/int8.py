"""I8 matrices of values -2 to 2, with or without a `<name>_scale` that multiplies them.

The scale is a float tensor of shape [], [1], [out_features] or [out_features, groups of columns]:
what `decompile --to int8` writes. A `<name>_scale` of any other kind is an error: the matrix is
unknown without its scale.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import BINARY_SIGNS, QUINARY, AuxiliaryTensor, largest_digit

from ..common.arrays import ByteArray
from ..common.errors import SourceError
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, Restored, TernaryTensor
from .float_bits import FLOAT_BYTES
from .floats import alphabet, digit_table, wide_alphabet
from .scales import ScaleGrid, finite_values, group_columns, per_row, per_tensor

_MAX_ABSORBED = 4096  # bytes of a scale tensor; the header holds those that are absorbed


class Int8(Layout):
    """One byte per weight."""

    name = "int8"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional I8 tensors that hold only -2 to 2.

        Raises:
            SourceError: there is a `<name>_scale` that cannot be its scale.
        """
        found = self.unscaled(tensor)
        scale = checkpoint.tensors.get(f"{tensor.name}_scale")
        if not isinstance(found, TernaryTensor) or scale is None:
            return found
        grid = _grid(tensor, scale)
        auxiliary = AuxiliaryTensor(scale.name, scale.dtype, scale.shape, scale.read().tobytes())
        return replace(
            found,
            scale=grid,
            note=f"{grid.words}, multiply by {scale.name.rpartition('.')[2]}",
            auxiliary=(auxiliary,) if scale.nbytes <= _MAX_ABSORBED else (),
        )

    def unscaled(self, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Recognize a tensor by its own values, without a scale; results as in `recognize`."""
        if tensor.dtype != "I8" or len(tensor.shape) != 2:
            return None
        lowest = highest = 0
        zero = False
        for piece in tensor.pieces():
            values = np.frombuffer(piece, np.int8)
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
            zero = zero or not values.all()
        if lowest < QUINARY[0] or highest > QUINARY[-1]:
            return f"I8 with values from {lowest} to {highest}, not -2 to 2"
        if lowest < -1 or highest > 1:
            digits = wide_alphabet(_occurring(tensor))
        else:
            digits = alphabet(lowest < 0, zero, highest > 0)
        shape = (tensor.shape[0], tensor.shape[1])
        return TernaryTensor(tensor, self, shape, digits, None, "none")

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window: (value - lowest) / step between digits."""
        window = raw.reshape(t.shape)[rows, columns]
        if largest_digit(t.digits) > 1:
            return digit_table(t.digits)[window]
        if t.digits == BINARY_SIGNS:
            digits: DigitArray = np.right_shift(window + np.uint8(1), 1)  # 255 (-1) wraps to 0
        else:
            digits = np.subtract(window, t.digits[0] & 255, dtype=np.uint8)
        return digits

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return the digit values as int8."""
        return np.array(r.record.digits, np.int8)[r.digits]


def _occurring(tensor: SourceTensor) -> set[int]:
    """Return the values of a tensor of -2 to 2."""
    found: set[int] = set()
    for piece in tensor.pieces():
        values = np.frombuffer(piece, np.int8)
        found |= {value for value in QUINARY if (values == value).any()}
    return found


def _grid(tensor: SourceTensor, scale: SourceTensor) -> ScaleGrid:
    """Return the multipliers in `<name>_scale`.

    Raises:
        SourceError: its dtype or shape does not say which weights share a scale, or a scale is NaN
            or infinite.
    """
    (rows, columns), shape = tensor.shape, scale.shape
    width = None
    if len(shape) == 2 and shape[0] == rows:
        width = group_columns(columns, shape[1])
    if scale.dtype not in FLOAT_BYTES or not (shape in ((), (1,), (rows,)) or width is not None):
        raise SourceError(
            f"{scale.name} is {scale.dtype} {list(shape)}; as the scale of an I8 {[rows, columns]} "
            f"matrix, expected F32, F16 or BF16 of shape [1], [{rows}] or [{rows}, groups], with "
            "groups of 32, 64, 128 or 256 columns or equal parts. The matrix is unknown without "
            f"its scale: --exclude {tensor.name[:120]!r} keeps both tensors as they are"
        )
    values = finite_values(scale)
    if 0 in tensor.shape:
        return per_tensor(0, rows)
    if shape in ((), (1,)):
        return per_tensor(values.reshape(-1)[0], rows)
    if width is None or width == columns:
        return per_row(values)
    return ScaleGrid(values.reshape(rows, -1), 1, width)
