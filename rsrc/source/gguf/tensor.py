"""A tensor of a GGUF file: its bytes as stored, or dequantized to float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from rsr_formats.numerics import widen_bf16

from ...common.arrays import ByteArray
from ...common.errors import SourceError
from ..tensor import PIECE, ConvertedTensor, SourceTensor
from .names import hf_rows
from .types import Codec, GgmlType, Scales

_PANEL = PIECE // 16  # bytes; small enough to stay in the L2 cache
Floats = npt.NDArray[np.float32]


# What Hugging Face stores in place of a tensor of GGUF, by name.
VALUES: dict[str, Callable[[Floats], Floats]] = {
    "x - 1": lambda x: x - np.float32(1),
    "log(-x)": lambda x: np.log(-x),
}


@dataclass(frozen=True)
class Order:
    """Units of neighboring rows or columns: unit i of Hugging Face is `units[i]` of the file."""

    start: int  # the first of unit 0; those before it are in the same order
    size: int
    units: tuple[int, ...]

    @property
    def total(self) -> int:
        """Rows or columns of the tensor."""
        return self.start + self.size * len(self.units)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First and number of neighbors in the file, in the order of Hugging Face."""
        units = [(self.start + self.size * i, self.size) for i in self.units]
        return [(0, self.start), *units] if self.start else units

    @property
    def sources(self) -> npt.NDArray[np.intp]:
        """The row or column of Hugging Face of each one in the file, (total,)."""
        units = np.argsort(self.units)
        moved = self.start + self.size * units[:, None] + np.arange(self.size)
        return np.concatenate([np.arange(self.start), moved.reshape(-1)])


