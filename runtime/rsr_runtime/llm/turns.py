"""Turns of threads at something that serves one thread at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import BusyError


class Turns:
    """A lock that waiting threads get one after the other.

    With a plain lock, a thread that asks again at once gets it before a thread that waited: the
    system takes longer to wake that one.
    """

    def __init__(self, of: str) -> None:
        """Start with nobody's turn.

        Args:
            of: what the turns are at, in the message of an error.
        """
        self._of = of
        self._renew()
        _all.add(self)

    def _renew(self) -> None:
        # Both know their owner, so that only that can release them.
        self._next = threading.RLock()  # of the thread that waits for `_now`
        self._now = threading.RLock()
        self._is_taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, which lasts for the block.

        Raises:
            BusyError: this thread has the turn already: a signal handler or a callback wants it.
        """
        mine = False
        try:  # first, because Ctrl-C may arrive as soon as the lock is acquired
            with self._next:
                self._now.acquire()
            if self._is_taken:
                raise BusyError(
                    f"this thread is using {self._of} at this moment, so a signal handler or "
                    "callback cannot: let it set a flag, and act on that afterwards"
                )
            self._is_taken = mine = True
            yield
        finally:
            if mine:
                self._is_taken = False
            try:  # noqa: SIM105 (the calls of contextlib.suppress could be interrupted)
                self._now.release()
            except RuntimeError:  # it was not acquired
                pass

    def if_free(self, action: Callable[[], None]) -> None:
        """Call a function in a turn, unless somebody has one."""
        if not self._now.acquire(blocking=False):
            return
        try:
            if not self._is_taken:  # by this thread
                action()
        finally:
            self._now.release()


_all: weakref.WeakSet[Turns] = weakref.WeakSet()


def _renew_all() -> None:
    """Free the turns of threads that a forked child does not have."""
    for turns in list(_all):
        turns._renew()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_all)
