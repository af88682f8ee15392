"""A tensor of a source: where its bytes lie, and how to read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import numpy as np

from ..common.arrays import ByteArray
from ..common.errors import SourceError

PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of a source file, in row-major order and little-endian.

    Attributes:
        name: as Hugging Face spells it.
        dtype: as safetensors spells it; in GGUF files also a block type.
        shape: (out_features, in_features) of a weight.
        path: the file.
        offset: where its bytes begin in the file.
        nbytes: how many bytes `read` returns.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def dense(self) -> SourceTensor:
        """The tensor as a `.rsr` file stores it if it stays dense."""
        return self

    @property
    def origin(self) -> str | None:
        """The dtype in the file if `read` converts it to `dtype`, else None."""
        return None

    @property
    def form(self) -> tuple[object, ...]:
        """All but the bytes that `read` returns that decides which values they stand for."""
        return self.dtype, self.shape

    @property
    def stored_nbytes(self) -> int:
        """ByteArray in the file; differs from `nbytes` if `read` converts."""
        return self.nbytes

    def open(self) -> RawIOBase:
        """Open the file at the first byte of the tensor. The caller closes it."""
        file = self.path.open("rb", buffering=0)
        file.seek(self.offset)
        return file

    def read(self, buffer: ByteArray | None = None) -> ByteArray:
        """Read all bytes. They are not mapped: mapped pages would stay in memory.

        Args:
            buffer: where to put them, of at least `nbytes`; None allocates memory.

        Returns:
            uint8 (nbytes,).

        Raises:
            SourceError: the file became shorter after it was opened.
        """
        data = np.empty(self.nbytes, np.uint8) if buffer is None else buffer[: self.nbytes]
        with self.open() as file:
            self._fill(data, file)
        return data

    def pieces(self, size: int = PIECE) -> Iterator[memoryview]:
        """Read the bytes in pieces of `size`; the last piece may be shorter.

        All pieces share one buffer: a piece is valid until the next one is requested.

        Raises:
            SourceError: the file became shorter after it was opened.
        """
        data = np.empty(min(size, self.nbytes), np.uint8)
        with self.open() as file:
            for start in range(0, self.nbytes, size):
                piece = data[: self.nbytes - start]
                self._fill(piece, file)
                yield piece.data

    def _fill(self, data: ByteArray, file: RawIOBase) -> None:
        left = data.data
        while left:  # one call may read less
            count = file.readinto(left)
            if not count:
                raise SourceError(
                    f"{self.path}: the file ended while tensor {self.name!r} was read"
                )
            left = left[count:]


class ConvertedTensor(SourceTensor, ABC):
    """A tensor whose bytes follow from what the file holds."""

    @abstractmethod
    def panels(self) -> Iterator[ByteArray]:
        """Yield all bytes from front to back, uint8 (n,) each, some rows at a time."""

    def read(self, buffer: ByteArray | None = None) -> ByteArray:
        """Read all bytes; see SourceTensor."""
        data = np.empty(self.nbytes, np.uint8) if buffer is None else buffer[: self.nbytes]
        position = 0
        for panel in self.panels():
            data[position : position + len(panel)] = panel
            position += len(panel)
        return data

    def pieces(self, size: int = PIECE) -> Iterator[memoryview]:
        """Read the bytes in pieces of `size`; see SourceTensor."""
        piece = np.empty(min(size, self.nbytes), np.uint8)
        filled = 0
        for panel in self.panels():
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
