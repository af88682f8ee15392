"""Dask (distributed) as the executor: the workers of a scheduler on other machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from ..common.errors import ExecutorError, OptionError

# Seconds.
_ANSWER = 10.0  # for the scheduler to answer, and for a first worker to register
_ABSENCE = 30.0  # without any worker before giving up; Dask restarts dead workers
_CLOSING = 1.0


def check_address(url: str) -> tuple[str, int]:
    """Return host and port of dask://HOST:PORT.

    Raises:
        OptionError: `url` has another form.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:  # the port is not a number, or an IPv6 address is incomplete
        scheme, host, port = "", None, None
    if scheme != "dask" or not host or not port or parts.path or parts.query:
        raise OptionError(f"executor: found {url[:80]!r}, expected dask://HOST:PORT")
    return f"[{host}]" if ":" in host else host, port


@contextmanager
def connect(url: str) -> Iterator[DaskExecutor]:
    """Connect to the scheduler at dask://HOST:PORT.

    Raises:
        OptionError: `url` has another form.
        ExecutorError: Dask is not installed, the scheduler does not answer, or it has no workers.
    """
    host, port = check_address(url)
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise ExecutorError(
            f"{url}: Dask is not installed: pip install 'rsr-ternary[dask]'"
        ) from None
    with _quiet():
        client = _answer(
            url,
            lambda: distributed.Client(
                f"tcp://{host}:{port}", timeout=_ANSWER, set_as_default=False
            ),
        )
    try:
        try:
            client.wait_for_workers(1, timeout=_ANSWER)
        except TimeoutError:
            raise ExecutorError(
                f"{url}: the scheduler has no workers: start at least one"
            ) from None
        with _quiet():
            try:
                yield DaskExecutor(url, client, distributed.wait)
            except import_module("distributed.comm").CommClosedError as error:
                raise ExecutorError(f"{url}: the scheduler no longer answers: {error}") from None
    finally:
        with _quiet():
            client.close(timeout=_CLOSING)


def _answer(url: str, ask: Callable[[], Any]) -> Any:
    """Return ask(), called in a thread: it blocks forever if the port belongs to something else."""
    answers: SimpleQueue[Any] = SimpleQueue()

    def put() -> None:
        try:
            answers.put(ask())
        except OSError as error:
            answers.put(error)

    Thread(target=put, daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER + _CLOSING)
    except Empty:
        answer = "something else listens there"
    if isinstance(answer, (OSError, str)):
        raise ExecutorError(f"{url}: no Dask scheduler answers within {_ANSWER:.0f} s: {answer}")
    return answer


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's log: errors are raised anyway, and a client may disconnect."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class DaskExecutor:
    """The workers of one scheduler, as a `pool.ExecutorLike`."""

    def __init__(self, url: str, client: Any, wait: Callable[..., Any]) -> None:
        self._url = url
        self._client = client
        self._wait = wait
        self._last_worker = time.monotonic()  # when a worker was last seen
        self.workers = sum(client.nthreads().values())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> DaskFuture:
        """Start function(*arguments) on a worker."""
        return DaskFuture(self, self._client.submit(function, *arguments, pure=False))

    def result(self, future: Any) -> Any:
        """Wait for the result of a Dask future.

        Raises:
            ExecutorError: no worker is left.
            Exception: the worker's exception.
        """
        while True:
            while not future.done():
                try:
                    with self._client.as_current():
                        self._wait([future], timeout=1)
                except TimeoutError:
                    self._check()
            try:
                return future.result(timeout=_ABSENCE)
            except TimeoutError:  # the worker was lost after all, or raised a TimeoutError
                if future.status == "error":
                    raise
                self._check()

    def _check(self) -> None:
        now = time.monotonic()
        if self._client.status == "running" and self._client.scheduler_info()["workers"]:
            self._last_worker = now
        elif now - self._last_worker > _ABSENCE:
            raise ExecutorError(f"{self._url}: no worker for {_ABSENCE:.0f} s")


class DaskFuture:
    """The future result of a worker, as a `pool.FutureLike`."""

    def __init__(self, executor: DaskExecutor, future: Any) -> None:
        self._executor = executor
        self._future = future

    def result(self) -> Any:
        """Wait for the result; return it, or raise the worker's exception."""
        return self._executor.result(self._future)

    def cancel(self) -> None:
        """Discard the result."""
        self._future.cancel()
