"""Programs: calls of native functions, recorded once and repeated."""

from __future__ import annotations

import gc
import os
import signal
import time
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime import _native
from rsr_testing.process import run_python

Floats = npt.NDArray[np.float32]
EPS = 1e-5


def seconds(parts: int = 2) -> npt.NDArray[np.float64]:
    return np.zeros(parts)


def arrays(rng: np.random.Generator, rows: int = 3, n: int = 40) -> tuple[Floats, Floats]:
    return rng.standard_normal((rows, n)).astype(np.float32), np.zeros((rows, n), np.float32)


def test_a_run_repeats_the_calls_in_order(rng: np.random.Generator) -> None:
    x, out = arrays(rng)
    weight = rng.standard_normal((7, 40)).astype(np.float32)
    y, seen = np.zeros((3, 7), np.float32), []
    program = _native.Program()
    program.normalize(0, x, None, None, EPS, out, None, None)
    program.call(1, lambda *a: seen.append((a, out.copy())), 5, "six")
    program.multiply_dense(0, weight, "F32", out, y)
    program.call(1, np.negative, y, y)
    for _ in range(2):
        x[:] = rng.standard_normal(x.shape)
        program.run(seconds())
        normal, product = np.zeros_like(out), np.zeros_like(y)
        _native.normalize(x, None, None, EPS, normal, None, None)
        _native.multiply_dense(weight, "F32", normal, product)
        np.testing.assert_array_equal(y, -product)
        np.testing.assert_array_equal(seen[-1][1], normal)
        assert seen[-1][0] == (5, "six")


def test_each_part_has_its_time(rng: np.random.Generator) -> None:
    x, out = arrays(rng, 100, 4000)
    program = _native.Program()
    program.call(0, time.sleep, 0.02)
    program.normalize(2, x, None, None, EPS, out, None, None)
    program.call(0, time.sleep, 0.02)
    found = seconds(4)
    program.run(found)
    assert found[0] >= 0.03
    assert found[2] > 0
    assert found[1] == found[3] == 0
    before = found.copy()
    program.run(found)
    assert found[0] >= before[0] + 0.03  # added up


def test_a_program_keeps_its_arrays_alive(rng: np.random.Generator) -> None:
    x, out = arrays(rng)
    program = _native.Program()
    program.normalize(0, x, None, None, EPS, out, None, None)
    alive = weakref.ref(x), weakref.ref(out)
    del x, out
    gc.collect()
    assert all(one() is not None for one in alive)
    program.run(seconds())
    del program
    gc.collect()
    assert all(one() is None for one in alive)


def test_an_error_ends_the_run(rng: np.random.Generator) -> None:
    x, out = arrays(rng)
    program = _native.Program()

    def fail() -> None:
        raise KeyError("this")

    program.call(0, fail)
    program.normalize(0, x, None, None, EPS, out, None, None)
    for _ in range(2):  # and it can be run again
        with pytest.raises(KeyError, match="this"):
            program.run(seconds())
    assert not out.any()


def test_refuses_other_arguments(rng: np.random.Generator) -> None:
    x, out = arrays(rng)
    program = _native.Program()
    with pytest.raises(ValueError, match="out and q must have the shape"):
        program.normalize(0, x, None, None, EPS, out[:2], None, None)
    with pytest.raises(TypeError):  # it would read a copy, not what x becomes
        program.multiply_dense(0, np.ones((7, 3), np.float32), "F32", x.T[:3].T, out)
    program.normalize(3, x, None, None, EPS, out, None, None)
    with pytest.raises(ValueError, match="an entry for each part"):
        program.run(seconds(3))
    again = _native.Program()
    again.call(0, lambda: again.run(seconds()))
    with pytest.raises(ValueError, match="by one thread at a time"):
        again.run(seconds())
    growing = _native.Program()
    growing.call(0, lambda: growing.normalize(0, x, None, None, EPS, out, None, None))
    with pytest.raises(ValueError, match="takes no more steps"):
        growing.run(seconds())


def test_the_position_is_read_when_the_program_runs() -> None:
    def zeros(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    start = np.array([0], np.int64)
    program = _native.Program()
    rope = _native.Rope(zeros(40, 2), zeros(40, 2), scale=1.0)
    cache = _native.KVCache(zeros(1, 2, 4, 16), zeros(1, 32, 16))
    program.attend(
        0, zeros(1, 1, 4), zeros(1, 1, 4), zeros(1, 1, 4), rope, cache, start, zeros(1, 4)
    )
    for good in (0, 31, 5):
        start[0] = good
        program.run(seconds())
    for bad in (32, -1, 1 << 62):
        start[0] = bad
        with pytest.raises(ValueError, match="beyond the cache"):
            program.run(seconds())


@pytest.mark.skipif(os.name != "posix", reason="timers of POSIX")
def test_an_interrupt_arrives_between_steps(rng: np.random.Generator) -> None:
    x, out = arrays(rng, 512, 4096)
    program = _native.Program()
    for _ in range(20_000):  # takes a minute or more
        program.normalize(0, x, None, None, EPS, out, None, None)

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            program.run(seconds())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 5


DAEMON = """
import threading, time
import numpy as np
from rsr_runtime import _native
x = np.ones((50, 200), np.float32)
program = _native.Program()
program.normalize(0, x, None, None, 1e-5, np.empty_like(x), None, None)
program.call(0, STEP)
def work():
    while True:
        program.run(np.zeros(1))
threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
"""


@pytest.mark.parametrize("step", ["time.sleep, 0.001", "np.multiply, x, x, x"])
def test_a_daemon_thread_in_a_call_does_not_abort_the_exit(step: str) -> None:
    for _ in range(3):
        done = run_python(DAEMON.replace("STEP", step))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
