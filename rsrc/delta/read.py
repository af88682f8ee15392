"""Read a `.rsrd` file: every size and number in it is checked before anything is made from it."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rsr_formats import RsrFile
from rsr_formats.contents import RSR, identify
from rsr_formats.errors import (
    FlagsError,
    FormatError,
    HeaderHashError,
    LimitError,
    TrailingDataError,
    TruncatedError,
    VersionError,
)
from rsr_formats.header import decode_header
from rsr_formats.records import MAX_HEADER_SIZE, PARTS, Header, IndexedTensor, Section, align
from rsr_formats.records import PREAMBLE as RSR_PREAMBLE
from rsr_formats.validate import check_header

from ..common.errors import DeltaError, WrongBaseError
from .changes import StoredChanges, read_changes
from .entries import entries_of
from .frames import expand
from .records import (
    CARRIED,
    CHANGES,
    COPY,
    MAGIC,
    MAX_LEVEL,
    NO_BASE,
    PREAMBLE,
    RECORD,
    SEGMENTS,
    STORED,
    VERSION,
    Record,
    identity,
    max_result,
    piece_sizes,
    same_index,
)
from .streams import Cursor, Surroundings

_AGAIN = "download or copy it again"
_HASHED = 8 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class StoredSection:
    """How one section of the new file is made."""

    record: Record
    section: Section  # of the new file
    name: str  # what it holds, in words
    pieces: tuple[memoryview, ...] = ()  # of method `CARRIED`
    chunks: tuple[StoredChanges | None, ...] = ()  # of method `CHANGES`; None: nothing changes
    tensor: IndexedTensor | None = None  # of the new file
    old: IndexedTensor | None = None


@dataclass(frozen=True)
class Delta:
    """A delta that fits its old file.

    Attributes:
        header: of the new file.
        header_bytes: as they are written.
        size: bytes of the new file.
        sections: how its sections are made.
    """

    header: Header
    header_bytes: bytes
    size: int
    sections: list[StoredSection]


def stored_header(file: RsrFile) -> bytes:
    """Return the header of a `.rsr` file as it is stored."""
    memory = file.memory()
    offset = RSR_PREAMBLE.unpack(memory[: RSR_PREAMBLE.size].tobytes())[4]
    return memory[offset:].tobytes()


def read_delta(path: Path, old: RsrFile) -> Delta:
    """Open a `.rsrd` file and check it against the `.rsr` file that it is applied to.

    Raises:
        WrongBaseError: it was made for another file.
        DeltaError, FormatError: it is damaged; the message says where.
        OSError: it cannot be read.
    """
    with path.open("rb") as file, _naming(path):
        size = os.fstat(file.fileno()).st_size
        head = file.read(PREAMBLE.size)
        body_size, header_size, base, result, digest = _check_preamble(head, size)
        if base != old.digest:
            raise WrongBaseError(_other_base(old, base, result))
        data = memoryview(b"")
        if body_size:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if len(data) not in (0, size):
            raise TruncatedError(f"it became shorter while it was opened: {_AGAIN}")
        body = data[PREAMBLE.size :]
        _check_hash(body, digest)
        reader = _Reader(body, old)
        header = reader.header(header_size, result)
        return reader.delta(header, size)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (DeltaError, FormatError, WrongBaseError) as error:
        raise type(error)(f"{path}: {error}") from None


def _check_preamble(head: bytes, size: int) -> tuple[int, int, bytes, bytes, bytes]:
    """Return sizes of body and new header, and the hashes of old header, new header and body."""
    if not head or not MAGIC.startswith(head[: len(MAGIC)]):
        contents = identify(head)
        if contents is RSR:
            raise DeltaError("not a .rsrd file, but a .rsr file: make a delta with `rsrc diff`")
        if contents is not None:
            raise DeltaError(f"not a .rsrd file, but {contents}")
        found = head[: len(MAGIC)].hex(" ")
        raise DeltaError(f"not a .rsrd file: it begins with {found}, expected {MAGIC.hex(' ')}")
    if len(head) < PREAMBLE.size:
        raise TruncatedError(
            f"truncated: it has {size} bytes, but a preamble has {PREAMBLE.size}: {_AGAIN}"
        )
    _, major, minor, flags, body, header_size, base, result, digest = PREAMBLE.unpack(head)
    if (major, minor) > VERSION or major < 1:
        raise VersionError(
            f"format version {major}.{minor}, expected {VERSION[0]}.{VERSION[1]}: upgrade "
            "rsr-ternary, or make the delta again"
        )
    if flags:
        raise FlagsError(f"flags {flags:#010x}, expected 0")
    if size < PREAMBLE.size + body:
        raise TruncatedError(
            f"truncated: it has {size} bytes, its preamble says {PREAMBLE.size + body}: {_AGAIN}"
        )
    if size > PREAMBLE.size + body:
        raise TrailingDataError(f"it has {size} bytes, its preamble says {PREAMBLE.size + body}")
    if not 0 < header_size <= MAX_HEADER_SIZE:
        raise LimitError(f"header size {header_size}, expected 1 to {MAX_HEADER_SIZE}")
    return body, header_size, base, result, digest


def _other_base(old: RsrFile, base: bytes, result: bytes) -> str:
    if old.digest == result:
        return f"{old.path} is the new file of this delta already: there is nothing to do"
    return (
        f"made for the .rsr file with header hash {base.hex()}, but {old.path} has "
        f"{old.digest.hex()}: apply it to the file that it was made from"
    )


def _check_hash(body: memoryview, expected: bytes) -> None:
    digest = hashlib.sha256()
    for start in range(0, len(body), _HASHED):
        digest.update(body[start : start + _HASHED])
    if digest.digest() != expected:
        raise DeltaError(f"damaged: the SHA-256 of its body is not the recorded one: {_AGAIN}")


class _Reader:
    """Reads the body of a delta from its beginning to its end."""

    def __init__(self, body: memoryview, old: RsrFile) -> None:
        self._body = Cursor(body)
        self._old = old
        self._old_indexes = _indexes(old.header)

    def header(self, size: int, digest: bytes) -> bytes:
        """Read the header of the new file."""
        base = Surroundings([memoryview(stored_header(self._old))])
        start, pieces = 0, []
        for piece, length in zip(self._pieces(size, "header"), piece_sizes(size), strict=True):
            pieces.append(expand(piece, length, "header", base.near(start, length)).tobytes())
            start += length
        data = b"".join(pieces)
        if hashlib.sha256(data).digest() != digest:
            raise HeaderHashError("the header of the new file has another SHA-256 than recorded")
        return data

    def delta(self, data: bytes, size: int) -> Delta:
        """Read the records of all sections."""
        header = decode_header(data)
        last = header.sections[-1] if header.sections else Section(RSR_PREAMBLE.size, 0, 0, "", b"")
        offset = align(last.offset + last.stored_size)
        check_header(header, offset)
        result, most = offset + len(data), max_result(self._old.memory().size, size)
        if result > most:
            raise LimitError(
                f"it makes {result} bytes, and may make {most} from "
                f"{self._old.memory().size} old ones"
            )
        names, indexes = header.owners(), _indexes(header)
        sections: list[StoredSection] = []
        for number, (s, name) in enumerate(zip(header.sections, names, strict=True)):
            previous = sections[-1] if sections else None
            found = self._section(s, name, indexes.get(number), previous)
            sections.append(found)
        _check_segments(sections[-1] if sections else None, None)
        if len(self._body.left):
            raise TrailingDataError(f"{len(self._body.left)} bytes follow the last record")
        return Delta(header, data, result, sections)

    def _section(
        self,
        s: Section,
        name: str,
        index: tuple[str, IndexedTensor] | None,
        previous: StoredSection | None,
    ) -> StoredSection:
        """Read the record of one section.

        Args:
            s: its entry.
            name: what it holds.
            index: the part of the index that it is, and its tensor; None: another section.
            previous: the section before it.
        """
        record = self._record(s, name)
        tensor = None if index is None else index[1]
        stored = StoredSection(record, s, name, tensor=tensor)
        _check_segments(previous, stored)
        if record.method == COPY:
            self._check_copy(record, s, name)
        elif record.method == CARRIED:
            size = s.size if record.level else s.stored_size
            pieces = tuple(self._pieces(size, name))
            return StoredSection(record, s, name, pieces)
        elif record.method == CHANGES:
            old = self._old_tensor(record, name, index)
            assert tensor is not None
            chunks = tuple(self._chunks(tensor, name))
            return StoredSection(record, s, name, (), chunks, tensor, old)
        return stored

    def _record(self, s: Section, name: str) -> Record:
        method, level, base = RECORD.unpack(self._body.take(RECORD.size, f"record of {name}"))
        if method not in (COPY, CARRIED, CHANGES, SEGMENTS):
            raise DeltaError(f"{name}: method {method}, expected {COPY} to {SEGMENTS}")
        compresses = s.codec == "zstd" and method != COPY
        if level > (MAX_LEVEL if compresses else 0) or (
            compresses and not level and method != CARRIED
        ):
            raise DeltaError(f"{name}: level {level} of codec {s.codec} by method {method}")
        if base == NO_BASE and method in (COPY, CHANGES):
            raise DeltaError(f"{name}: method {method} without a section of the old file")
        if base != NO_BASE and (method == SEGMENTS or base >= len(self._old.header.sections)):
            raise DeltaError(
                f"{name}: section {base} of the old file, which has "
                f"{len(self._old.header.sections)}"
            )
        return Record(method, level, None if base == NO_BASE else base)

    def _check_copy(self, record: Record, s: Section, name: str) -> None:
        assert record.base is not None
        if identity(self._old.header.sections[record.base]) != identity(s):
            raise DeltaError(f"{name}: section {record.base} of the old file is another one")

    def _pieces(self, size: int, name: str) -> Iterator[memoryview]:
        for length in piece_sizes(size):
            (stored,) = STORED.unpack(self._body.take(STORED.size, name))
            if not 0 < stored <= length:
                raise DeltaError(f"{name}: a piece of {stored} bytes, expected 1 to {length}")
            yield self._body.take(stored, name)

    def _old_tensor(
        self, record: Record, name: str, index: tuple[str, IndexedTensor] | None
    ) -> IndexedTensor:
        assert record.base is not None
        found = self._old_indexes.get(record.base)
        if (
            index is None
            or found is None
            or (found[0] != index[0] or index[0] != PARTS[index[1].encoding][0])
            or not same_index(found[1], index[1])
        ):
            raise DeltaError(
                f"{name}: changes of section {record.base} of the old file, which is no index of "
                "the same shape and encoding"
            )
        return found[1]

    def _chunks(self, t: IndexedTensor, name: str) -> Iterator[StoredChanges | None]:
        entries = entries_of(t)
        for chunk in entries.chunks():
            yield read_changes(self._body, t.base, chunk.entries * entries.slots, name)


def _indexes(header: Header) -> dict[int, tuple[str, IndexedTensor]]:
    """Return which part of which index a section is, by its number."""
    return {
        number: (part, t)
        for t in header.tensors
        if isinstance(t, IndexedTensor)
        for part, number in t.sections.items()
    }


def _check_segments(previous: StoredSection | None, section: StoredSection | None) -> None:
    """Check that the segments of a permutation with changes follow it, and occur only there."""
    expected = None
    if previous is not None and previous.record.method == CHANGES:
        t = previous.tensor
        expected = t if t is not None and t.encoding == "permuted" else None
    found = None
    if section is not None and section.record.method == SEGMENTS:
        found = section
    if (expected is None) != (found is None) or (found and found.tensor is not expected):
        name = next(s.name for s in (found, previous) if s is not None)
        raise DeltaError(f"{name}: segments must follow the changes of their permutation")
