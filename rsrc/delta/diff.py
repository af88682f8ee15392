"""Make a delta: `rsrc diff`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from rsr_formats import RsrFile
from rsr_formats.atomic import atomic_file, check_output
from rsr_formats.compression import compressor
from rsr_formats.errors import LimitError, PaddingError
from rsr_formats.processors import usable_processors
from rsr_formats.records import PARTS, DenseTensor, Header, IndexedTensor
from rsr_formats.records import PREAMBLE as RSR_PREAMBLE

from ..common.progress import ByteCounter, ProgressFunction
from ..source.files import check_not_source
from ..workers.pool import Workers, open_workers
from .apply import chunk_parts, compressed
from .changes import apply_changes, find_changes, pack_changes, read_changes
from .entries import entries_of
from .frames import compress
from .read import stored_header
from .records import (
    CARRIED,
    CHANGES,
    COPY,
    MAGIC,
    MAX_LEVEL,
    PREAMBLE,
    SEGMENTS,
    STORED,
    VERSION,
    Record,
    identity,
    max_result,
    piece_sizes,
    same_index,
)
from .streams import Contents, Cursor, Surroundings

_HASHED = 8 << 20  # bytes of the delta hashed at a time
_PROBE = 512 << 10  # bytes of a section that are compressed to find its level
_PROBES = 4  # such sections, or more that are smaller

Item = Record | bytes  # of the body of a delta


class _OtherBytes(Exception):  # noqa: N818 (not an error: the section is carried instead)
    """Changes would not make the bytes of a section, or take more bytes than it has."""


@dataclass(frozen=True)
class DeltaReport:
    """The sizes of a delta, and how it makes the sections of the new file."""

    old_bytes: int
    new_bytes: int
    delta_bytes: int
    copied: int  # sections that the old file has
    changed: int  # indexes whose changed digits are listed
    carried: int  # sections whose bytes are in the delta

    def to_dict(self) -> dict[str, int]:
        """Return the report as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class _Job:
    """Sections of the new file that are described together."""

    numbers: tuple[int, ...]
    bases: tuple[int | None, ...]  # sections of the old file that hold the same
    tensors: tuple[IndexedTensor, IndexedTensor] | None = None  # old, new: encoded alike
    is_copy: bool = False


def diff(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressFunction | None = None,
) -> DeltaReport:
    """Write what differs between two `.rsr` files, for `patch`.

    Every part of the delta is applied to the old file and compared before the delta appears.

    Args:
        old: the `.rsr` file that receivers have.
        new: the one that they are to get.
        output: the `.rsrd` file to write; it appears only once complete.
        threads: sections to compare at once. Default: the processors that this process
            may use.
        force: replace an existing output.
        progress: called as progress(what a section holds, bytes done, total bytes).

    Raises:
        FormatError: a file is damaged.
        LimitError: the new file is far larger than the old one and the delta.
        OptionError: the output is one of the files.
        OutputExistsError: the output exists and `force` is not set.
        OSError: reading or writing failed; no partial output is left behind.
    """
    check_not_source(Path(output), [Path(old), Path(new)])
    check_output(output, force)
    a, b = RsrFile(old), RsrFile(new)
    _check_padding(b)
    sections, names = b.header.sections, b.header.owners()
    counter = ByteCounter(progress, sum(s.stored_size for s in sections))
    threads = threads or usable_processors()
    methods = dict.fromkeys((COPY, CHANGES, CARRIED, SEGMENTS), 0)
    with atomic_file(output, force) as out, open_workers(None, threads) as workers:
        out.write(bytes(PREAMBLE.size))
        head = stored_header(b)
        near = Surroundings([memoryview(stored_header(a))])
        _write(out, _pieces([memoryview(head)], len(head), near))
        describer = _Describer(a, b, _level(b), workers)
        with closing(workers.map(describer, _jobs(a.header, b.header), _cost(b))) as results:
            for job, items in results:
                found = describer.write(out, job) if items is None else _write(out, items)
                for method in found:
                    methods[method] += 1
                for number in job.numbers:
                    counter.advance(names[number], sections[number].stored_size)
        size = _finish(out, a, b, len(head))
    return DeltaReport(
        a.memory().size, b.memory().size, size, methods[COPY], methods[CHANGES], methods[CARRIED]
    )


