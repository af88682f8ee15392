"""Read a `.rsr` file. Opening it checks the header before any data is returned."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from . import compression
from .compression import PIECE
from .errors import FormatError, LimitError, PaddingError, SectionHashError, TruncatedError
from .header import decode_header
from .pages import anonymous_memory, available_memory
from .records import NUMPY_DTYPES, PREAMBLE, Header, IndexedTensor, Section, Tensor
from .text import size as formatted
from .validate import (
    check_header,
    check_header_hash,
    check_negative_zeros,
    check_permuted,
    check_preamble,
    check_ranks,
    check_scale,
    check_version,
)

_SMALL = 4096  # scale sections of up to this many bytes are read, not mapped
_SHORTER = "truncated: the file became shorter while it was opened"


class RsrFile:
    """An open `.rsr` file: its header, and its sections as read-only arrays.

    The arrays keep the memory alive, so they outlive this object. The file may be renamed or
    replaced while it is open, but must not be modified in place.

    Args:
        path: the file.
        memory: "map" maps the file into memory; "huge" copies it into anonymous memory and asks
            the system to use huge pages for it.

    Attributes:
        path: the file.
        header: its decoded and checked header.
        version: its format version, (major, minor).
        digest: SHA-256 of its header, which holds the hash of every section.

    Raises:
        FormatError: the subclass says which rule of formats/SPEC.md the file breaks.
        LimitError: there is not enough memory for a copy.
        OSError: the file cannot be read.
        ValueError: `memory` is neither "map" nor "huge".
    """

    def __init__(self, path: str | os.PathLike[str], memory: str = "map") -> None:
        if memory not in ("map", "huge"):
            raise ValueError(f"memory is {memory!r}, expected 'map' or 'huge'")
        self.path = Path(path)
        with self.path.open("rb") as file, _naming(self.path):
            size = os.fstat(file.fileno()).st_size
            preamble = file.read(PREAMBLE.size)
            self.version, offset, header_size, self.digest = check_preamble(preamble, size)
            file.seek(offset)
            data = file.read(header_size)
            if len(data) < header_size:
                raise TruncatedError(_SHORTER)
            check_header_hash(data, self.digest)
            self.header = decode_header(data)
            check_version(self.header, self.version)
            check_header(self.header, offset)
            self._small: dict[Section, bytes] = {}
            if memory == "map":
                self._memory = _map(file, size)
                self._small = _read_small_scales(file, self.header)
            else:
                self._memory = _copy_to_huge_pages(file, size)
        self._end = offset
        self._owners = self.header.owners()

    def section(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the contents of a section, uint8 (size,), read-only.

        A raw section is a view of the file. A compressed one is decompressed on every call: cache
        the result. The hash is not checked.

        Raises:
            CodecError: the section does not decompress to its size.
            LimitError: there is not enough memory to decompress it.
        """
        s = self.header.sections[index]
        stored = self._stored(s)
        if s.codec == "raw":
            return stored
        return compression.decompress(stored, s, self._owners[index])

    def memory(self) -> npt.NDArray[np.uint8]:
        """Return the bytes of the file as they lie in memory, uint8, read-only."""
        memory = np.frombuffer(self._memory, np.uint8)
        memory.setflags(write=False)  # the memory of a copy is writable
        return memory

    def ranges(self, tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
        """Return (start, stop) of the bytes in `memory` that the arrays of tensors are views of."""
        indexes: list[int] = []
        for t in tensors:
            if isinstance(t, IndexedTensor):
                indexes += t.sections.values()
                indexes += [] if t.scale is None else [t.scale.section]
            else:
                indexes.append(t.section)
        sections = [self.header.sections[index] for index in indexes]
        return [(s.offset, s.offset + s.stored_size) for s in sections if s.codec == "raw"]

    def pieces(self, index: int) -> Iterator[memoryview]:
        """Read the contents of a section in pieces, and check its hash.

        Raises:
            SectionHashError, CodecError: the section is damaged. This may be raised only after the
                last piece.
        """
        s, what = self.header.sections[index], self._owners[index]
        stored = self._stored(s)
        with _naming(self.path):
            for piece in _hashed(stored, s, what):
                if s.codec == "raw":
                    yield piece
            if s.codec == "zstd":
                yield from compression.decompress_pieces(stored.data, s, what)

    def index_arrays(self, t: IndexedTensor) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a tensor's index, with the checks that kernels rely on.

        Returns:
            In encoding ranked "ranks", flat: uint16 (packing w16) or uint8 (n4s1). They are not
            checked: kernels can look any value up. In encoding permuted "permutation" (blocks,
            rows) and "segments" (blocks, B^k + 1), uint16 or uint32. In both "scale" (scales,),
            float32 or float16; one 1 if the tensor has no scale.

        Raises:
            IndexDataError: a permutation, segment list or scale is invalid.
            CodecError: a compressed section is damaged.
        """
        scale: npt.NDArray[Any] = np.ones(1, np.float32)
        if t.scale is not None:
            scale = self.section(t.scale.section).view(NUMPY_DTYPES[t.scale.dtype])
            check_scale(t, scale)
        if t.encoding == "ranked":
            ranks = self.section(t.sections["ranks"])
            return {"ranks": ranks if t.packing == "n4s1" else ranks.view("<u2"), "scale": scale}
        item = NUMPY_DTYPES[t.packing.upper()]
        permutation = self.section(t.sections["permutation"]).view(item)
        segments = self.section(t.sections["segments"]).view(item)
        permutation = permutation.reshape(t.blocks, t.rows)
        segments = segments.reshape(t.blocks, t.patterns + 1)
        check_permuted(t, permutation, segments)
        return {"permutation": permutation, "segments": segments, "scale": scale}

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Check every byte: section hashes, padding and the range of every index entry.

        Args:
            progress: called with the number of bytes hashed since the last call.

        Raises:
            SectionHashError, PaddingError, CodecError, IndexDataError: the file is damaged.
        """
        with _naming(self.path):
            end = PREAMBLE.size
            for what, s in zip(self._owners, self.header.sections, strict=True):
                self._check_padding(end, s.offset, what)
                for piece in _hashed(self._stored(s), s, what):
                    if progress is not None:
                        progress(len(piece))
                end = s.offset + s.stored_size
            self._check_padding(end, self._end, "the header")
            for f in self.header.files:
                self.section(f.section)
            for t in self.header.tensors:
                if isinstance(t, IndexedTensor):
                    self._verify_index(t)
                else:
                    self.section(t.section)

    def _verify_index(self, t: IndexedTensor) -> None:
        arrays = self.index_arrays(t)
        if t.encoding == "ranked":
            check_ranks(t, arrays["ranks"])
        if t.source.negative_zeros is not None:
            check_negative_zeros(t, arrays, self.section(t.source.negative_zeros))

    def _stored(self, s: Section) -> npt.NDArray[np.uint8]:
        if s in self._small:
            return np.frombuffer(self._small[s], np.uint8)
        return self.memory()[s.offset : s.offset + s.stored_size]

    def _check_padding(self, start: int, stop: int, before: str) -> None:
        if np.frombuffer(self._memory, np.uint8, stop - start, start).any():
            raise PaddingError(f"the padding before {before} (bytes {start} to {stop}) is not zero")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin the message of every `FormatError` with the path."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from None


def _hashed(data: npt.NDArray[np.uint8], s: Section, what: str) -> Iterator[memoryview]:
    """Yield the stored bytes of a section in pieces, then check their hash."""
    digest = hashlib.sha256()
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE].data
        digest.update(piece)
        yield piece
    if digest.digest() != s.sha256:
        raise SectionHashError(
            f"{what} is damaged: the SHA-256 of bytes {s.offset} to "
            f"{s.offset + s.stored_size} differs from the recorded one"
        )


