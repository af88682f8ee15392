"""Runs code in fresh interpreters, waits for them, and kills those that do not end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Far beyond what anything takes on a busy machine: reaching it means a hang.
PATIENCE = 120.0

# SIGINT is ignored where the tests run in the background, and child processes inherit that. The
# default action ends a process; Python's handler raises KeyboardInterrupt, which may hang the
# imports if it comes during one.
SIGINT_ENDS = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n"
SIGINT_RAISES = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"

# Code: whether a forked child that calls `succeeds` ends in time, and well; else the process ends.
IN_A_CHILD = """
import os, sys, time
def in_a_child(succeeds, seconds):
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if succeeds() else 3)
        finally:
            os._exit(1)
    until = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > until:
            os.kill(child, 9)
            sys.exit("the child hangs")
        time.sleep(0.001)
    if status:
        sys.exit(f"the child ended with {status}")
"""


def run_python(
    code: str, *arguments: object, stdin: str | None = None, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter.

    Keyword arguments are environment variables; None unsets one.
    """
    merged: dict[str, str | None] = {**os.environ, **env}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={name: value for name, value in merged.items() if value is not None},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Ended(NamedTuple):
    """How a process ended, and what was left in its pipes."""

    status: int  # negative: the signal
    stdout: bytes
    stderr: str


@contextlib.contextmanager
def started(code: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start code in a fresh interpreter, and kill it at the end of the block if it still runs.

    Its stdout and stderr are pipes unless `options` of `subprocess.Popen` say otherwise.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process: subprocess.Popen[bytes]
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def end_of(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> Ended:
    """Wait until a process has ended."""
    out, err = process.communicate(stdin, timeout=PATIENCE)
    return Ended(process.returncode, out or b"", (err or b"").decode())


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a running process has brought something about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, f"nothing came of it in {PATIENCE} seconds"
        time.sleep(0.001)
