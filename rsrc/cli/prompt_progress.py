"""Say on a terminal how much of a prompt was read, if that takes long."""

from __future__ import annotations

import sys
from time import monotonic

import click

_PATIENCE = 1.0  # seconds before the line appears
_ERASE = "\r\x1b[K"


class PromptProgress:
    """A line on stderr that counts the tokens read so far, and is erased at the end.

    Attributes:
        done: number of tokens read.
        total: number of tokens of the prompt; 0 before reading begins.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self._begin = monotonic()
        self._is_shown = False

    def __call__(self, done: int, total: int) -> None:
        """Take note of progress, and show it if reading takes longer than a second."""
        self.done, self.total = done, total
        if done == total:
            self.erase()
        elif monotonic() - self._begin > _PATIENCE and sys.stderr.isatty():
            text = click.style(f"reading the prompt: {done:,} of {total:,} tokens", dim=True)
            click.echo(f"{_ERASE}{text}", err=True, nl=False)
            self._is_shown = True

    def erase(self) -> None:
        """Erase the line, if it is there."""
        if self._is_shown:
            click.echo(_ERASE, err=True, nl=False)
            self._is_shown = False
