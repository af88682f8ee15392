"""What every form is made from: the matrices of a `.rsr` file; and of: tensors in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.decode import decode_digits, row_scales
from rsr_formats.model_files import MAX_CONFIG, MAX_TOKENIZER, check_size, parse_object
from rsr_formats.records import (
    SCALE_DTYPES,
    DenseTensor,
    FileEntry,
    IndexedTensor,
    Tensor,
    dense_nbytes,
    row_scales_name,
)
from rsr_formats.validate import check_negative_zeros, check_ranks, check_scale

from ..common.errors import SourceError
from ..compiler.head import restored_panels
from ..layouts.base import Bytes, Restored
from ..layouts.scales import ScaleGrid
from ..source.tensor import PIECE

Config = dict[str, Any]


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to write: what a header says of it, and its bytes."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Bytes]]  # made when asked for, so that one is in memory at a time

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return dense_nbytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Export:
    """A model in some form: its tensors, what its config.json says now, what to tell the user."""

    tensors: Sequence[OutputTensor]
    config: Config | None = None  # None: as it is in the .rsr file
    metadata: dict[str, str] = field(default_factory=dict)  # of the safetensors file
    notes: Sequence[str] = ()


# Of a file and its config.json (None: it has none) makes the model in one form.
Form = Callable[[RsrFile, "Config | None"], Export]


def read_config(file: RsrFile) -> Config | None:
    """Return config.json as it is in a `.rsr` file, or None if there is none.

    Raises:
        SourceError: it is not a JSON object.
    """
    entry = find_file(file, "config.json")
    return None if entry is None else read_json(file, entry)


def find_file(file: RsrFile, name: str) -> FileEntry | None:
    """Return the entry of the model's file `name`, or None."""
    return next((entry for entry in file.header.files if entry.name == name), None)


def read_json(file: RsrFile, entry: FileEntry) -> Config:
    """Return a file of the model that is a JSON object.

    Raises:
        SourceError: it is none, or larger than any is.
    """
    where = f"{file.path}: {entry.name}"
    limit = MAX_CONFIG if entry.name == "config.json" else MAX_TOKENIZER
    check_size(file.header.sections[entry.section].size, where, limit, SourceError)
    return parse_object(file.section(entry.section).tobytes(), where, limit, SourceError)


def exported(file: RsrFile) -> list[Tensor]:
    """Return the tensors of a form: those of the source, but scales that belong to another.

    Layout int8 leaves them tensors of their own; an int8 head has some that are not of the source.
    """
    scales = {
        f"{t.name}_scale"
        for t in file.header.tensors
        if isinstance(t, IndexedTensor) and t.scale and t.source.layout == "int8"
    }
    return [t for t in of_source(file) if isinstance(t, IndexedTensor) or t.name not in scales]


def of_source(file: RsrFile) -> list[Tensor]:
    """Return the tensors that the source has, too."""
    dense = [t for t in file.header.tensors if isinstance(t, DenseTensor)]
    made = {row_scales_name(t.name) for t in dense if t.quantized is not None}
    made |= {t.name for t in dense if t.is_added}
    return [t for t in file.header.tensors if t.name not in made]


def of_dense(file: RsrFile, t: DenseTensor) -> OutputTensor:
    """Return a dense tensor as it is; in the source's dtype if it was quantized."""
    return OutputTensor(t.name, source_dtype(t), t.shape, lambda: dense_pieces(file, t))


def source_dtype(t: DenseTensor) -> str:
    """Return the dtype that a dense tensor has in the source."""
    return t.dtype if t.quantized is None else t.quantized.dtype


def dense_pieces(file: RsrFile, t: DenseTensor) -> Iterable[Bytes]:
    """Return the bytes of a dense tensor, as what was kept of it if it was quantized."""
    return [file.section(t.section)] if t.quantized is None else restored_panels(file, t)


def of_array(name: str, dtype: str, array: npt.NDArray[Any]) -> OutputTensor:
    """Return a small tensor, whole."""
    return OutputTensor(name, dtype, array.shape, lambda: [as_bytes(array)])


def as_bytes(array: npt.NDArray[Any]) -> Bytes:
    """Return the bytes of an array, row by row."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def read_scales(file: RsrFile, t: IndexedTensor) -> ScaleGrid | None:
    """Return the scales of a matrix, checked, without decoding its index."""
    if t.scale is None:
        return None
    scale = file.section(t.scale.section).view(SCALE_DTYPES[t.scale.dtype])
    check_scale(t, scale)
    values = scale.astype(np.float32).reshape(t.groups if t.is_grouped else 1, -1).T
    return ScaleGrid(values, t.scale.rows, t.scale.columns)


def decode(file: RsrFile, t: IndexedTensor) -> Restored:
    """Return the digits of a matrix, its scales and its negative zeros, all checked.

    Raises:
        IndexDataError: the index holds what is no digit.
    """
    arrays = file.index_arrays(t)
    if t.encoding == "ranked":
        check_ranks(t, arrays["ranks"])
    zeros = None
    if t.source.negative_zeros is not None:
        zeros = file.section(t.source.negative_zeros)
        check_negative_zeros(t, arrays, zeros)
    # Without columns nothing is scaled, and a few bytes can claim two thousand million rows.
    scale = None if t.scale is None or not t.shape[1] else row_scales(t, arrays["scale"])
    return Restored(t, decode_digits(t, arrays), scale, zeros)


def row_windows(shape: tuple[int, int]) -> Iterator[slice]:
    """Cut the rows of a matrix into windows of about a million entries; an empty one has none."""
    rows, columns = shape
    if columns:
        step = max(1, PIECE // columns)
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows))
