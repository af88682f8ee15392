"""Turns of threads at something that serves one thread at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import BusyError


class Turns:
    """A lock that waiting threads get one after the other.

    With a plain lock, a thread that asks again at once may get it before one that waited, because
    the system takes longer to wake that one.
    """

    def __init__(self, of: str) -> None:
        """Start free.

        Args:
            of: what the turns are at, in the message of an error.
        """
        self._of = of
        self._locks: dict[int, _Locks] = {}  # by process: a forked child lacks the other threads

    def _own(self) -> _Locks:
        process = os.getpid()
        return self._locks.get(process) or self._locks.setdefault(process, _Locks())

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, which lasts for the block.

        Raises:
            BusyError: this thread has the turn already: a signal handler or a callback wants it.
        """
        locks, mine = self._own(), False
        try:  # first, because Ctrl-C may arrive as soon as the lock is acquired
            with locks.next:
                locks.now.acquire()
            if locks.is_taken:
                raise BusyError(
                    f"this thread is using {self._of} at this moment, so a signal handler or "
                    "callback cannot: let it set a flag, and act on that afterwards"
                )
            mine = locks.is_taken = True  # in this order, because Ctrl-C may arrive between
            yield
        finally:
            if mine:
                locks.is_taken = False
            try:  # noqa: SIM105 (the calls of contextlib.suppress could be interrupted)
                locks.now.release()
            except RuntimeError:  # it was not acquired
                pass

    def if_free(self, action: Callable[[], None]) -> None:
        """Call a function in a turn, unless somebody has one."""
        locks = self._own()
        try:  # first, as in `turn`
            if locks.now.acquire(blocking=False) and not locks.is_taken:
                action()
        finally:
            try:  # noqa: SIM105
                locks.now.release()
            except RuntimeError:
                pass


class _Locks:
    """The locks of one process. They know their owner: only that can release them."""

    def __init__(self) -> None:
        self.next = threading.RLock()  # of the thread that waits for `now`
        self.now = threading.RLock()
        self.is_taken = False
