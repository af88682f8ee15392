"""Read and decode the tensors of a `.rsr` file, and describe tensors to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.decode import decode_digits, row_scales
from rsr_formats.records import (
    NUMPY_DTYPES,
    DenseTensor,
    IndexedTensor,
    Tensor,
    dense_nbytes,
    row_scales_name,
)
from rsr_formats.validate import check_negative_zeros, check_ranks, check_scale

from ..common.arrays import ByteArray
from ..compiler.head import restored_panels
from ..layouts.base import Restored
from ..layouts.float_bits import row_blocks
from ..layouts.scales import ScaleGrid
from ..source.tensor import PIECE
from .model_files import Config


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to write."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[ByteArray]]  # called when written, for one tensor at a time
    magnitudes: npt.NDArray[np.float32] | None = None  # of its values but 0; None if not known

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return dense_nbytes(self.dtype, self.shape)

    def read(self) -> ByteArray:
        """Return the pieces joined, without a copy where there is one piece."""
        pieces = list(self.pieces())
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.uint8), *pieces])


@dataclass(frozen=True)
class Export:
    """A model in one form."""

    tensors: Sequence[OutputTensor]
    config: Config | None  # config.json; the same object as the .rsr file's if unchanged
    notes: Sequence[str] = ()  # sentences for the user: what the form changed


# export(.rsr file, its config.json or None)
Form = Callable[[RsrFile, "Config | None"], Export]


def source_tensors(file: RsrFile) -> list[Tensor]:
    """Return the tensors that the source has: not an int8 head's scales, nor an added head."""
    dense = [t for t in file.header.tensors if isinstance(t, DenseTensor)]
    added = {row_scales_name(t.name) for t in dense if t.quantized is not None}
    added |= {t.name for t in dense if t.is_added}
    return [t for t in file.header.tensors if t.name not in added]


def model_tensors(file: RsrFile) -> list[Tensor]:
    """Return the source's tensors without scales that an indexed tensor has already.

    Layout int8 also keeps large scales as dense tensors.
    """
    scales = {
        f"{t.name}_scale"
        for t in file.header.tensors
        if isinstance(t, IndexedTensor) and t.scale and t.source.layout == "int8"
    }
    return [t for t in source_tensors(file) if isinstance(t, IndexedTensor) or t.name not in scales]


def convert_matrices(
    file: RsrFile, convert: Callable[[IndexedTensor], Iterable[OutputTensor]]
) -> list[OutputTensor]:
    """Return the tensors of a model, each matrix converted and dense tensors as they are."""
    tensors: list[OutputTensor] = []
    for t in model_tensors(file):
        tensors += convert(t) if isinstance(t, IndexedTensor) else [dense_tensor(file, t)]
    return tensors


def source_dtype(t: DenseTensor) -> str:
    """Return the dtype of a dense tensor in the source."""
    return t.dtype if t.quantized is None else t.quantized.dtype


def dense_tensor(file: RsrFile, t: DenseTensor) -> OutputTensor:
    """Return a dense tensor in the source's dtype; an int8 head is dequantized."""

    def pieces() -> Iterable[ByteArray]:
        return [file.section(t.section)] if t.quantized is None else restored_panels(file, t)

    return OutputTensor(t.name, source_dtype(t), t.shape, pieces)


def as_bytes(array: npt.NDArray[Any]) -> ByteArray:
    """Return the bytes of an array, row-major."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def read_scales(file: RsrFile, t: IndexedTensor) -> ScaleGrid | None:
    """Return the scales of a matrix without decoding its index, or None if it has none.

    Raises:
        IndexDataError: a scale is not finite.
    """
    if t.scale is None:
        return None
    scale = file.section(t.scale.section).view(NUMPY_DTYPES[t.scale.dtype])
    check_scale(t, scale)
    values = scale.astype(np.float32).reshape(t.groups if t.is_grouped else 1, -1).T
    return ScaleGrid(values, t.scale.rows, t.scale.columns)


def decode(file: RsrFile, t: IndexedTensor) -> Restored:
    """Return the digits, scales and negative zeros of a matrix.

    Raises:
        IndexDataError: the index does not decode to digits, or a scale is not finite.
    """
    arrays = file.index_arrays(t)
    if t.encoding == "ranked":
        check_ranks(t, arrays["ranks"])
    zeros = None
    if t.source.negative_zeros is not None:
        zeros = file.section(t.source.negative_zeros)
        check_negative_zeros(t, arrays, zeros)
    # A matrix without columns may claim 2^31 rows in a few bytes; it needs no scales.
    scale = None if t.scale is None or not t.shape[1] else row_scales(t, arrays["scale"])
    return Restored(t, decode_digits(t, arrays), scale, zeros)


def value_pieces(
    file: RsrFile, t: IndexedTensor, values: npt.NDArray[np.generic]
) -> Iterator[ByteArray]:
    """Yield the bytes of a matrix in row blocks: values[d] for each digit d."""
    digits = decode(file, t).digits
    for rows in row_blocks(t.shape, PIECE):
        yield as_bytes(values[digits[rows]])
