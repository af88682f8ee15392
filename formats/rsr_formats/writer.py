"""Write a `.rsr` file: the sections in order, then the header."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from .atomic import atomic_file
from .compression import compressor, decompress_pieces
from .errors import LimitError
from .header import decode_header, encode_header, fits_limits
from .parts import FileParts
from .records import (
    MAGIC,
    MAX_EXPANSION,
    MAX_HEADER_SIZE,
    PREAMBLE,
    FileEntry,
    Header,
    Rotation,
    Section,
    Stack,
    Tensor,
    align,
)
from .validate import check_header

BytesLike = bytes | memoryview


@dataclass(frozen=True)
class Packed:
    """A finished section in memory, for `RsrWriter.append`."""

    pieces: tuple[BytesLike, ...]  # the stored bytes
    section: Section  # with offset 0

    def __reduce__(self) -> tuple[Any, ...]:  # memoryviews cannot be pickled
        return Packed, ((b"".join(self.pieces),), self.section)


def pack(pieces: Iterable[BytesLike], zstd_level: int | None = None) -> Packed:
    """Make a section in memory, with the same bytes as `RsrWriter.add`.

    Args:
        pieces: its contents; a raw section keeps references to them.
        zstd_level: 1 to 22, or None for a raw section; see `RsrWriter.add`.
    """
    packer = _Packer(zstd_level)
    stored = [packer.feed(piece) for piece in pieces]
    stored.append(packer.flush())
    section = packer.section(0)
    if packer.must_be_raw:
        return pack(decompress_pieces(memoryview(b"".join(stored)), section, "a new section"))
    return Packed(tuple(stored), section)


class _Packer:
    """Compresses, counts and hashes the bytes of one section."""

    def __init__(self, level: int | None, thread: ThreadPoolExecutor | None = None) -> None:
        self._compressor = None if level is None else compressor(level).compressobj()
        self._digest = _Digest(thread)
        self._size = self._stored_size = 0

    def feed(self, piece: BytesLike) -> BytesLike:
        """Take a piece of the contents; return the next stored bytes."""
        self._size += memoryview(piece).nbytes
        return self._store(piece if self._compressor is None else self._compressor.compress(piece))

    def flush(self) -> BytesLike:
        """Return the last stored bytes."""
        return self._store(b"" if self._compressor is None else self._compressor.flush())

    def _store(self, data: BytesLike) -> BytesLike:
        self._stored_size += memoryview(data).nbytes
        self._digest.update(data)
        return data

    @property
    def must_be_raw(self) -> bool:
        """Whether readers would refuse the section as compressed (rules S6 and S7)."""
        if self._compressor is None:
            return False
        return self._size == 0 or self._size > MAX_EXPANSION * self._stored_size

    def section(self, offset: int) -> Section:
        codec = "raw" if self._compressor is None else "zstd"
        return Section(offset, self._stored_size, self._size, codec, self._digest.digest())


class _Digest:
    """SHA-256 of pieces in order, computed on `thread` if there is one."""

    _QUEUE = 8  # pieces; each is a copy, because the caller may overwrite its buffer

    def __init__(self, thread: ThreadPoolExecutor | None) -> None:
        self._hash = hashlib.sha256()
        self._thread = thread
        self._waiting: deque[Future[None]] = deque()

    def update(self, piece: BytesLike) -> None:
        if self._thread is None:
            self._hash.update(piece)
            return
        self._waiting.append(self._thread.submit(self._hash.update, bytes(piece)))
        if len(self._waiting) > self._QUEUE:
            self._waiting.popleft().result()

    def digest(self) -> bytes:
        while self._waiting:
            self._waiting.popleft().result()
        return self._hash.digest()


class RsrWriter:
    """Writes sections, then the header. Use `create` to open one.

    Args:
        file: an empty file, open for reading and writing.
        thread: an executor of one thread for hashing; None: hash on the calling thread.

    Attributes:
        sections: entries of the sections written so far.
        finished: whether `finish` wrote the header.
    """

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor | None = None) -> None:
        self._file = file
        self._thread = thread
        self._position = file.write(bytes(PREAMBLE.size))
        self.sections: list[Section] = []
        self.finished = False

    def add(self, pieces: Iterable[BytesLike], zstd_level: int | None = None) -> int:
        """Write a section; return its number.

        Args:
            pieces: its contents; a buffer may be reused after the next piece is taken.
            zstd_level: 1 to 22, or None for a raw section. A section that is empty, or that would
                exceed `MAX_EXPANSION` (such as zeros), is stored raw in any case.

        Raises:
            OSError: the disk is full, or writing fails for another reason.
        """
        self._pad()
        offset = self._position
        packer = _Packer(zstd_level, self._thread)
        for piece in pieces:
            self._write(packer.feed(piece))
        self._write(packer.flush())
        section = packer.section(offset)
        if packer.must_be_raw:
            frame = memoryview(self._take_back(offset))
            return self.add(decompress_pieces(frame, section, "a new section"))
        self.sections.append(section)
        return len(self.sections) - 1

    def append(self, packed: Packed) -> int:
        """Write a section that `pack` made; return its number."""
        self._pad()
        self.sections.append(replace(packed.section, offset=self._position))
        for piece in packed.pieces:
            self._write(piece)
        return len(self.sections) - 1

    def copy(self, file: FileParts, section: Section) -> int:
        """Write a section of another `.rsr` file, whose bytes are not checked; return its number.

        Raises:
            TruncatedError: the other file became shorter.
            OSError: reading or writing failed.
        """
        self._pad()
        file.copy(section.offset, section.stored_size, self._file)
        self.sections.append(replace(section, offset=self._position))
        self._position += section.stored_size
        return len(self.sections) - 1

    def _write(self, piece: BytesLike) -> None:
        self._position += self._file.write(piece)

    def _take_back(self, offset: int) -> bytes:
        """Remove and return everything written since `offset`."""
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
        stacks: Iterable[Stack] = (),
        rotations: Iterable[Rotation] = (),
        reuse: str | None = None,
    ) -> Header:
        """Check the header as a reader would, then write it and the preamble.

        Args:
            producer: program and version that writes the file.
            metadata: free text for people and tools.
            files: the model's small files.
            tensors: in the order in which readers list them.
            stacks: the source tensors of three dimensions that some of `tensors` are parts of.
            rotations: those that tensors have, by number.
            reuse: entry `rsr.reuse` of the metadata; left out if it exceeds a limit of the format.

        Returns:
            The header as written.

        Raises:
            FormatError: the records break a rule of formats/SPEC.md.
        """
        self._pad()
        header = Header(
            producer,
            metadata,
            tuple(files),
            tuple(tensors),
            tuple(self.sections),
            tuple(stacks),
            tuple(rotations),
            reuse,
        )
        data = encode_header(header)
        if reuse is not None and not fits_limits(header, data):
            header = replace(header, reuse=None)
            data = encode_header(header)
        if len(data) > MAX_HEADER_SIZE:
            raise LimitError(f"header: {len(data)} bytes, the limit is {MAX_HEADER_SIZE}")
        check_header(decode_header(data), self._position)
        self._file.write(data)
        self._file.seek(0)
        digest = hashlib.sha256(data).digest()
        version = header.version()  # the lowest, so that older readers can open the file
        self._file.write(PREAMBLE.pack(MAGIC, *version, 0, self._position, len(data), digest))
        self.finished = True
        return header

    def _pad(self) -> None:
        self._write(bytes(align(self._position) - self._position))


@contextmanager
def create(
    path: str | os.PathLike[str], force: bool = False, threaded: bool = False
) -> Iterator[RsrWriter]:
    """Create a `.rsr` file that appears under its name only if the block ends without an exception.

    The block must end with `RsrWriter.finish`.

    Args:
        path: the file.
        force: replace an existing file.
        threaded: hash on another thread.

    Raises:
        OutputExistsError: `path` exists and `force` is not set, or it is not a regular file.
        OSError: the folder does not exist, or writing fails (for example, the disk is full).
        RuntimeError: the block did not call `RsrWriter.finish`.
    """
    with ExitStack() as stack:
        file = stack.enter_context(atomic_file(path, force))
        thread = stack.enter_context(ThreadPoolExecutor(1)) if threaded else None
        writer = RsrWriter(file, thread)
        yield writer
        if not writer.finished:
            raise RuntimeError("the block ended without RsrWriter.finish(): no file was written")
