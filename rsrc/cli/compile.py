"""`rsrc compile`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from rsr_formats.records import ENCODINGS

from ..compiler.options import HEAD_DTYPES
from ..compiler.target import TARGETS
from ..layouts import QUANTIZERS
from ..layouts.scales import parse_per
from ..workers.dask import check_address
from .options import PATH, checked_by, force_option, json_option, output_option
from .progress_bar import progress_bar
from .source import SOURCE, asked

_EXAMPLES = """\b
Examples:
  rsrc compile hf://microsoft/bitnet-b1.58-2B-4T -o bitnet-2b.rsr --head int8
  rsrc compile model.gguf -o model.rsr
  rsrc compile model.safetensors -o model.rsr --target avx2 --zstd 3
"""


@click.command("compile", short_help="Compile a checkpoint to one .rsr file.", epilog=_EXAMPLES)
@click.argument("source", type=SOURCE)
@output_option()
@click.option(
    "--encoding",
    type=click.Choice(["auto", *ENCODINGS]),
    default="auto",
    help="Encoding of the index. auto chooses ranked, which is smaller and faster.",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="native",
    help="Processors to pack the index for. native is this machine.",
)
@click.option(
    "--direction",
    type=click.Choice(["auto", "expand", "reduce"]),
    default="auto",
    help="Index W (expand) or its transpose (reduce). auto chooses expand for ranked and reduce, "
    "the paper's direction, for permuted.",
)
@click.option(
    "-k",
    type=click.IntRange(1, 16),
    help="Columns per column block: for ranked up to 4 (ternary), 5 (binary) or 2 (four or five "
    "values). Default: chosen by a cost model.",
)
@click.option(
    "--quantize",
    type=click.Choice(tuple(QUANTIZERS)),
    help="Quantize linear weights that are not ternary by this rule: post-training quantization, "
    "lossy. Self-quantizing models do not need it.",
)
@click.option(
    "--per",
    callback=checked_by(parse_per, "per: "),
    metavar="tensor|row|group:N",
    help="What shares a scale with --quantize; group:N is N columns of a row. Default: tensor.",
)
@click.option(
    "--head",
    type=click.Choice(HEAD_DTYPES),
    help="Quantize the output head to int8 with a scale per row: lossy, 1/2 or 1/4 of its bytes.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Index only matching tensors.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Keep matching tensors dense.")
@click.option(
    "--zstd", type=click.IntRange(1, 22), metavar="LEVEL", help="Compress at level 1 to 22."
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Tensors to process at once. Default: the number of processors.",
)
@click.option(
    "--executor",
    metavar="dask://HOST:PORT",
    callback=checked_by(check_address, "executor: "),
    help="Process tensors on the workers of a Dask scheduler, which read SOURCE by the same path.",
)
@click.option(
    "--reuse",
    type=PATH,
    metavar="OLD.rsr",
    help="Copy what OLD.rsr holds of unchanged tensors. It may be the output; same bytes, sooner.",
)
@click.option(
    "--no-cache",
    is_flag=True,
    help="Download a model of the Hub one file at a time, and keep none of them.",
)
@force_option
@json_option
def compile_command(
    source: Path | str, output: Path, no_cache: bool, as_json: bool, **options: Any
) -> None:
    """Compile SOURCE to one .rsr file.

    SOURCE is a .safetensors or .gguf file, a .safetensors.index.json or a model directory; or
    hf://ORG/NAME[@REVISION][/FILE], a model of the Hugging Face Hub.
    """
    from ..compiler.pipeline import compile as run

    if options["per"] is not None and options["quantize"] is None:
        raise click.UsageError("--per needs --quantize")
    if options["reuse"] is not None and options["executor"] is not None:
        raise click.UsageError(
            "--reuse is for threads of this process: the workers of --executor do not read OLD.rsr"
        )
    source = asked(source)
    if no_cache and isinstance(source, Path):
        raise click.UsageError("--no-cache is for a model of the Hub: hf://ORG/NAME")
    if no_cache and options["executor"] is not None:
        raise click.UsageError(
            "--no-cache keeps no files that the workers of --executor could read"
        )
    with progress_bar("compiling") as progress:
        report = run(source, output, cache=not no_cache, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        from .report_tables import print_report

        print_report(report)
