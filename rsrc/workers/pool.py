"""Process tensors in this thread, in a thread pool, or with the caller's executor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np

from rsr_formats.errors import RsrError

from ..common.arrays import ByteArray
from ..common.errors import ExecutorError, OptionError

T = TypeVar("T")
Item = TypeVar("Item")
Cost = Callable[[Item], "int | None"]


BUDGET = 384 << 20  # bytes of all tensors in flight
LARGEST = BUDGET // 2  # bytes of one that a worker takes; the caller processes larger ones

_AHEAD = 64  # tensors in flight for each thread, or on an executor whose workers are unknown


class FutureLike(Protocol):
    """The part of `concurrent.futures.Future` that is used."""

    def result(self) -> Any:
        """Wait for the result; return it, or raise the worker's exception."""

    def cancel(self) -> object:
        """Discard the result."""


class ExecutorLike(Protocol):
    """The part of `concurrent.futures.Executor` that is used."""

    def submit(self, function: Callable[[Any], Any], item: Any, /) -> FutureLike:
        """Start function(item) on a worker."""


class Workers:
    """Applies a function to a sequence of tensors, several at a time.

    Args:
        executor: runs the function; None runs it in this thread, when a result is requested.
        ahead: how many tensors may be in flight besides the one that is waited for.
        is_local: whether the executor's workers are threads of this process.
        pool: threads for the panels of tensors that are too large for one worker.
        threads: how many threads `pool` has; 1 without a pool.
    """

    def __init__(
        self,
        executor: ExecutorLike | None = None,
        ahead: int = 0,
        is_local: bool = True,
        pool: ThreadPoolExecutor | None = None,
        threads: int = 1,
    ) -> None:
        self.pool = pool
        self.threads = threads
        self.is_local = is_local
        self.local = LocalState()
        self._executor = executor
        self._ahead = ahead

    @property
    def is_serial(self) -> bool:
        """Whether there is no executor."""
        return self._executor is None

    def map(
        self, function: Callable[[Item], T], items: Iterable[Item], cost: Cost[Item] | None = None
    ) -> Generator[tuple[Item, T | None], None, None]:
        """Yield (item, function(item)) for all items, in order.

        Args:
            function: must be picklable if workers are other processes.
            items: its arguments.
            cost: returns the bytes that an item takes while it is in flight. Their sum exceeds
                `BUDGET` only if one item alone does. If they are more than `LARGEST`, or None for
                an item that takes none, the item is not processed and is yielded with None.

        Raises:
            ExecutorError: the executor lost a worker or accepts no more items.
            Exception: what `function` raised for the first item, in order, that failed.
        """
        if self._executor is None:
            for item in items:
                is_taken = _is_taken(0 if cost is None else cost(item))
                yield item, function(item) if is_taken else None
            return
        remaining = ((item, 0 if cost is None else cost(item)) for item in items)
        waiting: deque[tuple[Item, FutureLike | None, int | None]] = deque()
        in_flight = held = 0  # items, their bytes
        following = next(remaining, None)
        try:
            while waiting or following:
                while following:
                    item, size = following
                    if size is not None:
                        if in_flight > self._ahead or (in_flight and held + size > BUDGET):
                            break
                        in_flight, held = in_flight + 1, held + size
                    future = self._submit(function, item) if _is_taken(size) else None
                    waiting.append((item, future, size))
                    following = next(remaining, None)
                item, future, size = waiting.popleft()
                yield item, None if future is None else self._result(future)
                if size is not None:
                    in_flight, held = in_flight - 1, held - size
        finally:
            for _, future, _ in waiting:
                if future is not None:
                    future.cancel()

    def _submit(self, function: Callable[[Item], T], item: Item) -> FutureLike:
        assert self._executor is not None
        try:
            return self._executor.submit(function, item)
        except RuntimeError as error:  # includes BrokenExecutor
            raise _worker_error(error) from error

    def _result(self, future: FutureLike) -> Any:
        try:
            return future.result()
        except (RsrError, OSError, MemoryError):
            raise
        except Exception as error:
            if self.is_local:
                raise
            raise _worker_error(error) from error


def _is_taken(size: int | None) -> bool:
    """Return whether a worker processes an item that takes so many bytes."""
    return size is not None and size <= LARGEST


def _worker_error(error: Exception) -> ExecutorError:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ExecutorError(
        f"a worker of the executor ended or failed before it returned a result: {what}"
    )


class LocalState:
    """State that worker threads of this process share: a stop flag, and buffers to read into."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._free: list[ByteArray] = []
        self._held = 0  # bytes of all buffers, lent or free

    def stop(self) -> None:
        """Make all work in flight end soon."""
        self._stop.set()

    def until_stopped(self, pieces: Iterable[T]) -> Iterator[T]:
        """Yield `pieces` until `stop` is called; then raise, which ends the worker's task."""
        for piece in pieces:
            if self._stop.is_set():
                raise InterruptedError("the compilation was stopped")
            yield piece

    @contextmanager
    def buffer(self, nbytes: int) -> Iterator[ByteArray]:
        """Lend a buffer of at least `nbytes`.

        Buffers are reused: the first write to new memory costs as much as reading a file into it.
        Those above `LARGEST` are not kept.
        """
        with self._lock:
            buffer = self._free.pop() if self._free else None
            if buffer is None or len(buffer) < nbytes:
                self._held -= 0 if buffer is None else len(buffer)
                while self._free and self._held + nbytes > BUDGET:
                    self._held -= len(self._free.pop(0))
                buffer = np.empty(nbytes, np.uint8)
                self._held += nbytes
        try:
            yield buffer
        finally:
            with self._lock:
                if len(buffer) <= LARGEST:
                    self._free.append(buffer)
                else:
                    self._held -= len(buffer)


@contextmanager
def open_workers(executor: str | ExecutorLike | None, threads: int) -> Iterator[Workers]:
    """Start workers, and end them with the block.

    Args:
        executor: None for `threads` threads of this process (with 1, this thread);
            "dask://HOST:PORT" for the workers of a Dask scheduler; or an object with `submit`,
            which is not closed.
        threads: threads of this process.

    Raises:
        OptionError: `executor` is another string, or has no `submit`.
        ExecutorError: the scheduler does not answer, or Dask is not installed.
    """
    with ExitStack() as stack:
        pool = None
        if threads > 1:
            pool = ThreadPoolExecutor(threads)
            stack.callback(pool.shutdown, cancel_futures=True)
        if executor is None:
            # Far ahead, so that workers stay busy while a large dense tensor is written.
            workers = Workers(pool, _AHEAD * threads, True, pool, threads)
            stack.callback(workers.local.stop)
            yield workers
        elif isinstance(executor, str):
            from .dask import connect

            remote = stack.enter_context(connect(executor))
            yield Workers(remote, 2 * remote.workers, False, pool, threads)
        elif callable(getattr(executor, "submit", None)):
            yield Workers(executor, _AHEAD, False, pool, threads)
        else:
            kind = type(executor).__name__
            raise OptionError(
                f"executor: found {kind}, expected dask://HOST:PORT or an object with `submit`"
            )
