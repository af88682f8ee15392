"""Dask (distributed) as the executor: the workers of a scheduler somewhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from .errors import ExecutorError, OptionError

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
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        host = port = None
        parts = urlsplit("")
    if parts.scheme != "dask" or not host or not port or parts.path or parts.query:
        raise OptionError(f"executor: found {url[:80]!r}, expected dask://HOST:PORT")
    return f"[{host}]" if ":" in host else host, port


@contextmanager
def connect(url: str) -> Iterator[tuple[Executor, int, Callable[[], None]]]:
    """Connect to the scheduler at dask://HOST:PORT.

    Returns:
        Its workers as an executor, the number of their threads, and a function that raises when no
        result can be expected any more.

    Raises:
        OptionError: no such address.
        ExecutorError: Dask is not installed, nobody answers, or there are no workers.
    """
    host, port = check_address(url)
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise ExecutorError(
            f"{url}: Dask is not installed: pip install 'rsr-ternary[dask]'"
        ) from None
    try:
        client = distributed.Client(f"tcp://{host}:{port}", timeout=_ANSWER, set_as_default=False)
    except OSError as error:
        raise ExecutorError(
            f"{url}: no Dask scheduler answers within {_ANSWER:.0f} s: {error}"
        ) from None
    executor = client.get_executor(pure=False)
    try:
        try:
            client.wait_for_workers(1, timeout=_ANSWER)
        except TimeoutError:
            raise ExecutorError(f"{url}: the scheduler has no workers: start one there") from None
        present = time.monotonic()

        def check() -> None:
            nonlocal present
            if client.status == "running" and client.scheduler_info()["workers"]:
                present = time.monotonic()
            elif time.monotonic() - present > _ABSENCE:
                raise ExecutorError(f"{url}: no worker is left, for {_ABSENCE:.0f} s by now")

        yield executor, sum(client.nthreads().values()), check
    finally:
        executor.shutdown(wait=False)
        client.close(timeout=_CLOSING)
