"""Say on a terminal how much of a prompt was read, if that takes long."""

from __future__ import annotations

import sys
from threading import Lock, Timer

import click

_PATIENCE = 1.0  # seconds before the line appears
_ERASE = "\r\x1b[K"


class PromptProgress:
    """A line on stderr that counts the tokens read so far, and is erased at the end.

    It appears by itself after a second: a pass over hundreds of tokens may take longer than that.

    Attributes:
        done: number of tokens read.
        total: number of tokens of the prompt; 0 before reading begins.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self._lock = Lock()  # of what follows, and of the line
        self._timer: Timer | None = None
        self._is_shown = False
        self._is_erased = False

    def __call__(self, done: int, total: int) -> None:
        """Take note of progress, and show it if the line is there."""
        is_first = self.total == 0
        self.done, self.total = done, total
        if done == total:
            self.erase()
        elif is_first and sys.stderr.isatty():
            self._timer = Timer(_PATIENCE, self._show)
            self._timer.daemon = True
            self._timer.start()
        elif self._is_shown:
            self._show()

    def erase(self) -> None:
        """Erase the line, if it is there; it does not appear again."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._is_erased = True
            if self._is_shown:
                click.echo(_ERASE, err=True, nl=False)
                self._is_shown = False

    def _show(self) -> None:
        with self._lock:
            if not self._is_erased:
                text = f"reading the prompt: {self.done:,} of {self.total:,} tokens"
                click.echo(_ERASE + click.style(text, dim=True), err=True, nl=False)
                self._is_shown = True
