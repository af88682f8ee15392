"""`rsrc bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import ACTIVATIONS, KV, MEMORY, PATH, THREADS, checked_by, compiled, json_option
from .progress_bar import progress_bar


def _check_picture(path: Path) -> None:
    from ..bench import check_picture

    check_picture(path)


@click.command(short_help="Time products, or a language model.")
@click.argument("file", required=False, type=PATH, callback=compiled)
@click.option("--shape", metavar="MxN", help="A random ternary matrix, out_features x in_features.")
@click.option(
    "--model",
    type=PATH,
    callback=compiled,
    metavar="FILE.rsr",
    help="A language model: tokens per second, and where the time of a token goes.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Context length to time --model at, besides 16 tokens. Default: 512, or less if the "
    "model's limit is less.",
)
@click.option(
    "--memory",
    type=MEMORY,
    help="How --model is loaded: map maps it, huge copies it into huge pages, auto maps it and "
    "moves it into huge pages before tokens are timed. Default: auto.",
)
@click.option(
    "--activations",
    type=ACTIVATIONS,
    help="What the linear layers of --model take, as for rsrc run. Default: trained.",
)
@click.option("--kv", type=KV, help="Data type of the KV cache of --model. Default: float16.")
@click.option(
    "--threads",
    type=THREADS,
    multiple=True,
    help="Threads for --model; may be repeated. Default: 1, and all processors.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=checked_by(_check_picture, "plot: "),
    metavar="FILE.png",
    help="Plot the result; .svg and .pdf work too.",
)
@json_option
def bench(
    file: Path | None,
    shape: str | None,
    model: Path | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Time products with the matrices of FILE, with a random matrix, or a language model.

    Each is compared with a plain read of the same bytes, and products also with dense kernels.
    """
    from .. import bench as library
    from ..common.console import console

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
        console().print(render(result))


def _shape(text: str) -> tuple[int, int]:
    m, _, n = text.lower().partition("x")
    if not (m.isdecimal() and n.isdecimal() and int(m) and int(n)):
        raise click.BadParameter(
            f"{text!r}: expected MxN, for instance 4096x4096", param_hint="--shape"
        )
    return int(m), int(n)
