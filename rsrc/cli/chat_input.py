"""Read the messages of a conversation from a terminal or a pipe.

A message is a line. A backslash at the end of a line continues it on the next line, and lines
between two triple quotes are one message. Lines pasted into a terminal are one message, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import click

from ..common.errors import SourceError
from .chat_text import MAX_INPUT, checked, typed
from .signals import interrupts

QUOTES = '"""'


class Entry(NamedTuple):
    """A message, or a command."""

    text: str
    is_line: bool  # a single line outside of triple quotes: it may be a command


class _Discarded(Exception):  # noqa: N818 (not an error: Ctrl-C)
    """The lines of the message so far are discarded."""


_Read = Callable[[bool], str | None]  # takes whether the line continues a message; None is the end


def typed_entries() -> Iterator[Entry]:
    """Yield what is typed on a terminal, until Ctrl-D."""
    return _entries(_line_reader())


def piped_entries() -> Iterator[Entry]:
    """Yield what comes on stdin, each message as soon as its last line arrives.

    Raises:
        SourceError: a line is not UTF-8 or larger than 64 MiB, or triple quotes are not closed.
    """

    def read(continues: bool) -> str | None:
        line = checked(sys.stdin.buffer.readline(MAX_INPUT + 1), "stdin")
        return line.removesuffix("\n").removesuffix("\r") if line else None

    return _entries(read)


def _entries(read: _Read) -> Iterator[Entry]:
    while True:
        with suppress(_Discarded):
            line = read(False)
            if line is None:
                return
            yield _entry(line, read)


def _entry(line: str, read: _Read) -> Entry:
    """Return the message that begins with a line."""
    begin = line.strip()
    if begin.startswith(QUOTES):
        return Entry(_quoted(begin.removeprefix(QUOTES), read), False)
    lines = [line]
    while _is_continued(lines[-1]):
        lines[-1] = lines[-1][:-1]
        further = read(True)
        if further is None:
            break
        lines.append(further)
    text = "\n".join(lines).strip()
    return Entry(text, "\n" not in text)


def _is_continued(line: str) -> bool:
    """Return whether a line ends with an odd number of backslashes: two are text."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _quoted(text: str, read: _Read) -> str:
    """Return the text up to the line that ends with triple quotes."""
    lines, size = [text], len(text)
    while not lines[-1].rstrip().endswith(QUOTES):
        line = read(True)
        if line is None:
            raise SourceError(f"stdin: a message that begins with {QUOTES} must end with {QUOTES}")
        lines.append(line)
        size += len(line) + 1
        if size > MAX_INPUT:
            raise SourceError(f"stdin: a message of more than {MAX_INPUT:,} characters")
    return "\n".join(lines).rstrip().removesuffix(QUOTES).strip("\n")


def _line_reader() -> _Read:
    """Return a function that reads a line from the terminal."""
    line_so_far: Callable[[], str] = str  # without readline, the line counts as empty
    with suppress(ImportError):
        import readline  # gives input() line editing and history

        line_so_far = readline.get_line_buffer
        if "libedit" not in (readline.__doc__ or "") and os.environ.get("TERM") != "dumb":
            # Then the lines of a pasted text do not end the input.
            readline.parse_and_bind("set enable-bracketed-paste on")

    def read(continues: bool) -> str | None:
        try:
            with interrupts():
                line = input(". " if continues else "> ")
        except EOFError:
            click.echo()
            return None
        except KeyboardInterrupt:
            click.echo()
            if not continues and not line_so_far():
                click.echo("Ctrl-D or /exit leaves", err=True)
            raise _Discarded from None
        return typed(line, "stdin")

    return read
