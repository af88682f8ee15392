"""End a command on a signal: temporary files are removed, the terminal is restored."""

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
    """Handle SIGINT, SIGTERM and SIGHUP: remove temporary files, restore the terminal, exit.

    The handler raises no exception. One could arrive while this thread acquires a lock of
    `threading`, after taking it and before being able to release it; worker threads would then wait
    for the lock forever, and this thread for them (measured: one compilation in a thousand).

    Further signals are ignored while files are removed. Signals that were ignored before stay
    ignored (nohup).
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
        finally:  # even if a file or the terminal cannot be restored
            os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Held:
    """A handler that keeps Ctrl-C for the next block of `interrupts`."""

    def __init__(self) -> None:
        self.is_pending = False

    def __call__(self, number: int, frame: Any) -> None:
        self.is_pending = True

    def raise_pending(self) -> None:
        if self.is_pending:
            self.is_pending = False
            raise KeyboardInterrupt


@contextmanager
def interrupts() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt within the block, instead of ending the process."""
    with _handled_by(signal.default_int_handler) as before:
        if isinstance(before, _Held):
            before.raise_pending()
        yield


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait for the next block of `interrupts` within this block."""
    with _handled_by(_Held()):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, Any], Any]) -> Iterator[Any]:
    """Handle SIGINT by a function within the block; yield the handler before."""
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is signal.SIG_IGN:  # nohup, a job with "&"
        yield None
        return
    try:
        signal.signal(signal.SIGINT, handler)
        yield before
    finally:
        try:
            signal.signal(signal.SIGINT, before)
        except KeyboardInterrupt:  # it arrived just before
            signal.signal(signal.SIGINT, before)
            raise


def _terminal() -> Callable[[], None]:
    """Return a function that restores the present state of the terminal."""
    settings = None
    with suppress(ImportError):  # not on Windows
        import termios

        with suppress(termios.error):  # not a terminal
            settings = termios.tcgetattr(0)

    def restore() -> None:
        if settings is not None and _is_ours(0):
            termios.tcsetattr(0, termios.TCSANOW, settings)
        if _is_ours(2):  # a progress bar hides the cursor
            os.write(2, _SHOW_CURSOR)

    return restore


def _is_ours(fd: int) -> bool:
    """Return whether `fd` is a terminal with this process in its foreground."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except (OSError, AttributeError):  # not a terminal, or Windows
        return False
