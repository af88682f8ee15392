"""Open a `.rsr` file: everything the header says is checked before anything is handed out."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import (
    CodecError,
    FormatError,
    LimitError,
    PaddingError,
    SectionHashError,
    TruncatedError,
)
from .header import decode_header
from .pages import anonymous_memory
from .records import MAX_ZSTD_WINDOW, PREAMBLE, SCALE_DTYPES, Header, IndexedTensor, Section
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

_PIECE = 8 << 20
_SMALL = 4096  # bytes of a scale section that is read, not mapped
_SHORTER = "truncated: the file became shorter while it was opened"


class RsrFile:
    """An opened `.rsr` file: its header, and its sections as read-only arrays.

    The arrays keep the memory alive, so they outlive this object; renaming or replacing the file
    does not disturb them. (Nobody should write *into* a file that is mapped.)

    Args:
        path: the file.
        memory: "map" maps the file; "huge" copies it once into anonymous memory for which the
            system is asked to use huge pages, where it has them.

    Raises:
        FormatError: the subclass says which rule of formats/SPEC.md the file breaks.
        OSError: the file cannot be read.
    """

    header: Header
    version: tuple[int, int]  # major, minor: of this file

    def __init__(self, path: str | os.PathLike[str], memory: str = "map") -> None:
        if memory not in ("map", "huge"):
            raise ValueError(f"memory is {memory!r}, expected 'map' or 'huge'")
        self.path = Path(path)
        with self.path.open("rb") as file, _naming(self.path):
            size = os.fstat(file.fileno()).st_size
            preamble = file.read(PREAMBLE.size)
            self.version, offset, header_size, digest = check_preamble(preamble, size)
            file.seek(offset)
            data = file.read(header_size)
            if len(data) < header_size:
                raise TruncatedError(_SHORTER)
            check_header_hash(data, digest)
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
        """Return a section's bytes as a read-only uint8 array.

        A view where stored raw; else decompressed each time: who asks again had better keep it.
        """
        s = self.header.sections[index]
        stored = self._stored(s)
        return stored if s.codec == "raw" else _decompress(stored, s, self._owners[index])

    def pieces(self, index: int) -> Iterator[memoryview]:
        """Read a section in pieces, decompressed, and check its hash.

        Raises:
            SectionHashError, CodecError: it is damaged, which may show only behind the last piece.
        """
        s, what = self.header.sections[index], self._owners[index]
        stored = self._stored(s)
        with _naming(self.path):
            for piece in _hashed(stored, s, what):
                if s.codec == "raw":
                    yield piece
            if s.codec == "zstd":
                yield from _decompressed(stored.data, s, what)

    def index_arrays(self, t: IndexedTensor) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a tensor's index, checked as far as a kernel relies on it.

        Returns:
            "ranks": uint16, packing w16, or uint8, packing n4s1 (any value is safe to look up); or
            "permutation": (blocks, rows) and "segments": (blocks, B^k + 1), u16 or u32;
            and "scale": (scales,), float32 or, where the record says F16, float16.

        Raises:
            IndexDataError: a permutation, segment list or scale is out of its range.
        """
        scale: npt.NDArray[Any] = np.ones(1, np.float32)
        if t.scale is not None:
            scale = self.section(t.scale.section).view(SCALE_DTYPES[t.scale.dtype])
            check_scale(t, scale)
        if t.encoding == "ranked":
            ranks = self.section(t.sections["ranks"])
            return {"ranks": ranks if t.packing == "n4s1" else ranks.view("<u2"), "scale": scale}
        item = "<u2" if t.packing == "u16" else "<u4"
        permutation = self.section(t.sections["permutation"]).view(item)
        segments = self.section(t.sections["segments"]).view(item)
        permutation = permutation.reshape(t.blocks, t.rows)
        segments = segments.reshape(t.blocks, t.patterns + 1)
        check_permuted(t, permutation, segments)
        return {"permutation": permutation, "segments": segments, "scale": scale}

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Check every byte: section hashes, padding, and the range of every index entry.

        Args:
            progress: called with the number of bytes checked since the last call.

        Raises:
            SectionHashError, PaddingError, CodecError, IndexDataError: what is damaged.
        """
        with _naming(self.path):
            self._verify(progress)

    def _verify(self, progress: Callable[[int], None] | None) -> None:
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
        stored = np.frombuffer(self._memory, np.uint8, s.stored_size, s.offset)
        stored.setflags(write=False)  # memory "huge" is ours to write, but not its user's
        return stored

    def _check_padding(self, start: int, stop: int, before: str) -> None:
        if np.frombuffer(self._memory, np.uint8, stop - start, start).any():
            raise PaddingError(f"the padding before {before} (bytes {start} to {stop}) is not zero")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in every error which file it is about."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from None


def _hashed(data: npt.NDArray[np.uint8], s: Section, what: str) -> Iterator[memoryview]:
    """Yield the stored bytes of a section in pieces; behind the last one, check their hash."""
    digest = hashlib.sha256()
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE].data
        digest.update(piece)
        yield piece
    if digest.digest() != s.sha256:
        raise SectionHashError(
            f"{what} is damaged: the SHA-256 of bytes {s.offset} to "
            f"{s.offset + s.stored_size} is not the recorded one"
        )


def _map(file: Any, size: int) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except ValueError:  # longer than the file is now
        raise TruncatedError(_SHORTER) from None


def _read_small_scales(file: BinaryIO, header: Header) -> dict[Section, bytes]:
    """Read the scales of few bytes.

    Each lies on a page of its own, and touching a mapped page makes 64 KiB resident: for the four
    bytes of every matrix of a model that is half the memory of the process.
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
    memory = anonymous_memory(size, huge=True)
    file.seek(0)
    view = memoryview(memory)
    done = 0
    while done < size:
        count = file.readinto(view[done : done + _PIECE])
        if not count:
            raise TruncatedError(f"truncated: the file ended at {done} bytes while it was read")
        done += count
    view.release()
    return memory


