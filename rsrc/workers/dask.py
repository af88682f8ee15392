"""Dask (distributed) as the executor: the workers of a scheduler somewhere else."""

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

_ANSWER = 10.0  # seconds a scheduler may take to answer, and a first worker to be there
_ABSENCE = 30.0  # seconds without any worker before giving up: one that died is started again
_CLOSING = 1.0


def check_address(url: str) -> tuple[str, int]:
    """Return host and port of dask://HOST:PORT.

    Raises:
        OptionError: it is anything else.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:  # a port that is no number, half an IPv6 address
        scheme, host, port = "", None, None
    if scheme != "dask" or not host or not port or parts.path or parts.query:
        raise OptionError(f"executor: found {url[:80]!r}, expected dask://HOST:PORT")
    return f"[{host}]" if ":" in host else host, port


@contextmanager
def connect(url: str) -> Iterator[DaskExecutor]:
    """Connect to the scheduler at dask://HOST:PORT.

    Raises:
        OptionError: no such address.
        ExecutorError: Dask is not installed, nobody answers, or there are no workers.
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
            raise ExecutorError(f"{url}: the scheduler has no workers: start one there") from None
        with _quiet():
            try:
                yield DaskExecutor(url, client, distributed.wait)
            except import_module("distributed.comm").CommClosedError as error:
                raise ExecutorError(
                    f"{url}: the scheduler does not answer any more: {error}"
                ) from None
    finally:
        with _quiet():
            client.close(timeout=_CLOSING)


def _answer(url: str, ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns, on a thread: it waits for ever where something else listens."""
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
        answer = "what listens there is none"
    if isinstance(answer, (OSError, str)):
        raise ExecutorError(f"{url}: no Dask scheduler answers within {_ANSWER:.0f} s: {answer}")
    return answer


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask from logging what is told as an error, or is none when a client goes away."""
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
    """The workers of one scheduler, asked as those of `concurrent.futures` are."""

    def __init__(self, url: str, client: Any, wait: Callable[..., Any]) -> None:
        self._url = url
        self._client = client
        self._wait = wait
        self._present = time.monotonic()  # when there was a worker the last time
        self.workers = sum(client.nthreads().values())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> DaskFuture:
        """Begin to compute function(*arguments) somewhere."""
        return DaskFuture(self, self._client.submit(function, *arguments, pure=False))

    def result(self, future: Any) -> Any:
        """Wait for the result of a future.

        Raises:
            ExecutorError: nobody is left to compute it.
            Exception: what the worker raised.
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
            except TimeoutError:  # its worker was lost after all, or the worker raised one
                if future.status == "error":
                    raise
                self._check()

    def _check(self) -> None:
        now = time.monotonic()
        if self._client.status == "running" and self._client.scheduler_info()["workers"]:
            self._present = now
        elif now - self._present > _ABSENCE:
            raise ExecutorError(f"{self._url}: no worker is left, for {_ABSENCE:.0f} s by now")


class DaskFuture:
    """What one of them will return."""

    def __init__(self, executor: DaskExecutor, future: Any) -> None:
        self._executor = executor
        self._future = future

    def result(self) -> Any:
        """Return it, or raise what the worker raised."""
        return self._executor.result(self._future)

    def cancel(self) -> None:
        """Say that nobody wants it any more."""
        self._future.cancel()
