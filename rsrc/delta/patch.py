"""Apply a delta: `rsrc patch`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

from rsr_formats import RsrFile
from rsr_formats.atomic import atomic_file, check_output
from rsr_formats.processors import usable_processors
from rsr_formats.records import MAGIC, PREAMBLE

from ..common.errors import DeltaError
from ..common.progress import ByteCounter, ProgressFunction
from ..source.files import check_not_source
from ..workers.pool import Workers, open_workers
from .apply import Job, make_sections
from .read import Delta, StoredSection, read_delta
from .records import SEGMENTS


def patch(
    old: str | os.PathLike[str],
    delta: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressFunction | None = None,
) -> None:
    """Write the new file of a delta, byte for byte as `diff` read it.

    Args:
        old: the `.rsr` file that the delta was made from; `output` may replace it.
        delta: a `.rsrd` file.
        output: the `.rsr` file to write; it appears only once complete.
        threads: sections to make at once. Default: the processors that this process may
            use.
        force: replace an existing output.
        progress: called as progress(what a section holds, bytes done, total bytes).

    Raises:
        WrongBaseError: the delta was made from another file.
        DeltaError: the delta is damaged, or this version of zstd compresses otherwise.
        FormatError: the delta or the old file is damaged.
        OptionError: the output is the delta.
        OutputExistsError: the output exists and `force` is not set.
        OSError: reading or writing failed; no partial output is left behind.
    """
    check_not_source(Path(output), [Path(delta)])
    check_output(output, force)
    opened = RsrFile(old)
    read = read_delta(Path(delta), opened)
    counter = ByteCounter(progress, sum(s.section.stored_size for s in read.sections))
    threads = threads or usable_processors()
    with atomic_file(output, force) as out, open_workers(None, threads) as workers:
        out.write(bytes(PREAMBLE.size))
        try:
            for made, pieces in _results(opened, read, workers):
                out.seek(made.section.offset)  # bytes between sections stay zero
                for piece in pieces:
                    out.write(piece)
                    counter.advance(made.name, len(piece))
        except DeltaError as error:
            raise DeltaError(f"{delta}: {error}") from None
        _finish(out, read)


def _results(
    old: RsrFile, delta: Delta, workers: Workers
) -> Iterator[tuple[StoredSection, Iterable[memoryview]]]:
    """Yield the sections in order with their stored bytes; workers make them ahead."""
    make = partial(_make, old, workers)
    with closing(workers.map(make, _jobs(delta.sections), _cost)) as results:
        for job, made in results:
            yield from make_sections(old, job) if made is None else made


def _make(old: RsrFile, workers: Workers, job: Job) -> list[tuple[StoredSection, list[memoryview]]]:
    local = workers.local
    return [(s, list(local.until_stopped(pieces))) for s, pieces in make_sections(old, job)]


def _jobs(sections: list[StoredSection]) -> Iterator[Job]:
    for i, section in enumerate(sections):
        if section.record.method == SEGMENTS:
            continue
        end = i + 1
        while end < len(sections) and sections[end].record.method == SEGMENTS:
            end += 1
        yield Job(tuple(sections[i:end]))


def _cost(job: Job) -> int | None:
    """Return the bytes of a result in memory; None for bytes that the old file has."""
    return None if job.is_copy else job.nbytes


def _finish(out: BinaryIO, delta: Delta) -> None:
    offset = delta.size - len(delta.header_bytes)
    out.seek(offset)
    out.write(delta.header_bytes)
    digest = hashlib.sha256(delta.header_bytes).digest()
    out.seek(0)
    version = delta.header.version()
    out.write(PREAMBLE.pack(MAGIC, *version, 0, offset, len(delta.header_bytes), digest))