class _Describer:
    """Describes sections of the new file by those of the old one.

    Args:
        a: the old file.
        b: the new file.
        level: of zstd, at which the new file is compressed; 0: it is not; None: unknown.
        workers: stop it.
    """

    def __init__(self, a: RsrFile, b: RsrFile, level: int | None, workers: Workers) -> None:
        self._a, self._b, self._level = a, b, level
        self._local = workers.local

    def __call__(self, job: _Job) -> list[Item]:
        """Return the records of a job and what follows them."""
        if job.tensors is not None:
            try:
                return list(self._local.until_stopped(self._changes(job, *job.tensors)))
            except _OtherBytes:
                pass
        return list(self._local.until_stopped(self._carried(job)))

    def write(self, out: BinaryIO, job: _Job) -> list[int]:
        """Write the records of a job without holding them; return their methods."""
        if job.is_copy:
            return _write(out, [Record(COPY, base=base) for base in job.bases])
        start = out.tell()
        if job.tensors is not None:
            try:
                return _write(out, self._changes(job, *job.tensors))
            except _OtherBytes:
                out.seek(start)
                out.truncate()
        return _write(out, self._carried(job))

    def _changes(self, job: _Job, old: IndexedTensor, new: IndexedTensor) -> Iterator[Item]:
        """Yield the changes of an index.

        Raises:
            _OtherBytes: they do not make its bytes.
        """
        entries = entries_of(new)
        sections = [self._b.header.sections[number] for number in job.numbers]
        levels = [self._level if s.codec == "zstd" else 0 for s in sections]
        if None in levels:
            raise _OtherBytes
        a_numbers = [old.sections[part] for part in entries.parts]
        a_chunks = chunk_parts(self._a, a_numbers, entries.chunks())
        b_chunks = chunk_parts(self._b, job.numbers, entries.chunks())
        left = sum(s.stored_size for s in sections)
        yield Record(CHANGES, levels[0] or 0, a_numbers[0])
        for (chunk, before), (_, after) in zip(a_chunks, b_chunks, strict=True):
            slots = chunk.entries * entries.slots
            found = find_changes(entries, entries.read(chunk, before), entries.read(chunk, after))
            data = pack_changes(found, entries.base, slots)
            stored = read_changes(Cursor(memoryview(data)), entries.base, slots, new.name)
            made = before if stored is None else apply_changes(entries, chunk, before, stored)
            left -= len(data)
            if left < 0 or any((m != n).any() for m, n in zip(made, after, strict=True)):
                raise _OtherBytes
            yield data
        for number, level in zip(job.numbers, levels, strict=True):
            if level and not self._is_level(number, level):
                raise _OtherBytes
        for level in levels[1:]:
            yield Record(SEGMENTS, level or 0)

    def _carried(self, job: _Job) -> Iterator[Item]:
        """Yield the bytes of sections, compressed with those of the old file."""
        for number, base in zip(job.numbers, job.bases, strict=True):
            s = self._b.header.sections[number]
            level = self._level if s.codec == "zstd" else None
            if level is not None and not self._is_level(number, level):
                level = None
            if s.codec == "zstd" and level is None:
                yield Record(CARRIED)
                stored = self._b.memory()[s.offset : s.offset + s.stored_size]
                yield from _pieces([stored.data], s.stored_size, None)
                continue
            yield Record(CARRIED, level or 0, base)
            near = None if base is None else Surroundings(self._a.pieces(base))
            yield from _pieces(self._b.pieces(number), s.size, near)

    def _is_level(self, number: int, level: int) -> bool:
        """Whether compressing a section at `level` gives its stored bytes."""
        digest = hashlib.sha256()
        for piece in compressed(self._b.pieces(number), level):
            digest.update(piece)
        return digest.digest() == self._b.header.sections[number].sha256


def _pieces(
    contents: Iterable[memoryview], size: int, base: Surroundings | None
) -> Iterator[bytes]:
    """Yield carried pieces, each after its stored size."""
    reader, start = Contents(contents), 0
    for length in piece_sizes(size):
        piece = reader.take(length)
        stored = compress(piece, None if base is None else base.near(start, length))
        yield STORED.pack(len(stored)) + stored
        start += length
    reader.end()


def _write(out: BinaryIO, items: Iterable[Item]) -> list[int]:
    """Write items; return the methods of the records among them."""
    methods = []
    for item in items:
        if isinstance(item, Record):
            methods.append(item.method)
        out.write(item.pack() if isinstance(item, Record) else item)
    return methods


