"""A tensor of a GGUF file that is to be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocks import TYPES

Array = npt.NDArray[Any]

NUMPY = {
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
    "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
}  # fmt: skip
# The numbers of plain types in a file's tensor table.
_NUMBERS = {"F32": 0, "F16": 1, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "BF16": 30}


@dataclass(frozen=True)
class GgufOutput:
    """A tensor to write."""

    name: str
    kind: str  # its type, as ggml names it
    shape: tuple[int, ...]
    data: Callable[[], Array]  # of shape `stored_shape`; called when written
    scale: float | None = None  # the one scale of a matrix, which its blocks hold rounded

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the data: for types with blocks, a row has bytes instead of weights."""
        if self.kind not in TYPES:
            return self.shape
        block = TYPES[self.kind]
        return (*self.shape[:-1], self.shape[-1] // block.weights * block.nbytes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the data."""
        return np.dtype(NUMPY.get(self.kind, np.uint8))

    @property
    def number(self) -> int:
        """The number of its type in a file's tensor table."""
        return TYPES[self.kind].number if self.kind in TYPES else _NUMBERS[self.kind]

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return int(np.prod(self.stored_shape, dtype=np.int64)) * self.dtype.itemsize
