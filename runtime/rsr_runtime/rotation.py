"""The rotated basis of some matrices: signs of columns, then Walsh-Hadamard transforms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rsr_formats import records

from . import _native
from .errors import InputShapeError
from .inputs import plain_array

FloatArray = npt.NDArray[np.float32]


class Rotation:
    """An orthogonal matrix Q = H diag(s): signs, then a Walsh-Hadamard transform of each block.

    A `Matrix` or `DenseTensor` with a rotation holds W where the model's matrix is W Q
    (formats/SPEC.md, section 9.1). Its products, rows and dense forms are those of W.
    Products with the model's matrix are `w @ w.rotation.apply(x)`, and rows of the model's matrix
    are `w.rotation.undo(w.rows(numbers))`.

    With n the columns of a block, |error| of an entry is at most (log2 n + 2) 2^-24 n^-1/2 times
    the sum of |x_i| over its block, to first order. Results are the same on every instruction set.

    Attributes:
        block: columns of a block, a power of two.
        factors: sign / sqrt(block) of each column, float32 (columns,), read-only.
    """

    def __init__(self, record: records.Rotation) -> None:
        self.block = record.block
        bits = np.unpackbits(np.frombuffer(record.signs, np.uint8), bitorder="little")
        factor = np.float32(record.block**-0.5)
        self.factors: FloatArray = np.where(bits, -factor, factor)
        self.factors.flags.writeable = False

    @property
    def columns(self) -> int:
        """Columns of a matrix in this basis."""
        return len(self.factors)

    @property
    def signs(self) -> npt.NDArray[np.int8]:
        """The signs of the columns, -1 or 1, int8 (columns,)."""
        return np.sign(self.factors).astype(np.int8)

    def apply(self, x: FloatArray) -> FloatArray:
        """Return Q x for each vector of x: what a product takes in place of x.

        Args:
            x: float32 (..., columns).

        Raises:
            InputTypeError, InputShapeError: x has another dtype or shape.
        """
        x, y = self._buffers(x)
        _native.rotate(x, self.factors, self.block, y.reshape(x.shape), None, None)
        return y

    def undo(self, x: FloatArray) -> FloatArray:
        """Return Q^T x for each vector of x: the rows of W Q from those of W.

        Args:
            x: float32 (..., columns).

        Raises:
            InputTypeError, InputShapeError: x has another dtype or shape.
        """
        x, y = self._buffers(x)
        _native.rotate_back(x, self.factors, self.block, y.reshape(x.shape))
        return y

    def _buffers(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the vectors of x as rows, and an array in the shape of x for results."""
        x = plain_array("x", x, [np.float32])
        if x.ndim == 0 or x.shape[-1] != self.columns:
            raise InputShapeError(f"x has shape {x.shape}, expected (..., {self.columns})")
        rows = np.require(x, requirements=["C", "A"]).reshape(-1, self.columns)
        return rows, np.empty(x.shape, np.float32)

    def __repr__(self) -> str:
        return f"<Rotation of {self.columns} columns in blocks of {self.block}>"
