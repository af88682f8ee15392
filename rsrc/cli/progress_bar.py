"""A progress bar on a terminal, and silence in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rsr_formats.text import printable

from ..common.progress import ProgressFunction


class _Shown:
    """Shows progress on a bar."""

    def __init__(self, update: Callable[..., None]) -> None:
        self._update = update
        self._name: str | None = None
        self._tensors = self._count = 0

    def begin(self, phase: str, tensors: int) -> None:
        """Start a phase with that many tensors."""
        self._name, self._tensors, self._count = None, tensors, 0
        # Refreshed at once: a short phase may end before the next tick.
        self._update(verb=phase, count=f"0 of {tensors}", refresh=True)

    def __call__(self, name: str, done: int, total: int) -> None:
        if name != self._name:  # a large tensor is reported piece by piece
            self._name = name
            self._count += 1
        count = f"{self._count} of {self._tensors}" if self._tensors else ""
        self._update(completed=done, total=total, tensor=printable(name), count=count)


@contextmanager
def progress_bar(verb: str, in_bytes: bool = True) -> Iterator[ProgressFunction | None]:
    """A progress bar on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    columns = (
        progress.TextColumn("{task.fields[verb]}"),
        progress.BarColumn(bar_width=10),
        progress.TextColumn("{task.fields[count]}"),
        *((progress.DownloadColumn(), progress.TransferSpeedColumn()) if in_bytes else ()),
        progress.TimeRemainingColumn(),
        progress.TextColumn(
            "{task.fields[tensor]}",
            style="dim",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True),  # the remaining width
        ),
    )
    console = Console(stderr=True)
    with progress.Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task("", total=None, verb=verb, count="", tensor="")
        yield _Shown(partial(bar.update, task))
