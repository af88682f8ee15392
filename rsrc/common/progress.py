"""Progress of long operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

ProgressFunction = Callable[[str, int, int], None]  # name of a tensor, bytes done, bytes in total
Advance = Callable[[str, int], None]  # name of a tensor, bytes done since the last call


@runtime_checkable
class Progress(Protocol):
    """A `ProgressFunction` that is also told about phases, by the thread that started them."""

    def begin(self, phase: str, tensors: int) -> None:
        """Start a phase, such as "compiling", that handles this many tensors."""

    def __call__(self, name: str, done: int, total: int) -> None:
        """Report that `done` of `total` bytes of all phases are done, the last ones of `name`."""


class ByteCounter:
    """Adds up bytes and reports the sum.

    Args:
        progress: receives the sum, and phases if it is a `Progress`; None ignores both.
        total: bytes to report in the end.
        passes: bytes that all phases advance by, if they handle bytes more than once; the sum is
            reported as a share of `total`, so that no byte counts twice.
    """

    def __init__(
        self, progress: ProgressFunction | None, total: int, passes: int | None = None
    ) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._passes = total if passes is None else passes

    def begin(self, phase: str, tensors: int) -> None:
        """Start a phase; see `Progress.begin`."""
        if isinstance(self._progress, Progress):
            self._progress.begin(phase, tensors)

    def advance(self, name: str, nbytes: int) -> None:
        """Add `nbytes` bytes of tensor `name`."""
        self._done += nbytes
        if self._progress is not None:
            done = self._done * self._total // self._passes if self._passes else 0
            self._progress(name, done, self._total)


def ignore(name: str, nbytes: int) -> None:
    """Drop an `Advance`."""