@dataclass(frozen=True)
class GgufTensor(ConvertedTensor):
    """A tensor of a GGUF file, with its rows and columns in the order of Hugging Face.

    `dtype` is the dtype of plain elements; or the name of a block type, if `read` and `pieces`
    return its blocks; or F32, if they dequantize a block type, multiply by `factor`, or apply
    `value`.

    Attributes:
        kind: the type in the file.
        heads: over how many heads the file permutes the rows, None if it does not; see
            `names.permuted_heads`.
        factor: multiplies every weight, in float64; None is 1. Blocks are read without it.
        value: a function in `VALUES` of the stored values; "" for these themselves.
        rows: order of the rows, None if it is that of the file.
        columns: order of the columns, whole blocks unless they are dequantized; None as for rows.
    """

    kind: GgmlType
    heads: int | None = None
    factor: float | None = None
    value: str = ""
    rows: Order | None = None
    columns: Order | None = None

    @property
    def codec(self) -> Codec | None:
        """The codec of the blocks, if `read` returns blocks of a ternary or binary type."""
        return None if self._is_dequantized else self.kind.codec

    @property
    def origin(self) -> str | None:
        """The type in the file if `read` dequantizes it, else None."""
        return self.kind.name if self._is_dequantized and self.dtype != self.kind.dtype else None

    @property
    def form(self) -> tuple[object, ...]:
        """See SourceTensor: also the type in the file."""
        return *super().form, self.kind

    @property
    def stored_nbytes(self) -> int:
        """ByteArray in the file."""
        return self.kind.nbytes(self.shape)

    @property
    def dense(self) -> SourceTensor:
        """The tensor with plain elements: dequantized if it has blocks."""
        return self if self.codec is None else dequantized(self)

    @property
    def _is_dequantized(self) -> bool:
        is_changed = self.kind.dtype is None or self.factor is not None or bool(self.value)
        return is_changed and self.dtype == "F32"

    @property
    def _is_as_stored(self) -> bool:
        in_order = self.heads is None and self.rows is None and self.columns is None
        return in_order and not self._is_dequantized

    def read(self, buffer: ByteArray | None = None) -> ByteArray:
        """Read all bytes; see SourceTensor.

        Raises:
            SourceError: the file became shorter after it was opened, or dequantizing needs the gguf
                package.
        """
        if self._is_as_stored:
            return SourceTensor.read(self, buffer)
        return super().read(buffer)

    def pieces(self, size: int = PIECE) -> Iterator[memoryview]:
        """Read the bytes in pieces of `size`; see SourceTensor.

        Raises:
            SourceError: as `read`.
        """
        if self._is_as_stored:
            return SourceTensor.pieces(self, size)
        return super().pieces(size)

    def panels(self) -> Iterator[ByteArray]:
        """Read the tensor from front to back, some rows or some heads at a time."""
        kind = self.kind
        if not self.nbytes:
            return
        if self.heads is not None or self.rows is not None or self.columns is not None:
            rows, row_bytes = self.shape[0], kind.row_bytes(prod(self.shape[1:]))
            head = rows // self.heads if self.heads is not None else 1
            step = head * max(1, _PANEL // (head * row_bytes))
        else:  # a row header belongs to a row; other blocks can be read in any number
            columns = self.shape[-1] if kind.row_header else kind.block
            rows = prod(self.shape) // max(1, columns)
            row_bytes = kind.row_bytes(columns)
            step = max(1, _PANEL // row_bytes)
        with self.path.open("rb", buffering=0) as file:
            tail = np.empty(kind.tail, np.uint8)
            file.seek(self.offset + rows * row_bytes)
            self._fill(tail, file)
            runs = [(0, rows)] if self.rows is None else self.rows.runs
            for begin, count in runs:
                file.seek(self.offset + begin * row_bytes)
                for first in range(0, count, step):
                    data = np.empty((min(step, count - first), row_bytes), np.uint8)
                    self._fill(data.reshape(-1), file)
                    if self.heads is not None:
                        data = data[hf_rows(len(data), len(data) // head)]
                    if self._is_dequantized:
                        data = self._values(data, tail).reshape(len(data), -1)
                    yield (data if self.columns is None else self._reordered(data)).reshape(-1)
        if not self._is_dequantized:
            yield tail

    def _reordered(self, rows: ByteArray) -> ByteArray:
        """Put the columns of rows, as bytes, in the order of Hugging Face."""
        assert self.columns is not None
        units = rows.reshape(len(rows), self.columns.total // self.columns.size, -1)
        return units[:, self.columns.units]

    def _values(self, rows: ByteArray, tail: ByteArray) -> ByteArray:
        """Dequantize rows of blocks to the bytes of float32 values."""
        with np.errstate(all="ignore"):  # values and scales may be infinite or NaN
            values = self._unscaled(rows, tail)
            if self.factor is not None:
                values = (values * np.float64(self.factor)).astype(np.float32)
            if self.value:
                values = VALUES[self.value](values)
        return values.view(np.uint8)

    def _unscaled(self, rows: ByteArray, tail: ByteArray) -> npt.NDArray[np.float32]:
        codec = self.kind.codec
        if self.kind.dtype is not None:
            flat = rows.reshape(-1)
            if self.kind.dtype == "BF16":
                return widen_bf16(flat.view("<u2"))
            return flat.view(f"<f{self.kind.block_bytes}").astype(np.float32)
        if codec is None:
            return _dequantize_by_gguf(self, rows)
        blocks = rows[:, self.kind.row_header :].reshape(-1, self.kind.block_bytes)
        codes = codec.decode(blocks)
        values = np.array([*codec.digits, 2], np.float32)[codes]  # code 3 may be the weight +2
        scales = scales_of(self.kind, codec, rows, tail)
        return (values.reshape(len(scales), -1) * scales[:, None]).reshape(-1)


def dequantized(tensor: GgufTensor) -> GgufTensor:
    """Return the tensor as float32 values."""
    return replace(tensor, dtype="F32", nbytes=4 * prod(tensor.shape))


def scales_of(kind: GgmlType, codec: Codec, rows: ByteArray, tail: ByteArray) -> Scales:
    """Return the scales of some rows, float32 (n,): one per block, per row, or per tensor.

    Args:
        kind: the type of the tensor.
        codec: its codec.
        rows: uint8 (rows, row bytes).
        tail: uint8 (kind.tail,), the bytes after the last row of the tensor.
    """
    if kind.tail:
        return codec.scales(tail[None])
    if kind.row_header:
        return codec.scales(rows)
    return codec.scales(rows.reshape(-1, kind.block_bytes))


def _dequantize_by_gguf(tensor: GgufTensor, rows: ByteArray) -> npt.NDArray[np.float32]:
    """Dequantize with the gguf package; it is faster on one long row than on many short ones."""
    try:
        import gguf
    except ImportError:
        raise SourceError(
            f"{tensor.name}: dequantizing its type, {tensor.kind.name}, needs the gguf package: "
            "pip install 'rsr-ternary[gguf]'"
        ) from None
    try:
        with np.errstate(all="ignore"):
            values = gguf.quants.dequantize(
                rows.reshape(1, -1), gguf.GGMLQuantizationType[tensor.kind.name]
            )
    except (KeyError, NotImplementedError):
        raise SourceError(
            f"{tensor.name}: the installed gguf package cannot dequantize its type, "
            f"{tensor.kind.name}: pip install --upgrade gguf"
        ) from None
    return np.ascontiguousarray(values, np.float32).reshape(-1)
