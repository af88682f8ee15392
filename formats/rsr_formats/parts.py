"""Read parts of a file from several threads, and copy them to another file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader, RawIOBase
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from .errors import TruncatedError

_PIECE = 1 << 20  # bytes


class FileParts:
    """A file of which several threads read parts. Nothing is mapped, so nothing stays in memory.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._lock = Lock()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def part(self, offset: int, size: int) -> BinaryIO:
        """Return `size` bytes from `offset` on as a file of their own."""
        return BufferedReader(_Part(self, offset, size))

    def pieces(self, offset: int, size: int) -> Iterator[memoryview]:
        """Read `size` bytes from `offset` on.

        All pieces share one buffer: a piece is valid until the next one is requested.

        Raises:
            TruncatedError: the file ends before.
            OSError: reading failed.
        """
        buffer = memoryview(bytearray(min(_PIECE, size)))
        part = _Part(self, offset, size)
        while count := part.readinto(buffer):
            yield buffer[:count]

    def copy(self, offset: int, size: int, target: BinaryIO) -> None:
        """Copy bytes to the current position of `target`, and advance it.

        Linux copies them in the kernel. File systems that can (Btrfs, XFS) share the blocks.

        Raises:
            TruncatedError: the file ends before.
            OSError: reading or writing failed.
        """
        done = self._copy_in_kernel(offset, size, target)
        for piece in self.pieces(offset + done, size - done):
            target.write(piece)

    def read_at(self, offset: int, buffer: memoryview) -> int:
        """Read bytes from `offset` on into `buffer`; return their number.

        Raises:
            TruncatedError: the file has none.
        """
        if sys.platform == "linux":
            count = os.preadv(self._file.fileno(), [buffer], offset)
        else:
            with self._lock:
                self._file.seek(offset)
                count = self._file.readinto(buffer) or 0
        if not count:
            raise TruncatedError(f"{self._path}: truncated: it became shorter while it was read")
        return count

    def _copy_in_kernel(self, offset: int, size: int, target: BinaryIO) -> int:
        """Copy as many bytes as the system takes; return their number."""
        done = 0
        # A Python that was built for an older C library lacks the call.
        if sys.platform == "linux" and hasattr(os, "copy_file_range"):
            target.flush()
            start = target.tell()
            files = self._file.fileno(), target.fileno()
            with suppress(OSError):  # another file system, an old kernel; a real error recurs
                while done < size:
                    count = os.copy_file_range(*files, size - done, offset + done, start + done)
                    if not count:
                        break
                    done += count
            target.seek(start + done)
        return done


class _Part(RawIOBase):
    """Some bytes of a file, from front to back."""

    def __init__(self, file: FileParts, offset: int, size: int) -> None:
        self._file, self._offset, self._left = file, offset, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._file.read_at(self._offset, view) if view else 0
        self._offset += count
        self._left -= count
        return count
