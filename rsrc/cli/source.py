"""The SOURCE argument: a path, or a model of the Hugging Face Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..common.errors import SourceError
from ..source.hub.name import hub_name, possible_name


class _Source(click.Path):
    """A path; or, as text, the name of a model of the Hub, `hf://...`, also for its address."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        name = hub_name(value)
        return Path(value) if name is None else str(name)


SOURCE = _Source()


def asked(source: Path | str) -> Path | str:
    """Return a source; ask on a terminal if `org/name`, which does not exist, is to be downloaded.

    Raises:
        SourceError: it is not.
    """
    name = None if isinstance(source, str) else possible_name(source)
    if name is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return source
    question = f"{source}: no such file or directory. Download {name} from the Hugging Face Hub?"
    if not click.confirm(question, err=True):
        raise SourceError(f"{source}: no such file or directory")
    return str(name)
