"""Where the work on tensors is done: in this thread, on threads, or on an executor from outside."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rsr_formats.errors import RsrError

from ..common.errors import ExecutorError, OptionError

T = TypeVar("T")
Item = TypeVar("Item")
Cost = Callable[[Item], "int | None"]

Memory = npt.NDArray[np.uint8]

BUDGET = 384 << 20  # bytes that tensors under way may take together
LARGEST = BUDGET // 2  # that one may take: what needs more is left to the caller

_AHEAD = 64  # tensors given to an executor of which nobody says how many workers it has


class Promise(Protocol):
    """What `submit` returns: a concurrent.futures.Future, or what behaves as one."""

    def result(self) -> Any:
        """Wait for the result and return it, or raise what went wrong."""

    def cancel(self) -> object:
        """Give up on it."""


class Submits(Protocol):
    """What work can be given to: a concurrent.futures.Executor, or what behaves as one."""

    def submit(self, function: Callable[[Any], Any], item: Any, /) -> Promise:
        """Begin function(item) somewhere."""


class Workers:
    """Runs a function on one tensor after the other, beginning the next ones ahead.

    Args:
        executor: anything with `submit`; None does all work in this thread, when it is asked for.
        ahead: how many tensors may be under way beside the one that is waited for.
        is_local: whether the executor's threads are this process's own, and see its memory.
        pool: threads for the panels of tensors that are too large to be given away as one.
        threads: how many there are in `pool`, or 1.
    """

    def __init__(
        self,
        executor: Submits | None = None,
        ahead: int = 0,
        is_local: bool = True,
        pool: ThreadPoolExecutor | None = None,
        threads: int = 1,
    ) -> None:
        self.pool = pool
        self.threads = threads
        self.is_local = is_local
        self.local = Local() if is_local else None
        self._executor = executor
        self._ahead = ahead

    @property
    def are_alone(self) -> bool:
        """Whether this thread does everything."""
        return self._executor is None

    def map(
        self, function: Callable[[Item], T], items: Iterable[Item], cost: Cost[Item] | None = None
    ) -> Generator[tuple[Item, T | None], None, None]:
        """Yield each item with function(item), in order.

        Args:
            function: what to do; picklable, for an executor with processes.
            items: what to do it with.
            cost: bytes an item takes while it is under way, at most `LARGEST`; of all together
                there are never more than `BUDGET`. An item without a cost (None) is not given
                away: it comes without a result when it is its turn.

        Raises:
            ExecutorError: the executor lost a worker or cannot take more.
            Exception: what `function` raised, for the first item in order that failed.
        """
        if self._executor is None:
            for item in items:
                free = cost is not None and cost(item) is None
                yield item, None if free else function(item)
            return
        coming = ((item, 0 if cost is None else cost(item)) for item in items)
        waiting: deque[tuple[Item, Promise | None, int]] = deque()
        begun = held = 0  # futures, bytes
        following = next(coming, None)
        try:
            while waiting or following:
                while following:
                    item, size = following
                    if size is None:
                        waiting.append((item, None, 0))
                    elif begun > self._ahead or (begun and held + size > BUDGET):
                        break
                    else:
                        waiting.append((item, self._submit(function, item), size))
                        begun, held = begun + 1, held + size
                    following = next(coming, None)
                item, future, size = waiting.popleft()
                yield item, None if future is None else self._result(future)
                if future is not None:
                    begun, held = begun - 1, held - size
        finally:
            for _, future, _ in waiting:
                if future is not None:
                    future.cancel()

    def _submit(self, function: Callable[[Item], T], item: Item) -> Promise:
        assert self._executor is not None
        try:
            return self._executor.submit(function, item)
        except RuntimeError as error:  # BrokenExecutor is one
            raise _lost(error) from error

    def _result(self, future: Promise) -> Any:
        try:
            return future.result()
        except (RsrError, OSError, MemoryError):
            raise
        except Exception as error:
            if self.is_local:
                raise
            raise _lost(error) from error


def _lost(error: Exception) -> ExecutorError:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ExecutorError(f"a worker of the executor ended or failed before its result: {what}")


class Local:
    """What threads of this process share: a sign to stop, and memory to read into."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._free: list[Memory] = []
        self._held = 0  # bytes, free or not

    def stop(self) -> None:
        """Let everything that is under way end soon."""
        self._stop.set()

    def until_stopped(self, pieces: Iterable[T]) -> Iterator[T]:
        """Pass `pieces` on until `stop` is called; then raise, for nobody to see."""
        for piece in pieces:
            if self._stop.is_set():
                raise InterruptedError("the compilation was stopped")
            yield piece

    @contextmanager
    def memory(self, nbytes: int) -> Iterator[Memory]:
        """Lend `nbytes` or more: used again, as new memory costs as much as reading into it."""
        with self._lock:
            memory = self._free.pop() if self._free else None
            if memory is None or len(memory) < nbytes:
                self._held -= 0 if memory is None else len(memory)
                while self._free and self._held + nbytes > BUDGET:
                    self._held -= len(self._free.pop(0))
                memory = np.empty(nbytes, np.uint8)
                self._held += nbytes
        try:
            yield memory
        finally:
            with self._lock:
                self._free.append(memory)


@contextmanager
def open_workers(executor: str | Submits | None, threads: int) -> Iterator[Workers]:
    """Begin to work.

    Args:
        executor: None for `threads` threads of this process (one: this one); "dask://HOST:PORT"
            for the workers of a Dask scheduler; or anything with `submit`, which stays open.
        threads: for what is done in this process.

    Raises:
        OptionError: a string of another kind, or an object without `submit`.
        ExecutorError: nobody answers at the address, or the package for it is not installed.
    """
    if isinstance(executor, str):
        from .dask import connect

        with _pool(threads) as pool, connect(executor) as theirs:
            yield Workers(theirs, 2 * theirs.workers, False, pool, threads)
        return
    with _pool(threads) as pool:
        if executor is not None:
            if not callable(getattr(executor, "submit", None)):
                kind = type(executor).__name__
                raise OptionError(f"executor: found {kind}, expected an address, or `submit` in it")
            yield Workers(executor, _AHEAD, False, pool, threads)
            return
        # Far ahead, within the budget: workers go on while a large dense tensor is written.
        workers = Workers(pool, 16 * threads, True, pool, threads)
        assert workers.local is not None
        try:
            yield workers
        finally:
            workers.local.stop()


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    if threads == 1:
        yield None
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
