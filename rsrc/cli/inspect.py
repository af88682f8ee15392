"""`rsrc inspect` and `rsrc verify`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from rsr_formats.text import printable

from ..common.progress import ByteCounter
from ..source.open import is_source
from ..source.wrong_file import is_file
from .options import file_argument, json_option
from .progress_bar import progress_bar
from .source import SOURCE, asked


@click.command(short_help="Show what a .rsr file holds, or how a checkpoint would compile.")
@click.argument("file", type=SOURCE)
@click.option("--tensor", metavar="NAME", help="Show one tensor in full.")
@click.option(
    "--block", type=int, metavar="J", help="Show column block J of --tensor: permutation, segments."
)
@json_option
def inspect(file: Path | str, tensor: str | None, block: int | None, as_json: bool) -> None:
    """Show the tensors of a .rsr FILE, or how each tensor of a checkpoint would compile.

    FILE is a .rsr file, or any SOURCE of rsrc compile.
    """
    from ..inspection.file import inspect_block, inspect_file, inspect_tensor
    from ..inspection.survey import survey
    from .inspect_tables import print_inspection, print_survey

    if block is not None and tensor is None:
        raise click.UsageError("--block needs --tensor")
    source = asked(file)
    if isinstance(source, Path) and not source.is_dir():
        is_file(source)
    of_source = is_source(source)
    if of_source:
        if block is not None:
            raise click.UsageError("--block is for .rsr files: compile the checkpoint first")
        with progress_bar("reading") as progress:
            result = survey(source, tensor, progress)
    elif tensor is None:
        result = inspect_file(source)
    elif block is None:
        result = inspect_tensor(source, tensor)
    else:
        result = inspect_block(source, tensor, block)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif of_source:
        print_survey(result)
    else:
        print_inspection(result)


@click.command(short_help="Check every byte of a .rsr file, also against its source.")
@file_argument
@click.option(
    "--against",
    type=SOURCE,
    metavar="SOURCE",
    help="Also check that FILE holds every tensor of SOURCE byte for byte, or quantized from it.",
)
@json_option
def verify(file: Path, against: Path | str | None, as_json: bool) -> None:
    """Check every byte of a .rsr FILE."""
    from rsr_formats import RsrFile

    from ..export.decompile import added_tensors, quantized_tensors
    from ..inspection.compare import compare

    opened = RsrFile(file)
    with progress_bar("verifying") as progress:
        counter = ByteCounter(progress, sum(s.stored_size for s in opened.header.sections))
        opened.verify(partial(counter.advance, ""))
    compared = None
    if against is not None:
        with progress_bar("comparing") as progress:
            compared = compare(file, against, progress)
    result: dict[str, Any] = {
        "file": str(file),
        "tensors": len(opened.header.tensors),
        "sections": len(opened.header.sections),
        "bytes": file.stat().st_size,
        "against": None if against is None else str(against),
        "compared": compared,
        "quantised": len(quantized_tensors(opened)),
        "added": added_tensors(opened),
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(
        f"{file}: intact: {result['tensors']} tensors in {result['sections']} sections, "
        f"{result['bytes']:,} bytes"
    )
    if against is not None:
        lossy = (
            f", {result['quantised']} re-quantized as when compiled" if result["quantised"] else ""
        )
        more = "".join(f", and {name}, quantized from it" for name in result["added"])
        click.echo(f"{file}: holds all {compared} tensors of {against}{lossy}{printable(more)}")
