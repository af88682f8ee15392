"""Console output for people: tables, sizes, and the names of slow stages."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_formats.text import size as size

_PATIENCE = 2.0  # seconds before a stage that is still running is announced


def console() -> Console:
    """Return a console for stdout that prints names as they are.

    Lines wrap at the width of the terminal, and never in a pipe.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "█" and names may have no encoding
    width = None if sys.stdout.isatty() else 1000
    return Console(width=width, markup=False, emoji=False, highlight=False)


def new_table(first: str, *others: str) -> Table:
    """Return an empty table; all columns but the first are right-aligned."""
    table = Table()
    table.add_column(Text(first), overflow="fold")  # Text: "L[s]" is no markup; names stay whole
    for name in others:
        table.add_column(Text(name), justify="right", overflow="fold")
    return table


@contextmanager
def announced(stage: str) -> Iterator[None]:
    """Print a line that names the stage if the block takes longer than two seconds."""
    timer = Timer(_PATIENCE, print, [f"{stage} ..."], {"flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
