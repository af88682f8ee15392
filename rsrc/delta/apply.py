"""Make the stored bytes of sections of the new file from the old file and a delta."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from rsr_formats import RsrFile
from rsr_formats.compression import PIECE, compressor
from rsr_formats.errors import IndexDataError

from ..common.arrays import ByteArray
from ..common.errors import DeltaError
from .changes import apply_changes
from .entries import Chunk, entries_of
from .frames import expand
from .read import StoredSection
from .records import CARRIED, COPY, piece_sizes
from .streams import Contents, Surroundings


@dataclass(frozen=True)
class Job:
    """Sections that are made together: one, or the permutation and the segments of an index."""

    sections: tuple[StoredSection, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the sections."""
        return sum(s.section.stored_size for s in self.sections)

    @property
    def is_copy(self) -> bool:
        """Whether the old file has the bytes."""
        return self.sections[0].record.method == COPY


def make_sections(old: RsrFile, job: Job) -> Iterator[tuple[StoredSection, Iterator[memoryview]]]:
    """Make the stored bytes of the sections of a job, in pieces; their hashes are checked.

    The pieces of a section must be consumed before the next section is requested.

    Raises:
        DeltaError: the delta is damaged, or the result has another hash.
        FormatError: the old file is damaged.
    """
    first = job.sections[0]
    with ExitStack() as stack:
        others: list[IO[bytes]] = [
            stack.enter_context(tempfile.TemporaryFile()) for _ in job.sections[1:]
        ]
        yield first, checked(first, _contents(old, first, others))
        for section, file in zip(job.sections[1:], others, strict=True):
            file.seek(0)
            pieces = iter(lambda file=file: file.read(PIECE), b"")  # type: ignore[misc]
            yield section, checked(section, map(memoryview, pieces))


def checked(made: StoredSection, contents: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield the stored bytes of a section, compressed if its record says so; check the hash."""
    digest, size = hashlib.sha256(), 0
    for piece in compressed(contents, made.record.level) if made.record.level else contents:
        digest.update(piece)
        size += len(piece)
        yield piece
    if size != made.section.stored_size or digest.digest() != made.section.sha256:
        reason = "the delta or the old file is damaged"
        if made.record.level:
            import zstandard

            reason += ", or this version of zstd compresses otherwise than that of `rsrc diff`"
            reason += f" (this one is {'.'.join(map(str, zstandard.ZSTD_VERSION))})"
        raise DeltaError(f"{made.name}: the result has another SHA-256 than the new file: {reason}")


def compressed(contents: Iterable[memoryview], level: int) -> Iterator[memoryview]:
    """Compress the contents of a section as `rsr_formats.writer` does."""
    packer = compressor(level).compressobj()
    for piece in contents:
        yield memoryview(packer.compress(piece))
    yield memoryview(packer.flush())


def _contents(
    old: RsrFile, made: StoredSection, others: Sequence[IO[bytes]]
) -> Iterator[memoryview]:
    """Yield the contents of a section; write those of other sections of its index to `others`."""
    record = made.record
    if record.method == COPY:
        s = old.header.sections[_base(made)]
        stored = old.memory()[s.offset : s.offset + s.stored_size]
        for start in range(0, len(stored), PIECE):
            yield stored[start : start + PIECE].data
    elif record.method == CARRIED:
        size = made.section.size if record.level else made.section.stored_size
        base = None if record.base is None else Surroundings(old.pieces(record.base))
        start = 0
        for piece, length in zip(made.pieces, piece_sizes(size), strict=True):
            near = None if base is None else base.near(start, length)
            yield expand(piece, length, made.name, near).data
            start += length
    else:
        for parts in _changed(old, made):
            for file, part in zip(others, parts[1:], strict=True):
                file.write(part.data)
            yield parts[0].data


def _changed(old: RsrFile, made: StoredSection) -> Iterator[Sequence[ByteArray]]:
    """Yield the bytes of each chunk of an index in all of its sections."""
    assert made.old is not None
    entries = entries_of(made.old)
    sections = [made.old.sections[part] for part in entries.parts]
    chunks = chunk_parts(old, sections, entries.chunks())
    try:
        for stored, (chunk, parts) in zip(made.chunks, chunks, strict=True):
            yield parts if stored is None else apply_changes(entries, chunk, parts, stored)
    except IndexDataError as error:
        raise IndexDataError(f"{old.path}: {error}") from None


def _base(made: StoredSection) -> int:
    assert made.record.base is not None  # the reader checks it
    return made.record.base


def chunk_parts(
    file: RsrFile, sections: Sequence[int], chunks: Iterable[Chunk]
) -> Iterator[tuple[Chunk, list[ByteArray]]]:
    """Yield the chunks of an index with their bytes in each section, and check the hashes."""
    contents = [Contents(file.pieces(number)) for number in sections]
    for chunk in chunks:
        yield chunk, [c.array(size) for c, size in zip(contents, chunk.sizes, strict=True)]
    for c in contents:
        c.end()
