"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from ..common.errors import OptionError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force_option = click.option("--force", is_flag=True, help="Replace an existing output file.")
PATH = click.Path(path_type=Path)
MEMORY = click.Choice(["map", "huge"])  # of a language model
THREADS = click.IntRange(1, 1024)
file_argument = click.argument("file", type=PATH)


def output_option(help: str = "The .rsr file to write.") -> Decorator:
    """Return the option -o, --output of a command that writes a file."""
    return click.option("-o", "--output", required=True, type=PATH, help=help)


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
