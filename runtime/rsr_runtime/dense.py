"""A dense tensor of a `.rsr` file, as stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rsr_formats.numerics import widen_bf16
from rsr_formats.records import DTYPE_BITS, FLOAT_DTYPES, NUMPY_DTYPES

from .errors import InputTypeError, OptionError
from .rotation import Rotation

# BF16 and the 8-bit floats, which NumPy lacks, are viewed as their bits; 4- and 6-bit floats do not
# fill whole bytes and stay packed.
_VIEWS = {**NUMPY_DTYPES, "BF16": "<u2"}


@dataclass(frozen=True, eq=False, repr=False)
class DenseTensor:
    """A tensor that is not indexed.

    Attributes:
        name: its name in the file.
        dtype: its data type as the file names it: "BF16", "F16", "F32", "I8", ...
        shape: its shape.
        data: the stored values, read-only and not copied, of shape `shape`. BF16 is uint16 and
            8-bit floats are uint8, both as bits. 4- and 6-bit floats are packed: uint8 (nbytes,).
        rotation: the basis that the columns of a matrix are stored in, see `Rotation`; None if it
            is the model's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any]
    rotation: Rotation | None = None

    @classmethod
    def from_bytes(
        cls,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        data: npt.NDArray[np.uint8],
        rotation: Rotation | None = None,
    ) -> DenseTensor:
        """Return the tensor whose stored bytes are `data`, uint8 (nbytes,), as a view of them."""
        if DTYPE_BITS[dtype] >= 8:
            data = data.view(_VIEWS.get(dtype, "u1")).reshape(shape)
        return cls(name, dtype, shape, data, rotation)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"DenseTensor({self.name!r}, {shape}, {self.dtype})"

    def __array__(self, *arguments: object, **options: object) -> NoReturn:
        """Refuse to become an array, because BF16 and 8-bit floats are stored as bits.

        Raises:
            InputTypeError: always.
        """
        raise InputTypeError(
            f"{self.name!r} is a DenseTensor, not an array: use .to_float32() for its values as "
            "float32, and .data for what is stored"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.data.nbytes

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays a product reads."""
        return (self.data,)

    def to_float32(self) -> npt.NDArray[np.float32]:
        """Return the values as float32, exactly: a read-only copy unless stored as F32.

        Raises:
            OptionError: the dtype is not BF16, F16 or F32.
        """
        if self.dtype not in FLOAT_DTYPES:
            raise OptionError(
                f"to_float32: {self.name!r} is {self.dtype}, expected BF16, F16 or F32"
            )
        wide = widen_bf16(self.data) if self.dtype == "BF16" else self.data
        values = np.asarray(wide, np.float32).reshape(self.shape)  # widening () gives a scalar
        values.flags.writeable = False
        return values
