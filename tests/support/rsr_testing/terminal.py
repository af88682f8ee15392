"""A process on a terminal: a pseudo-terminal whose other end the tests hold."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .commands import ENVIRONMENT
from .process import SIGINT_RAISES, started

Process = subprocess.Popen[bytes]


def read_until(fd: int, wanted: bytes | None, seconds: float = 40) -> bytes:
    """Read until `wanted` has come (None: anything), and return all that came."""
    found, end = b"", time.monotonic() + seconds
    while not found if wanted is None else wanted not in found:
        ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
        assert ready, f"only {found!r} came, not {wanted!r}"
        data = os.read(fd, 1 << 16)
        assert data, f"only {found!r} came, not {wanted!r}"
        found += data
    return found


class Terminal:
    """A process whose terminal is at our end of a pair."""

    def __init__(self, fd: int, process: Process) -> None:
        self._fd = fd
        self._process = process

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def until(self, wanted: str | None) -> str:
        data = None if wanted is None else wanted.encode()
        return read_until(self._fd, data).decode(errors="replace")

    def end(self) -> tuple[int, str]:
        """Return the exit code and the remaining output."""
        rest, is_closed = self._rest(60)
        assert is_closed, f"it goes on, after {rest!r}"
        return self._process.wait(5), rest

    def press(self, key: str) -> tuple[int, str]:
        """Press a key until the process ends, and return what `end` does.

        Readline may not have the terminal yet when its prompt is there: the first may be lost.
        """
        all_of_it = ""
        for _ in range(8):
            self.type(key)
            rest, is_closed = self._rest(5)
            all_of_it += rest
            if is_closed:
                break
        return self._process.wait(5), all_of_it

    def interrupt(self) -> str:
        """Press Ctrl-C until something comes of it, and return that, up to the next prompt.

        Python sees one only while it waits for a key, not while readline is at work on another.
        """
        for _ in range(8):
            self.type("\x03")
            if select.select([self._fd], [], [], 5)[0]:
                break
        return self.until("> ")

    def _rest(self, seconds: float) -> tuple[str, bool]:
        """Return the output that arrives in that time, and whether the other end was closed."""
        rest, end = b"", time.monotonic() + seconds
        is_closed = False
        while not is_closed:
            if not select.select([self._fd], [], [], max(0, end - time.monotonic()))[0]:
                break
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:  # how Linux says so
                data = b""
            is_closed = not data
            rest += data
        return rest.decode(errors="replace"), is_closed


@contextmanager
def on_a_terminal(code: str, *arguments: object) -> Iterator[Terminal]:
    import pty

    ours, theirs = pty.openpty()
    taking = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    with started(
        SIGINT_RAISES + taking + code, *arguments, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**ENVIRONMENT, "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(theirs)
        yield Terminal(ours, process)
    os.close(ours)