def _map(file: BinaryIO, size: int) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except ValueError:  # the file is now shorter than `size`
        raise TruncatedError(_SHORTER) from None


def _read_small_scales(file: BinaryIO, header: Header) -> dict[Section, bytes]:
    """Read the scale sections of up to `_SMALL` bytes.

    Each scale is on its own page, and touching a mapped page makes up to 64 KiB resident. For
    one scale of four bytes per matrix, this would double the memory of the process.
    """
    scales = [t.scale for t in header.tensors if isinstance(t, IndexedTensor) and t.scale]
    found = {}
    for s in (header.sections[scale.section] for scale in scales):
        if 0 < s.stored_size <= _SMALL:
            file.seek(s.offset)
            found[s] = file.read(s.stored_size)
            if len(found[s]) < s.stored_size:
                raise TruncatedError(_SHORTER)
    return found


def _copy_to_huge_pages(file: Any, size: int) -> mmap.mmap:
    available = available_memory()
    if available is not None and size > available.nbytes:
        raise LimitError(
            f"memory 'huge' copies the file, which has {formatted(size)}, but {available}: map it "
            "(memory 'map')"
        )
    memory = anonymous_memory(size, huge=True)
    file.seek(0)
    view = memoryview(memory)
    done = 0
    while done < size:
        count = file.readinto(view[done : done + PIECE])
        if not count:
            raise TruncatedError(f"truncated: the file ended at byte {done} of {size}")
        done += count
    view.release()
    return memory
