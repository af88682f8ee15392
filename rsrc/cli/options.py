"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from rsr_formats.text import listed

from ..common.errors import OptionError, SourceError
from ..source.hub.name import hub_name, possible_name
from ..source.wrong_file import is_checkpoint, is_file, is_gguf, look

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
speculate_option = click.option(
    "--speculate",
    type=click.Choice(["ngram", "off"]),
    default="off",
    help="ngram guesses that a text repeats a part of itself or of the prompt, and computes "
    "several tokens at once where that pays. Default: off.",
)
force_option = click.option("--force", is_flag=True, help="Replace an existing output file.")
PATH = click.Path(path_type=Path)
KV = click.Choice(["float16", "float32", "int8"])  # of a language model
ACTIVATIONS = click.Choice(["trained", "float32", "int8-group"])  # of a language model
MEMORY = click.Choice(["auto", "map", "huge"])  # of a language model
THREADS = click.IntRange(1, 1024)


def compiled(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Check that a path may be a .rsr file; a click callback.

    Raises:
        SourceError: it is a directory, a checkpoint, or the id of a model: says what to do first;
            or it is not a regular file.
    """
    if value is None:
        return None
    name = hub_name(value) or possible_name(value)
    if name is not None:
        raise SourceError(
            f"expected a .rsr file, found {name}, a model of the Hugging Face Hub: run "
            f"`rsrc compile {name} -o {name.short}.rsr` first"
        )
    if not value.is_dir():
        is_file(value)
    inside = [p.name for p in sorted(value.glob("*.rsr"))] if value.is_dir() else []
    if inside:
        raise SourceError(f"{value}: a directory: name a .rsr file in it, {listed(inside)}")
    if not is_checkpoint(value):
        return value
    if value.is_file():
        look(value)
    # A safetensors file by itself would lack config.json and the tokenizer.
    alone = not value.is_dir() and not is_gguf(value)
    raise SourceError(
        f"{value}: a checkpoint; compile it first: rsrc compile "
        f"{value.parent if alone else value} -o FILE.rsr"
    )


file_argument = click.argument("file", type=PATH, callback=compiled)  # a .rsr file


def _adapters(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Path]:
    """Return the directories of adapters by name."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not text or (equals and not (name and path)):
            raise click.BadParameter(f"found {text!r}, expected DIR or NAME=DIR")
        if not equals or Path(text).exists():
            named, path = Path(text), text
            name = named.name if named.name not in ("", "..") else named.resolve().name
        if name in found:
            raise click.BadParameter(
                f"{found[name]} and {path} are both named {name!r}: name one of them, NAME=DIR"
            )
        found[name] = Path(path)
    return found


def lora_option(help: str) -> Decorator:
    """Return the option --lora of a command that runs a language model."""
    return click.option(
        "--lora", "adapters", multiple=True, metavar="[NAME=]DIR", callback=_adapters, help=help
    )


added_lora_option = lora_option(
    "Apply the LoRA adapter of PEFT in DIR; may be repeated: all are added up."
)


def _no_stdout(
    context: click.Context, parameter: click.Parameter, value: Path | None
) -> Path | None:
    if str(value) == "-":
        raise click.BadParameter("output to stdout is not supported: give the name of a file")
    return value


def output_option(help: str = "The .rsr file to write.", required: bool = True) -> Decorator:
    """Return the option -o, --output of a command that writes a file."""
    return click.option(
        "-o", "--output", required=required, type=PATH, callback=_no_stdout, help=help
    )


def options(*decorators: Decorator) -> Decorator:
    """Return a decorator that adds options to a command; `--help` lists them in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        return reduce(lambda decorated, option: option(decorated), reversed(decorators), command)

    return add


def checked_by(check: Callable[[Any], object], prefix: str = "") -> Callable[..., Any]:
    """Return a click callback that turns an OptionError of `check` into a usage error.

    Args:
        check: takes the value of the option.
        prefix: of its message; removed, because click names the option itself.
    """

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            try:
                check(value)
            except OptionError as error:
                raise click.BadParameter(str(error).removeprefix(prefix)) from None
        return value

    return callback
