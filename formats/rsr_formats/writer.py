"""Write a `.rsr` file: sections first, as they come; the header when all sizes are known."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from .atomic import atomic_file
from .errors import LimitError
from .header import decode_header, encode_header
from .records import (
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


@dataclass(frozen=True)
class Packed:
    """A section made elsewhere: what `RsrWriter.append` writes as it is."""

    pieces: tuple[Bytes, ...]  # of the stored bytes
    section: Section  # at offset 0

    def __reduce__(self) -> tuple[Any, ...]:  # views cannot travel to another process
        return Packed, ((b"".join(self.pieces),), self.section)


def pack(pieces: Iterable[Bytes], zstd_level: int | None = None) -> Packed:
    """Make a section in memory, the same as `RsrWriter.add` writes; it keeps raw pieces."""
    packer = _Packer(zstd_level)
    stored = [packer.feed(piece) for piece in pieces]
    stored.append(packer.flush())
    if packer.is_refused:
        return pack(_decompressed(b"".join(stored)))
    return Packed(tuple(stored), packer.section(0))


class _Packer:
    """What becomes of a section's bytes on their way: compressed, counted, hashed."""

    def __init__(self, level: int | None, thread: ThreadPoolExecutor | None = None) -> None:
        self._compressor = None if level is None else _compressor(level).compressobj()
        self._digest = _Digest(thread)
        self._size = self._stored_size = 0

    def feed(self, piece: Bytes) -> Bytes:
        """Return what is to be stored for `piece`, as far as it is known by now."""
        self._size += memoryview(piece).nbytes
        return self._store(piece if self._compressor is None else self._compressor.compress(piece))

    def flush(self) -> Bytes:
        """Return what is to be stored behind that of the last piece."""
        return self._store(b"" if self._compressor is None else self._compressor.flush())

    def _store(self, data: Bytes) -> Bytes:
        self._stored_size += memoryview(data).nbytes
        self._digest.update(data)
        return data

    @property
    def is_refused(self) -> bool:
        """Whether readers would refuse the section as compressed: it must be stored raw."""
        if self._compressor is None:
            return False
        return self._size == 0 or self._size > MAX_EXPANSION * self._stored_size

    def section(self, offset: int) -> Section:
        codec = "raw" if self._compressor is None else "zstd"
        return Section(offset, self._stored_size, self._size, codec, self._digest.digest())


class _Digest:
    """SHA-256 of pieces in order, on a thread of its own where there is one."""

    _BEHIND = 8  # pieces that may be waiting, each a copy: the caller's may be overwritten

    def __init__(self, thread: ThreadPoolExecutor | None) -> None:
        self._hash = hashlib.sha256()
        self._thread = thread
        self._waiting: deque[Future[None]] = deque()

    def update(self, piece: Bytes) -> None:
        if self._thread is None:
            self._hash.update(piece)
            return
        self._waiting.append(self._thread.submit(self._hash.update, bytes(piece)))
        if len(self._waiting) > self._BEHIND:
            self._waiting.popleft().result()

    def digest(self) -> bytes:
        while self._waiting:
            self._waiting.popleft().result()
        return self._hash.digest()


class RsrWriter:
    """Collects sections; `create` opens one and `finish` closes the file with its header.

    Args:
        file: where to write, empty.
        thread: one thread for hashing, or None: then it is done in passing.
    """

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor | None = None) -> None:
        self._file = file
        self._thread = thread
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
        offset = self._position
        packer = _Packer(zstd_level, self._thread)
        for piece in pieces:
            self._write(packer.feed(piece))
        self._write(packer.flush())
        if packer.is_refused:
            return self.add(_decompressed(self._read_back(offset)))
        self._sections.append(packer.section(offset))
        return len(self._sections) - 1

    def append(self, packed: Packed) -> int:
        """Write a section that `pack` made; return its number."""
        self._pad()
        self._sections.append(replace(packed.section, offset=self._position))
        for piece in packed.pieces:
            self._write(piece)
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


def _decompressed(frame: bytes) -> Iterator[bytes]:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
        yield from iter(lambda: reader.read(_PIECE), b"")


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """Return a compressor that searches as hard as `level` says in a bounded memory."""
    import zstandard  # only when asked for

    parameters = zstandard.ZstdCompressionParameters
    chosen = parameters.from_level(level)
    limits = {name: min(getattr(chosen, name), most) for name, most in _ZSTD_LIMITS.items()}
    return zstandard.ZstdCompressor(compression_params=parameters.from_level(level, **limits))


@contextmanager
def create(
    path: str | os.PathLike[str], force: bool = False, threaded: bool = False
) -> Iterator[RsrWriter]:
    """Create a `.rsr` file that takes its name only when the block ends without an exception.

    The block must call `finish`, as its last act. `threaded` hashes on a thread of its own.

    Raises:
        OutputExistsError: `path` exists and `force` is not set.
        OSError: the disk is full, the folder is missing, ...
    """
    with ExitStack() as stack:
        file = stack.enter_context(atomic_file(path, force))
        thread = stack.enter_context(ThreadPoolExecutor(1)) if threaded else None
        writer = RsrWriter(file, thread)
        yield writer
        if not writer.finished:
            raise RuntimeError("the block ended without RsrWriter.finish(): no file was made")
