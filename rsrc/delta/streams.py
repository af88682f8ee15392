"""Contents of sections in pieces of the sizes that are asked for, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rsr_formats.errors import TruncatedError

from ..common.arrays import ByteArray
from .records import MARGIN


class Contents:
    """Reads pieces of any sizes as pieces of other sizes.

    Args:
        pieces: the bytes in order, as `RsrFile.pieces` yields them.
    """

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._held = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes, or those that are left."""
        if len(self._held) >= size > 0:  # without a copy
            taken, self._held = self._held[:size], self._held[size:]
            return taken
        found, length = [], 0
        while length < size:
            if not len(self._held):
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._held = piece
            found.append(self._held[: size - length])
            self._held = self._held[size - length :]
            length += len(found[-1])
        return found[0] if len(found) == 1 else memoryview(b"".join(found))

    def array(self, size: int) -> ByteArray:
        """Return the next `size` bytes as an array."""
        return np.frombuffer(self.take(size), np.uint8)

    def end(self) -> None:
        """Read what is left: `RsrFile.pieces` checks the hash behind its last piece."""
        for _ in self._pieces:
            pass


class Surroundings:
    """Reads the bytes of an old section around positions that rise.

    Args:
        pieces: the bytes of the section in order.
    """

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._contents = Contents(pieces)
        self._first, self._held = 0, b""

    def near(self, start: int, size: int) -> bytes:
        """Return the bytes from `MARGIN` before `start` to `MARGIN` behind `start` + `size`."""
        low, high = max(0, start - MARGIN), start + size + MARGIN
        missing = high - self._first - len(self._held)
        self._held = (self._held + self._contents.take(missing))[max(0, low - self._first) :]
        self._first = max(self._first, low)
        return self._held


class Cursor:
    """Takes bytes from the beginning of what is left.

    Args:
        data: all bytes.
    """

    def __init__(self, data: memoryview) -> None:
        self.left = data

    def take(self, size: int, what: str) -> memoryview:
        """Return the next `size` bytes, which are `what`.

        Raises:
            TruncatedError: fewer are left.
        """
        if size > len(self.left):
            raise TruncatedError(f"{what}: {size} bytes expected, {len(self.left)} are left")
        taken, self.left = self.left[:size], self.left[size:]
        return taken
