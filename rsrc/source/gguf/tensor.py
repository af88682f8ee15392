"""A tensor of a GGUF file: its bytes as they lie there, or as the floats they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from ...common.errors import SourceError
from ..checkpoint import PIECE, SourceTensor
from .names import hf_rows
from .types import Bytes, Codec, GgmlType, Scales

_PANEL = PIECE // 16  # bytes: what is worked on stays near the processor
_WEIGHTS = np.array([-1, 0, 1, 2], np.float32)  # of codes


@dataclass(frozen=True)
class GgufTensor(SourceTensor):
    """A tensor with the rows of Hugging Face's, whatever the file's order.

    `dtype` is that of its elements; or the name of its block type, whose bytes `read` and `pieces`
    then give; or F32 where they dequantize a block type.
    """

    kind: GgmlType
    heads: int | None = None  # whose rows the file has in another order: names.permuted_heads

    @property
    def codec(self) -> Codec | None:
        """How blocks hold digits, if the bytes are blocks of a ternary or binary type."""
        return None if self._is_dequantized else self.kind.codec

    @property
    def origin(self) -> str | None:
        """The type in the file, where it is dequantized."""
        return self.kind.name if self._is_dequantized else None

    @property
    def stored_nbytes(self) -> int:
        """Bytes in the file."""
        return self.kind.nbytes(self.shape)

    @property
    def dense(self) -> SourceTensor:
        """The tensor with elements that have a name outside GGUF."""
        return self if self.codec is None else dequantized(self)

    @property
    def _is_dequantized(self) -> bool:
        return self.kind.dtype is None and self.dtype == "F32"

    def read(self, buffer: Bytes | None = None) -> Bytes:
        """Return all bytes; see SourceTensor.

        Raises:
            SourceError: the file got shorter since it was opened, or the gguf package is needed.
        """
        if not self._is_dequantized and self.heads is None:
            return super().read(buffer)
        data = np.empty(self.nbytes, np.uint8) if buffer is None else buffer[: self.nbytes]
        position = 0
        for panel in self._panels():
            data[position : position + len(panel)] = panel
            position += len(panel)
        return data

    def pieces(self, size: int = PIECE) -> Iterator[memoryview]:
        """Give the bytes in pieces of `size`; see SourceTensor.

        Raises:
            SourceError: the file got shorter since it was opened, or the gguf package is needed.
        """
        if not self._is_dequantized and self.heads is None:
            yield from super().pieces(size)
            return
        piece = np.empty(min(size, self.nbytes), np.uint8)
        filled = 0
        for panel in self._panels():
            rest = panel
            while len(rest):
                part = rest[: len(piece) - filled]
                piece[filled : filled + len(part)] = part
                filled += len(part)
                rest = rest[len(part) :]
                if filled == len(piece):
                    yield piece.data
                    filled = 0
        if filled:
            yield piece[:filled].data

    def _panels(self) -> Iterator[Bytes]:
        """Read the file in order, a few rows or the rows of a few heads at a time."""
        kind = self.kind
        if not self.nbytes:  # of any number of rows
            return
        if self.heads is not None:
            rows, row_bytes = self.shape[0], kind.row_bytes(prod(self.shape[1:]))
            head = rows // self.heads
            step = head * max(1, _PANEL // (head * row_bytes))
        else:  # rows do not matter, but for a header
            columns = self.shape[-1] if kind.row_header else kind.block
            rows = prod(self.shape) // max(1, columns)
            row_bytes = kind.row_bytes(columns)
            step = max(1, _PANEL // row_bytes)
        with self.path.open("rb", buffering=0) as file:
            tail = np.empty(kind.tail, np.uint8)
            file.seek(self.offset + rows * row_bytes)
            self._fill(tail, file)
            file.seek(self.offset)
            for first in range(0, rows, step):
                data = np.empty((min(step, rows - first), row_bytes), np.uint8)
                self._fill(data.reshape(-1), file)
                if self.heads is not None:
                    data = data[hf_rows(len(data), len(data) // head)]
                yield (self._values(data, tail) if self._is_dequantized else data).reshape(-1)
        if not self._is_dequantized:
            yield tail

    def _values(self, rows: Bytes, tail: Bytes) -> Bytes:
        """Return the floats of rows as bytes."""
        codec = self.kind.codec
        if codec is None:
            return _by_the_package(self, rows).view(np.uint8)
        blocks = rows[:, self.kind.row_header :].reshape(-1, self.kind.block_bytes)
        codes = codec.decode(blocks)
        values = (
            np.array(codec.digits, np.float32)[codes] if len(codec.digits) == 2 else _WEIGHTS[codes]
        )
        scales = scales_of(self.kind, codec, rows, tail)
        with np.errstate(all="ignore"):  # infinite and NaN scales give what they give
            values = values.reshape(len(scales), -1) * scales[:, None]
        return values.reshape(-1).view(np.uint8)


def dequantized(tensor: GgufTensor) -> GgufTensor:
    """Return the tensor as the float32 values that its blocks stand for."""
    return replace(tensor, dtype="F32", nbytes=4 * prod(tensor.shape))


def scales_of(kind: GgmlType, codec: Codec, rows: Bytes, tail: Bytes) -> Scales:
    """Return the scales of rows of blocks in order: one of each block, of each row, or of all.

    Args:
        kind: of the tensor.
        codec: of the type.
        rows: (rows, row bytes).
        tail: what lies behind the last row.
    """
    if kind.tail:
        return codec.scales(tail[None])
    if kind.row_header:
        return codec.scales(rows)
    return codec.scales(rows.reshape(-1, kind.block_bytes))


def _by_the_package(tensor: GgufTensor, rows: Bytes) -> npt.NDArray[np.float32]:
    """Dequantize by the gguf package; one row is faster than many short ones."""
    try:
        import gguf
    except ImportError:
        raise SourceError(
            f"{tensor.name}: its type is {tensor.kind.name}, and what dequantizes that is not "
            "installed: pip install 'rsr-ternary[gguf]'"
        ) from None
    try:
        with np.errstate(all="ignore"):
            values = gguf.quants.dequantize(
                rows.reshape(1, -1), gguf.GGMLQuantizationType[tensor.kind.name]
            )
    except (KeyError, NotImplementedError):
        raise SourceError(
            f"{tensor.name}: its type is {tensor.kind.name}, which the installed gguf package does "
            "not dequantize: pip install --upgrade gguf"
        ) from None
    return np.ascontiguousarray(values, np.float32).reshape(-1)