def _jobs(old: Header, new: Header) -> Iterator[_Job]:
    """Yield what is to be described, in the order of the new file's sections."""
    bases = {key: number for number, key in _keys(old).items()}
    known = {identity(s): number for number, s in reversed(list(enumerate(old.sections)))}
    records = {t.name: t for t in old.tensors}
    indexes = _indexes(new)
    keys, skipped = _keys(new), 0
    for number in range(len(new.sections)):
        if skipped:
            skipped -= 1
            continue
        t = indexes.get(number)
        numbers = [number] if t is None else [t.sections[part] for part in PARTS[t.encoding]]
        if numbers != list(range(number, number + len(numbers))):
            t, numbers = None, [number]
        same = [known.get(identity(new.sections[n])) for n in numbers]
        found = tuple(bases.get(keys[n]) for n in numbers)
        skipped = len(numbers) - 1
        if None not in same:
            yield _Job(tuple(numbers), tuple(same), is_copy=True)
            continue
        before = None if t is None else records.get(t.name)
        if t is not None and isinstance(before, IndexedTensor) and same_index(before, t):
            yield _Job(tuple(numbers), found, (before, t))
        else:
            yield _Job(tuple(numbers), found)


def _keys(header: Header) -> dict[int, tuple[str, ...]]:
    """Return what each section holds, in words that are the same for all files."""
    keys: dict[int, tuple[str, ...]] = {f.section: ("file", f.name) for f in header.files}
    for t in header.tensors:
        if isinstance(t, DenseTensor):
            keys[t.section] = ("tensor", t.name)
        else:
            keys |= {n: ("tensor", t.name, role) for role, n in t.all_sections().items()}
    return keys


def _indexes(header: Header) -> dict[int, IndexedTensor]:
    """Return indexed tensors by the number of the first section of their index."""
    return {
        t.sections[PARTS[t.encoding][0]]: t for t in header.tensors if isinstance(t, IndexedTensor)
    }


def _cost(b: RsrFile) -> Callable[[_Job], int | None]:
    """Return what the records of a job take in memory at most; None for copies."""

    def cost(job: _Job) -> int | None:
        sizes = (b.header.sections[number].stored_size for number in job.numbers)
        return None if job.is_copy else sum(sizes)

    return cost


def _level(b: RsrFile) -> int | None:
    """Return the lowest zstd level that compresses the largest sections as they are stored.

    Returns:
        The level, 0 if no section is compressed; None if this version of zstd compresses otherwise.
    """
    packed = [(s, n) for n, s in enumerate(b.header.sections) if s.codec == "zstd"]
    packed.sort(key=lambda found: -found[0].size)
    probes, left = [], _PROBES * _PROBE
    for s, number in packed:
        if (left := left - min(s.size, _PROBE)) < 0:
            break
        stored = b.memory()[s.offset : s.offset + s.stored_size].data
        probes.append((bytes(Contents(b.pieces(number)).take(_PROBE)), s.size, stored))

    def compresses(level: int, contents: bytes, size: int, stored: memoryview) -> bool:
        packer = compressor(level).compressobj()
        start = packer.compress(contents)
        start += packer.flush() if size <= _PROBE else b""
        return stored[: len(start)] == start

    probes.reverse()  # a wrong level fails at the smallest
    levels = range(1, MAX_LEVEL + 1) if probes else (0,)
    return next((n for n in levels if all(compresses(n, *probe) for probe in probes)), None)


def _check_padding(b: RsrFile) -> None:
    """Check that bytes between sections are zero: a delta does not have them."""
    memory = b.memory()
    starts = [s.offset for s in b.header.sections]
    ends = [s.offset + s.stored_size for s in b.header.sections]
    header = memory.size - len(stored_header(b))
    for start, stop in zip([RSR_PREAMBLE.size, *ends], [*starts, header], strict=True):
        if memory[start:stop].any():
            raise PaddingError(f"{b.path}: the padding (bytes {start} to {stop}) is not zero")


def _finish(out: BinaryIO, a: RsrFile, b: RsrFile, header_size: int) -> int:
    """Write the preamble; return the bytes of the delta."""
    size = out.tell()
    digest = hashlib.sha256()
    out.seek(PREAMBLE.size)
    while piece := out.read(_HASHED):
        digest.update(piece)
    if b.memory().size > (most := max_result(a.memory().size, size)):
        raise LimitError(
            f"{b.path}: {b.memory().size} bytes; a delta of {size} bytes from {a.memory().size} "
            f"old ones may make {most}: send the file itself"
        )
    out.seek(0)
    body = size - PREAMBLE.size
    out.write(
        PREAMBLE.pack(MAGIC, *VERSION, 0, body, header_size, a.digest, b.digest, digest.digest())
    )
    return size