def _decompress(stored: npt.NDArray[np.uint8], s: Section, what: str) -> npt.NDArray[np.uint8]:
    """Decompress one zstd frame of exactly `s.size` bytes, never producing more than that."""
    import zstandard  # only files compiled with --zstd need it

    data = stored.data
    try:
        _check_frame(data, s, what)
        # Allocates s.size bytes: a limit on the expansion was checked with the header.
        result = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW).decompress(
            data, max_output_size=s.size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CodecError(f"{what}: not one zstd frame of {s.size} bytes: {error}") from None
    except MemoryError:
        raise LimitError(f"{what}: there is no memory for its {s.size} bytes") from None
    if len(result) != s.size:
        raise CodecError(f"{what}: the zstd frame has {len(result)} bytes, expected {s.size}")
    return np.frombuffer(result, np.uint8)


def _check_frame(data: memoryview, s: Section, what: str) -> None:
    """Check how a section begins: as one zstd frame of `s.size` bytes, as far as it says."""
    import zstandard

    if data[:4] != zstandard.FRAME_HEADER:  # it might be a skippable frame
        raise CodecError(f"{what}: not a zstd frame: it begins with {data[:4].hex(' ')}")
    size = zstandard.get_frame_parameters(data).content_size
    if size not in (s.size, zstandard.CONTENTSIZE_UNKNOWN):
        raise CodecError(f"{what}: the zstd frame has {size} bytes, expected {s.size}")


def _decompressed(data: memoryview, s: Section, what: str) -> Iterator[memoryview]:
    """Decompress one zstd frame of exactly `s.size` bytes in pieces."""
    import zstandard

    done = 0
    try:
        _check_frame(data, s, what)
        if _frame_end(data) != len(data):
            raise CodecError(f"{what}: not one zstd frame of {len(data)} stored bytes")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
        with decompressor.stream_reader(data) as reader:
            while piece := reader.read(_PIECE):
                done += len(piece)
                if done > s.size:
                    break
                yield memoryview(piece)
    except zstandard.ZstdError as error:
        raise CodecError(f"{what}: not one zstd frame of {s.size} bytes: {error}") from None
    if done != s.size:
        raise CodecError(f"{what}: the zstd frame has {done} bytes or more, expected {s.size}")


def _frame_end(data: memoryview) -> int:
    """Return where a zstd frame ends by the sizes of its blocks (RFC 8878, section 3.1.1)."""
    import zstandard

    position, is_last = zstandard.frame_header_size(data), False
    while not is_last:
        block = int.from_bytes(data[position : position + 3], "little")
        is_last = bool(block & 1) or position >= len(data)
        is_repeated = block >> 1 & 3 == 1
        position += 3 + (1 if is_repeated else block >> 3)
    return position + 4 * zstandard.get_frame_parameters(data).has_checksum
