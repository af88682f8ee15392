"""Progress of long operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

ProgressFunction = Callable[[str, int, int], None]  # the __call__ of `Progress` alone
Advance = Callable[[str, int], None]  # (name of a tensor, bytes done since the last call)


@runtime_checkable
class Progress(Protocol):
    """Receives progress, from the thread that started the operation."""

    def begin(self, phase: str, tensors: int) -> None:
        """Start a phase, such as "compiling", that handles this many tensors."""

    def __call__(self, name: str, done: int, total: int) -> None:
        """Report that `done` of `total` bytes of all phases are done, the last ones of `name`."""


class _FunctionProgress:
    def __init__(self, function: ProgressFunction) -> None:
        self._function = function

    def begin(self, phase: str, tensors: int) -> None:
        """Ignore the phase."""

    def __call__(self, name: str, done: int, total: int) -> None:
        self._function(name, done, total)


def as_progress(progress: Progress | ProgressFunction | None) -> Progress:
    """Return `progress` as a `Progress`: a function knows no phases, None ignores everything."""
    if isinstance(progress, Progress):
        return progress
    return _FunctionProgress(progress or (lambda name, done, total: None))


class ByteCounter:
    """Adds up bytes and reports the sum.

    Args:
        progress: receives the sum; None drops it.
        total: bytes of all phases.
    """

    def __init__(self, progress: Progress | ProgressFunction | None, total: int) -> None:
        self._progress, self._total, self._done = as_progress(progress), total, 0

    def begin(self, phase: str, tensors: int) -> None:
        """Start a phase; see `Progress.begin`."""
        self._progress.begin(phase, tensors)

    def advance(self, name: str, nbytes: int) -> None:
        """Add `nbytes` bytes of tensor `name`."""
        self._done += nbytes
        self._progress(name, self._done, self._total)


def ignore(name: str, nbytes: int) -> None:
    """Drop an `Advance`."""
