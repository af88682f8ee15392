"""The command line: parses options, calls the library, prints.

Exit codes: 0 done, 1 refused with a reason on stderr, 2 usage, 128 + the number of a signal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from rsr_formats.errors import RsrError
from rsr_formats.records import ENCODINGS
from rsr_formats.text import printable

from .._version import __version__
from ..common.errors import OptionError
from ..compiler.options import HEAD_DTYPES
from ..compiler.target import TARGETS
from ..export import GGUF_TYPES
from ..export import NAMES as FORM_NAMES
from ..layouts import QUANTIZERS
from ..layouts.cells import parse_per
from ..source.open import is_source
from ..workers.dask import check_address
from . import llm as cli_llm
from .progress_bar import progress_bar
from .signals import ending_at_once

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_force_option = click.option("--force", is_flag=True, help="Replace an existing output file.")


class _Group(click.Group):
    """Turns what the library refuses into a sentence on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ending_at_once():
                return super().invoke(ctx)
        except (RsrError, OSError, MemoryError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            click.echo(f"rsrc: {printable(_reason(error))}", err=True)
            ctx.exit(1)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rsrc")
def main() -> None:
    """Compile ternary (1.58-bit) weights to an RSR index, and run what it holds."""


def _checked_per(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            parse_per(value)
        except OptionError as error:
            raise click.BadParameter(str(error)) from None
    return value


def _check_executor(ctx: click.Context, option: click.Parameter, url: str | None) -> str | None:
    if url is not None:
        try:
            check_address(url)
        except OptionError as error:
            raise click.BadParameter(str(error).removeprefix("executor: ")) from None
    return url


def _check_picture(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        from ..bench import check_picture

        try:
            check_picture(path)
        except OptionError as error:
            raise click.BadParameter(str(error).removeprefix("plot: ")) from None
    return path


@main.command("compile")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The .rsr file to write."
)
@click.option(
    "--encoding",
    type=click.Choice(["auto", *ENCODINGS]),
    default="auto",
    help="How the index is stored; auto is ranked, the faster and smaller one.",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="native",
    help="The machine the products will run on; native is this one.",
)
@click.option(
    "--direction",
    type=click.Choice(["auto", "expand", "reduce"]),
    default="auto",
    help="Index W (expand) or its transpose (reduce: the paper's, for permuted).",
)
@click.option("-k", type=click.IntRange(1, 16), help="Columns of a column block.")
@click.option(
    "--quantize",
    type=click.Choice(tuple(QUANTIZERS)),
    help="Make linear weights that are not ternary so by this rule: post-training quantization, "
    "lossy. Models that say they quantize their weights themselves need none.",
)
@click.option(
    "--per",
    callback=_checked_per,
    metavar="tensor|row|group:N",
    help="What --quantize gives a scale of its own; group: N columns of a row. Default: tensor.",
)
@click.option(
    "--head",
    type=click.Choice(HEAD_DTYPES),
    help="Make the output head int8, a scale for each row: half or a quarter of its bytes, lossy.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Index only matching tensors.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Keep matching tensors dense.")
@click.option("--zstd", type=click.IntRange(1, 22), metavar="LEVEL", help="Compress, 1 to 22.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="How many tensors are worked on at once; default: all processors.",
)
@click.option(
    "--executor",
    metavar="dask://HOST:PORT",
    callback=_check_executor,
    help="Let the workers of a Dask scheduler do it; they read SOURCE by the same path.",
)
@_force_option
@_json_option
def compile_command(source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Compile SOURCE to one .rsr file.

    SOURCE is a .safetensors or .gguf file, a .safetensors.index.json or a model directory.
    """
    from ..compiler.pipeline import compile as run

    if options["per"] is not None and options["quantize"] is None:
        raise click.UsageError("--per needs --quantize")
    with progress_bar("compiling") as progress:
        report = run(source, output, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        from .tables import print_report

        print_report(report)


@main.command(short_help="Show what is in a .rsr file, or would become of a checkpoint.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tensor", metavar="NAME", help="Show one tensor in full.")
@click.option("--block", type=int, metavar="J", help="Its column block J: permutation, segments.")
@_json_option
def inspect(file: Path, tensor: str | None, block: int | None, as_json: bool) -> None:
    """Show what is in a .rsr FILE, or what compiling a checkpoint would do, tensor by tensor.

    FILE is a .rsr file or whatever compile takes as SOURCE.
    """
    from ..inspection import file as library

    if block is not None and tensor is None:
        raise click.UsageError("--block needs --tensor")
    if is_source(file):
        if block is not None:
            raise click.UsageError("--block is for .rsr files: compile the checkpoint first")
        _inspect_source(file, tensor, as_json)
        return
    if tensor is None:
        result = library.inspect_file(file)
    elif block is None:
        result = library.inspect_tensor(file, tensor)
    else:
        result = library.inspect_block(file, tensor, block)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        from . import tables

        tables.print_inspection(result)


def _inspect_source(source: Path, tensor: str | None, as_json: bool) -> None:
    from ..inspection.survey import survey

    with progress_bar("looking") as progress:
        result = survey(source, tensor, progress)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        from .tables import print_survey

        print_survey(result)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="SOURCE",
    help="Also check that FILE holds every tensor of SOURCE byte for byte (or quantizes to it).",
)
@_json_option
def verify(file: Path, against: Path | None, as_json: bool) -> None:
    """Check every byte of a .rsr FILE."""
    from rsr_formats import RsrFile

    from ..export.decompile import added_tensors, compare, quantized_tensors

    opened = RsrFile(file)
    total = sum(s.stored_size for s in opened.header.sections)
    done = 0
    with progress_bar("verifying") as progress:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress("", done, total)

        opened.verify(advance)
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
        f"{file}: whole: {result['tensors']} tensors in {result['sections']} sections, "
        f"{result['bytes']:,} bytes"
    )
    if against is not None:
        lossy = f", {result['quantised']} of them quantized as then" if result["quantised"] else ""
        more = "".join(f", and {name} as made of them" for name in result["added"])
        click.echo(f"{file}: holds all {compared} tensors of {against}{lossy}{printable(more)}")


@main.command(short_help="Write the tensors of a .rsr file again, or another form.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A .safetensors file; or a new model directory; or, for gguf, a file.",
)
@click.option(
    "--to",
    type=click.Choice(FORM_NAMES),
    default="source",
    help="The source again, byte for byte (quantized tensors as kept), or another form.",
)
@click.option(
    "--type",
    "gguf_type",
    type=click.Choice(GGUF_TYPES),
    help="Of ternary matrices with --to gguf; default: TQ2_0.",
)
@_force_option
def decompile(file: Path, output: Path, to: str, gguf_type: str | None, force: bool) -> None:
    """Write the tensors of a .rsr FILE again, as the source had them or in another form."""
    from ..export.decompile import decompile as run

    if gguf_type is not None and to != "gguf":
        raise click.UsageError("--type needs --to gguf")
    notes: list[str] = []
    with progress_bar("decompiling") as progress:
        quantized = run(
            file,
            output,
            to=to,
            type=gguf_type,
            force=force,
            progress=progress,
            note=notes.append,
        )
    paths = sorted(output.iterdir()) if output.is_dir() else [output]
    for path in paths:
        click.echo(f"{path}: {path.stat().st_size:,} bytes")
    for note in notes:
        click.echo(printable(note))
    if quantized:
        noun = "tensor is" if len(quantized) == 1 else "tensors are"
        click.echo(f"{len(quantized)} {noun} not as in the source, but as quantized from it")


@main.command(short_help="Write a compressed .rsr file again so that it can be mapped.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The .rsr file to write."
)
@_force_option
@_json_option
def unpack(file: Path, output: Path, force: bool, as_json: bool) -> None:
    """Write a compressed .rsr FILE again with all its sections raw, so that it can be mapped."""
    from ..export.unpack import unpack as run

    with progress_bar("unpacking") as progress:
        run(file, output, force=force, progress=progress)
    before, after = file.stat().st_size, output.stat().st_size
    if as_json:
        result = {"file": str(file), "bytes": before, "output": str(output), "output_bytes": after}
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"{output}: {after:,} bytes, from {before:,}")


@main.command(short_help="Time products, or a language model.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--shape", metavar="MxN", help="A random ternary matrix, out_features x in_features.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE.rsr",
    help="A language model: its tokens per second, and where the time of a token goes.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens before those that --model generates. Default: 512; and always 16.",
)
@click.option(
    "--memory",
    type=click.Choice(["map", "huge"]),
    help="How --model is loaded: mapped, the default, or copied into huge pages.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    multiple=True,
    help="Of --model; may be repeated. Default: 1, and all processors.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_check_picture,
    metavar="FILE.png",
    help="Draw the result; .svg and .pdf are possible too.",
)
@_json_option
def bench(
    file: Path | None,
    shape: str | None,
    model: Path | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Time products with the matrices of FILE or a random one, or the language model in a file.

    Products are timed beside their rivals, and everything beside the memory limit.
    """
    from .. import bench as library

    if [file, shape, model].count(None) != 2:
        raise click.UsageError("give either a FILE, --shape MxN or --model FILE.rsr")
    given = {name: value for name, value in options.items() if value}
    if given and model is None:
        raise click.UsageError(f"--{next(iter(given))} needs --model")
    if plot is not None:
        library.require_matplotlib()
    draw, render = library.plot, library.render_table
    with progress_bar("measuring", in_bytes=False) as progress:
        if model is not None:
            result = library.bench_model(model, progress=progress, **given)
            draw, render = library.plot_model, library.render_model_table
        elif shape is not None:
            result = library.bench_shape(*_shape(shape), progress=progress)
        else:
            assert file is not None
            result = library.bench_file(file, progress=progress)
    if plot is not None:
        draw(result, plot)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        from .tables import console

        console().print(render(result), highlight=False)


def _shape(text: str) -> tuple[int, int]:
    m, _, n = text.lower().partition("x")
    if not (m.isdecimal() and n.isdecimal() and int(m) and int(n)):
        raise click.BadParameter(
            f"{text!r}: expected MxN, for instance 4096x4096", param_hint="--shape"
        )
    return int(m), int(n)


@main.command(short_help="Compile and run the embedded examples.")
def demo() -> None:
    """Compile the embedded examples: one reads handwritten digits, one writes a paragraph."""
    from ..demo import run

    run()


@main.command(short_help="Show the processor, the kernels in use and all versions.")
@_json_option
def info(as_json: bool) -> None:
    """Show the processor, its instruction sets, the kernels in use and all versions."""
    from ..inspection.info import info as collect

    result = collect()
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        from .tables import print_info

        print_info(result)


for _command in (cli_llm.run, cli_llm.chat, cli_llm.perplexity):
    main.add_command(_command)


if __name__ == "__main__":
    main()
