"""Memory "auto": a mapped file moves into huge pages beside the work, once that pays.

The system maps a file in small pages (4 KiB), and the processor spends part of the time of a
product on finding them. What that costs is known only while the model works, so the copy waits
until small pages have cost as much time as copying takes. From then on even a process that ends
right after the copy has spent at most twice the time that it lost anyway, and a short text is
never held up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import thread_time

import numpy as np
import numpy.typing as npt

from rsr_formats.pages import available_memory, huge_page_size

from . import _native

Bytes = npt.NDArray[np.uint8]

_PIECE = 16 << 20  # bytes moved at a time
_LEAST = 32 << 20  # bytes; the processor keeps the addresses of less than that at hand
_SAVED = 1 / 8  # of the time of products: measured 6 to 25 % (docs/lab-notes.md)
_RATE = 2.5e9  # bytes copied per second, as far as no copy was measured
_TRIAL = 64 << 20  # bytes that count as copied at that rate, as the first piece may take long
_POLL = 0.25  # seconds between looks at the work


def worth_moving(memory: Bytes, ranges: Iterable[tuple[int, int]]) -> list[Bytes]:
    """Return the parts of a mapping that can lie in huge pages, piece by piece.

    Args:
        memory: the mapped file.
        ranges: (start, stop) of its bytes that products read.

    Returns:
        Whole huge pages; nothing if the system has none, or if they are too few to gain anything.
    """
    page = huge_page_size()
    if page is None:
        return []
    first = -memory.__array_interface__["data"][0] % page  # that begins at a multiple of `page`
    joined: list[list[int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] < page:
            joined[-1][1] = max(stop, joined[-1][1])
        else:
            joined.append([start, stop])
    pieces = []
    step = max(_PIECE, page)
    for start, stop in joined:
        begin = first + -(-max(0, start - first) // page) * page
        end = first + (stop - first) // page * page
        pieces += [memory[i : min(i + step, end)] for i in range(begin, end, step)]
    return pieces if sum(piece.nbytes for piece in pieces) >= _LEAST else []


class Mover:
    """Moves pieces of a mapping, in a thread of its own, which takes a quarter of a processor.

    No lock guards it that a garbage collection or a fork could find locked.
    """

    def __init__(self, pieces: list[Bytes], busy: Callable[[], float]) -> None:
        """Begin to watch.

        Args:
            pieces: as from `worth_moving`, at least one.
            busy: returns the seconds that products have taken so far.
        """
        self._pieces = pieces
        self._busy, self._before = busy, busy()
        self._ends = self._hurries = False
        self._alarm = threading.Lock()  # released to wake the thread
        self._alarm.acquire()
        self._thread = threading.Thread(target=self._run, name="rsr huge pages", daemon=True)
        self._thread.start()

    def move_now(self) -> None:
        """Move what is left, if there is memory, and return when that is done."""
        self._hurries = True
        self._wake()
        self._thread.join()

    def stop(self) -> None:
        """Move nothing more; what was moved stays."""
        self._ends = True
        self._wake()

    def close(self) -> None:
        """Stop, and return when the thread has let go of the mapping."""
        self.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is awake, or gone
            self._alarm.release()

    def _pause(self, seconds: float) -> None:
        if not self._hurries:
            self._alarm.acquire(timeout=seconds)

    def _run(self) -> None:
        try:
            self._move()
        finally:
            self._pieces.clear()

    def _has_paid(self, seconds: float) -> bool:
        """Return whether small pages have cost as much as copying takes."""
        return (self._busy() - self._before) * _SAVED >= seconds

    def _move(self) -> None:
        left = total = sum(piece.nbytes for piece in self._pieces)
        spent, done, collapses = _TRIAL / _RATE, _TRIAL, True
        for piece in self._pieces:
            while not (self._hurries or self._has_paid(total * spent / done)):
                self._pause(_POLL)
                if self._ends:
                    return
            start = thread_time()
            if not _memory_holds(left):  # huge pages of it would push out others
                return
            collapses = collapses and _native.collapse_into_huge_pages(piece)
            if not collapses and not _copy(piece, left):
                return
            took = thread_time() - start
            spent, done, left = spent + took, done + piece.nbytes, left - piece.nbytes
            self._pause(3 * took)
            if self._ends:
                return


def _memory_holds(nbytes: int) -> bool:
    """Return whether so many bytes can be in memory at once; pages of files in it count as free."""
    available = available_memory()
    return available is None or nbytes <= available.nbytes


def _copy(piece: Bytes, left: int) -> bool:
    """Copy a piece if it and all that are left need at most half of the memory available."""
    page = huge_page_size()
    if page is None or not _memory_holds(2 * left):
        return False
    return _native.copy_into_huge_pages(piece, page)
