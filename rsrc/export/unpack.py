"""Decompress the sections of a `.rsr` file, so that it can be mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rsr_formats import RsrFile, create
from rsr_formats.atomic import check_output
from rsr_formats.compression import compression_name

from ..common.progress import ByteCounter, ProgressFunction
from ..compiler.reuse import ReuseEntry
from ..source.files import check_not_source


def unpack(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: ProgressFunction | None = None,
) -> None:
    """Write a compressed `.rsr` file as compiling without `zstd` would have written it.

    Sections are decompressed in pieces. Their sizes and hashes are checked.

    Args:
        path: the .rsr file.
        output: the file to write; it appears only once complete.
        force: replace an existing output.
        progress: called as progress(what a section holds, bytes done, total bytes).

    Raises:
        FormatError: the file is damaged.
        OptionError: the output is the file itself.
        OutputExistsError: the output exists and `force` is not set.
        OSError: reading or writing failed; no partial output is left behind.
    """
    check_not_source(Path(output), [Path(path)])
    check_output(output, force)
    file = RsrFile(path)
    header, names = file.header, file.header.owners()
    entry = ReuseEntry.of(header)
    if entry is not None:
        entry = replace(entry, compression=compression_name(None))
    counter = ByteCounter(progress, sum(s.size for s in header.sections))

    def pieces(index: int) -> Iterator[memoryview]:
        for piece in file.pieces(index):
            yield piece
            counter.advance(names[index], len(piece))

    with create(output, force, threaded=True) as writer:
        for index in range(len(header.sections)):
            writer.add(pieces(index))
        writer.finish(
            producer=header.producer,
            metadata=header.metadata,
            files=header.files,
            tensors=header.tensors,
            stacks=header.stacks,
            rotations=header.rotations,
            reuse=None if entry is None else entry.encoded(),
        )
