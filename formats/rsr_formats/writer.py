"""Write a `.rsr` file: sections first, as they come; the header when all sizes are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from .atomic import atomic_file
from .errors import LimitError
from .header import decode_header, encode_header
from .layout import (
    MAGIC,
    MAX_EXPANSION,
    MAX_HEADER_SIZE,
    PREAMBLE,
    FileEntry,
    Header,
    Section,
    Tensor,
    align,
)
from .validate import check_header

if TYPE_CHECKING:
    import zstandard

Bytes = bytes | memoryview
_PIECE = 8 << 20

# Of the largest level that is not "ultra": 80 MB. Level 22 would take 750, to gain nothing here.
_ZSTD_LIMITS = {"window_log": 23, "chain_log": 24, "hash_log": 23}


class RsrWriter:
    """Collects sections; `create` opens one and `finish` closes the file with its header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = file.write(bytes(PREAMBLE.size))
        self._sections: list[Section] = []
        self.finished = False

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections written so far."""
        return tuple(self._sections)

    def add(self, pieces: Iterable[Bytes], zstd_level: int | None = None) -> int:
        """Write one section from `pieces`, hashing as they pass; return its number.

        With `zstd_level` the section is compressed, unless it is empty or would exceed the limit
        on expansion (a section of zeros); then it is stored raw.
        """
        self._pad()
        if zstd_level is None:
            return self._add_raw(pieces)
        import zstandard  # only when asked for

        offset = self._position
        compressor = _compressor(zstd_level).compressobj()
        digest, size = hashlib.sha256(), 0
        for piece in pieces:
            size += memoryview(piece).nbytes
            digest.update(self._write(compressor.compress(piece)))
        digest.update(self._write(compressor.flush()))
        stored_size = self._position - offset
        if size == 0 or size > MAX_EXPANSION * stored_size:
            stored = self._read_back(offset)
            with zstandard.ZstdDecompressor().stream_reader(stored) as reader:
                return self._add_raw(iter(lambda: reader.read(_PIECE), b""))
        self._sections.append(Section(offset, stored_size, size, "zstd", digest.digest()))
        return len(self._sections) - 1

    def _add_raw(self, pieces: Iterable[Bytes]) -> int:
        offset, digest = self._position, hashlib.sha256()
        for piece in pieces:
            digest.update(self._write(piece))
        size = self._position - offset
        self._sections.append(Section(offset, size, size, "raw", digest.digest()))
        return len(self._sections) - 1

    def _write(self, piece: Bytes) -> Bytes:
        self._position += self._file.write(piece)
        return piece

    def _read_back(self, offset: int) -> bytes:
        """Take back everything written since `offset`."""
        self._file.seek(offset)
        data = self._file.read()
        self._file.seek(offset)
        self._file.truncate()
        self._position = offset
        return data

    def finish(
        self,
        *,
        producer: str,
        metadata: dict[str, str],
        files: Iterable[FileEntry],
        tensors: Iterable[Tensor],
    ) -> Header:
        """Write the header and the preamble, after checking them as a reader would.

        Raises:
            FormatError: the records break a rule of formats/SPEC.md; nothing was written.
        """
        self._pad()
        header = Header(producer, metadata, tuple(files), tuple(tensors), tuple(self._sections))
        data = encode_header(header)
        if len(data) > MAX_HEADER_SIZE:
            raise LimitError(f"header: {len(data)} bytes, the limit is {MAX_HEADER_SIZE}")
        check_header(decode_header(data), self._position)
        self._file.write(data)
        self._file.seek(0)
        digest = hashlib.sha256(data).digest()
        version = header.version()  # the lowest, so that older readers read what they can
        self._file.write(PREAMBLE.pack(MAGIC, *version, 0, self._position, len(data), digest))
        self.finished = True
        return header

    def _pad(self) -> None:
        self._write(bytes(align(self._position) - self._position))


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """Return a compressor that searches as hard as `level` says in a bounded memory."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters
    chosen = parameters.from_level(level)
    limits = {name: min(getattr(chosen, name), most) for name, most in _ZSTD_LIMITS.items()}
    return zstandard.ZstdCompressor(compression_params=parameters.from_level(level, **limits))


@contextmanager
def create(path: str | os.PathLike[str], force: bool = False) -> Iterator[RsrWriter]:
    """Create a `.rsr` file that takes its name only when the block ends without an exception.

    The block must call `finish`, as its last act.

    Raises:
        OutputExistsError: `path` exists and `force` is not set.
        OSError: the disk is full, the folder is missing, ...
    """
    with atomic_file(path, force) as file:
        writer = RsrWriter(file)
        yield writer
        if not writer.finished:
            raise RuntimeError("the block ended without RsrWriter.finish(): no file was made")
