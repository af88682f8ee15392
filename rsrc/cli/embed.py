"""The command that turns texts into vectors: embed."""

from __future__ import annotations

import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_formats.atomic import atomic_file, check_output
from rsr_formats.text import counted, printable

from .llm import model_options, opened
from .options import PATH, file_argument, force_option, json_option
from .progress_bar import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_POOLINGS = ("lasttoken", "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean")


def _named_npy(
    context: click.Context, parameter: click.Parameter, output: Path | None
) -> Path | None:
    if output is not None and output.suffix.lower() != ".npy":
        raise click.BadParameter(
            f"found {printable(output.name)!r}, expected a name that ends in .npy; without it, the "
            "vectors go to stdout, a JSON list in each line"
        )
    return output


@click.command(short_help="Embed texts: a vector for each.")
@file_argument
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file",
    "text_file",
    type=PATH,
    metavar="PATH",
    help="Embed every line of PATH, a file in UTF-8; - is stdin. Default without TEXT: stdin.",
)
@click.option("--prompt", metavar="TEXT", help="Put TEXT before each text, as an instruction.")
@click.option(
    "--prompt-name",
    metavar="NAME",
    help="Put the model's prompt of this name before each text. Default: the model's default "
    "prompt, if it has one.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(1),
    metavar="N",
    help="Keep the first N dimensions, for models that were trained for it. Default: all.",
)
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Divide vectors by their length. Default: as the model says.",
)
@click.option(
    "--pooling",
    type=click.Choice(_POOLINGS),
    help="How the states of a text's tokens become one vector. Default: as the model says.",
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE.npy",
    callback=_named_npy,
    help="Write the vectors to FILE.npy in NumPy's format: float32 (texts, dimensions).",
)
@force_option
@model_options("Maximum tokens of a text. Default: 4096, or the model's limit if less.")
@json_option
def embed(
    file: Path,
    texts: tuple[str, ...],
    text_file: Path | None,
    prompt: str | None,
    prompt_name: str | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Embed each TEXT with the model in FILE, a .rsr file.

    Prints a line for each text: its vector as a JSON list.
    """
    import numpy

    from .chat_text import read_argument, typed

    if texts and text_file is not None:
        raise click.UsageError("give texts as arguments or with --file, not both")
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("give --prompt or --prompt-name, not both")
    if not texts and text_file is None and sys.stdin.isatty():
        raise click.UsageError("give texts as arguments, on stdin, or in a file with --file")
    if output is not None and as_json:
        raise click.UsageError("give --output or --json, not both")
    if output is not None:
        check_output(output, force)
    options = {name: given.pop(name) for name in ("dimensions", "normalize", "pooling")}
    with opened(file, given) as model:
        found = [typed(text, "TEXT") for text in texts]
        if not found:
            lines = read_argument(text_file or Path("-")).removesuffix("\n").split("\n")
            found = [line.removesuffix("\r") for line in lines]
        if prompt is not None:
            prompt = typed(prompt, "--prompt")
        with (
            warnings.catch_warnings(record=True) as said,
            progress_bar("embedding", in_bytes=False) as shown,
        ):
            warnings.simplefilter("always")
            vectors = model.embed(
                found, prompt=prompt, prompt_name=prompt_name, **options,
                progress=None if shown is None else partial(shown, ""),
            )  # fmt: skip
    for warning in said:
        click.echo(f"rsrc: {printable(str(warning.message))}", err=True)
    if output is not None:
        with atomic_file(output, force) as to:
            numpy.save(to, vectors)
        size = f"{counted(len(vectors), 'vector')} of {vectors.shape[1]:,} numbers"
        click.echo(f"{printable(str(output))}: {size}", err=True)
    elif as_json:
        click.echo(json.dumps(_listed(file, found, vectors), indent=2))
    else:
        for vector in vectors:
            click.echo(json.dumps(vector.tolist()))


def _listed(file: Path, texts: list[str], vectors: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "file": str(file),
        "dimensions": vectors.shape[1],
        "texts": [
            {"text": text, "embedding": vector.tolist()}
            for text, vector in zip(texts, vectors, strict=True)
        ],
    }
