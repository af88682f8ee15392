"""Read a part of a file on the Hub as if the file were on this machine."""

from __future__ import annotations

import time
from collections.abc import Generator
from io import RawIOBase
from typing import TYPE_CHECKING

from ...common.errors import SourceError
from .explained import UnreachableError
from .repository import Repository

if TYPE_CHECKING:
    from typing_extensions import Buffer

TRIES = 5  # without a byte received


class RangeReader(RawIOBase):
    """The bytes `start` to `stop` - 1 of a file, in one request if the connection holds.

    Args:
        repository: of the file.
        file: its path.
        start: position of the first byte.
        stop: position after the last byte.
    """

    def __init__(self, repository: Repository, file: str, start: int, stop: int) -> None:
        super().__init__()
        self._chunks = _chunks(repository, file, start, stop)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """Read up to the size of `buffer`; return how many bytes, 0 at the end.

        Raises:
            SourceError: the Hub does not send them.
        """
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        into = memoryview(buffer).cast("B")
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """End the request."""
        self._chunks.close()
        super().close()


def _chunks(
    repository: Repository, file: str, start: int, stop: int
) -> Generator[bytes, None, None]:
    """Yield the bytes in pieces. A connection that breaks off is continued where it broke."""
    tries = 0
    while start < stop:
        try:
            with repository.stream(file, start, stop) as response:
                found = response.headers.get("Content-Range", "")
                if response.status_code != 206 or not found.startswith(f"bytes {start}-"):
                    raise SourceError(
                        f"{repository.name}: the Hub sends all of {file} where a part was "
                        "requested: compile without --no-cache"
                    )
                begin = start
                for chunk in response.iter_bytes():
                    start, tries = start + len(chunk), 0
                    yield chunk
                if start == begin:
                    raise UnreachableError(
                        repository.name, f"the Hub sends no byte of {file}", "try again later"
                    )
        except UnreachableError:
            tries += 1
            if tries == TRIES:
                raise
            time.sleep(tries)
