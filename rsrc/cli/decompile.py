"""`rsrc decompile` and `rsrc unpack`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rsr_formats.text import counted, printable

from ..export import GGUF_TYPES
from ..export import NAMES as FORM_NAMES
from .options import file_argument, force_option, json_option, output_option
from .progress_bar import progress_bar


@click.command(short_help="Restore the source's tensors, or export them in another form.")
@file_argument
@output_option("A .safetensors file, a new model directory or, for gguf, a file.")
@click.option(
    "--to",
    type=click.Choice(FORM_NAMES),
    default="source",
    help="source (the default): the source's tensors byte for byte, except for quantized ones; "
    "bitnet: packed, for transformers; int8: -1, 0, 1 and scales; float: products of both; "
    "gguf: for llama.cpp.",
)
@click.option(
    "--type",
    "gguf_type",
    type=click.Choice(GGUF_TYPES),
    help="GGUF type of ternary matrices. Default: TQ2_0 where it holds their scales, else Q2_0.",
)
@force_option
def decompile(file: Path, output: Path, to: str, gguf_type: str | None, force: bool) -> None:
    """Restore the tensors of a .rsr FILE as the source stores them, or export them."""
    from ..export.decompile import decompile as run

    if gguf_type is not None and to != "gguf":
        raise click.UsageError("--type needs --to gguf")
    with progress_bar("decompiling") as progress:
        result = run(file, output, to=to, type=gguf_type, force=force, progress=progress)
    paths = sorted(output.iterdir()) if output.is_dir() else [output]
    for path in paths:
        click.echo(f"{path}: {path.stat().st_size:,} bytes")
    for note in result.notes:
        click.echo(printable(note))
    if result.quantized:
        tensors = counted(len(result.quantized), "tensor")
        click.echo(f"quantized values instead of the source's: {tensors}")


@click.command(short_help="Decompress a .rsr file, so that it can be mapped.")
@file_argument
@output_option()
@force_option
@json_option
def unpack(file: Path, output: Path, force: bool, as_json: bool) -> None:
    """Write a compressed .rsr FILE without compression, so that it can be mapped."""
    from ..export.unpack import unpack as run

    with progress_bar("unpacking") as progress:
        run(file, output, force=force, progress=progress)
    before, after = file.stat().st_size, output.stat().st_size
    if as_json:
        result = {"file": str(file), "bytes": before, "output": str(output), "output_bytes": after}
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"{output}: {after:,} bytes, from {before:,}")
