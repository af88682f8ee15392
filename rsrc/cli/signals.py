"""Signals that end a command: nothing half made stays behind, and the terminal is as it was."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rsr_formats.atomic import remove_temporaries

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let signals that end the process remove its temporary files first; then it exits.

    No exception is raised for that. It could come while this thread takes a lock of `threading`,
    between getting it and being able to give it back; the threads that compile tensors would wait
    for it for ever, and this one for them (measured: one compilation of a thousand).

    Another signal, while files are being removed, does not stop that. What was ignored from the
    start stays so (nohup).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    numbers = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
    restore_terminal = _terminal()

    def end(number: int, frame: Any) -> None:
        try:
            for other in numbers:
                signal.signal(other, signal.SIG_IGN)
            remove_temporaries()
            restore_terminal()
        finally:  # whatever is wrong with the files or the terminal
            os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminal() -> Callable[[], None]:
    """Return what brings the terminal back to where it is now, from wherever it may be then."""
    settings = None
    with suppress(ImportError):  # Windows has no such module
        import termios

        with suppress(termios.error):  # no terminal
            settings = termios.tcgetattr(0)

    def restore() -> None:
        if settings is not None and _is_ours(0):
            termios.tcsetattr(0, termios.TCSANOW, settings)
        if _is_ours(2):  # a progress bar hides the cursor
            os.write(2, _SHOW_CURSOR)

    return restore


def _is_ours(fd: int) -> bool:
    """Return whether it is a terminal, and this process in its foreground: not a shell's "&"."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except (OSError, AttributeError):  # no terminal; Windows
        return False
