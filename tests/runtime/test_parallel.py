"""The thread pool: shared by callers, asleep when idle, made anew after a fork."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_runtime import OptionError
from rsr_testing.matrices import Built, Spec, Workshop
from rsr_testing.process import IN_A_CHILD, run_python

# Loads argv[1] and defines check(), which multiplies on two threads and compares with what is
# right.
PRELUDE = """
import os, sys, threading, time
import numpy as np
import rsr_runtime as rsr
w = rsr.load(sys.argv[1])["w"]
x = np.full(w.shape[1], -128, np.int8)
def check():
    assert (w @ x == -128 * w.shape[1]).all()
rsr.set_num_threads(2)
check()
"""


@pytest.fixture
def big_file(workshop: Workshop) -> Path:
    """Return a file with a matrix "w" of ones, large enough for several threads."""
    path = workshop.path()
    workshop.write(path, [Spec((1100, 2100), fill="highest", name="w")])
    return path


@pytest.mark.parametrize("n", [0, -1, 1025, 1 << 40, 2.0, "2", None])
def test_set_num_threads_refuses(n: Any, restore: None) -> None:
    rsr.set_num_threads(3)
    with pytest.raises(OptionError) as caught:
        rsr.set_num_threads(n)
    assert str(caught.value) == f"set_num_threads: found {n!r}, expected an integer, 1 to 1024"
    assert rsr.get_num_threads() == 3


def test_set_num_threads(restore: None) -> None:
    for n in (1, 2, 1024):
        rsr.set_num_threads(n)
        assert rsr.get_num_threads() == n
        assert rsr.cpu_info()["threads"] == n


def test_products_from_many_threads_agree(
    workshop: Workshop, rng: np.random.Generator, restore: None
) -> None:
    kinds: list[dict[str, Any]] = [
        {"shape": (1100, 1000)},
        {"shape": (600, 1000), "k": 4, "encoding": "permuted"},
        {"shape": (600, 1000), "k": 4, "encoding": "permuted", "direction": "reduce"},
    ]
    built: list[Built] = [workshop.one(scale="row", **kind) for kind in kinds]
    vectors = [rng.integers(-128, 128, 1000).astype(t) for t in (np.int8, np.float32)]
    rsr.set_num_threads(1)
    alone = [[(b.matrix @ x).tobytes() for x in vectors] for b in built]
    rsr.set_num_threads(3)
    wrong: list[str] = []
    until = time.monotonic() + 0.5

    def work(i: int) -> None:
        while time.monotonic() < until:
            if i == 0:
                rsr.set_num_threads(int(rng.integers(1, 6)))
            for b, expected in zip(built, alone, strict=True):
                for x, e in zip(vectors, expected, strict=True):
                    if (b.matrix @ x).tobytes() != e:
                        wrong.append(f"{b.spec} {x.dtype}")

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "deadlock"
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork needs a POSIX system")
def test_a_forked_child_has_a_pool_of_its_own(big_file: Path) -> None:
    code = (
        PRELUDE
        + IN_A_CHILD
        + """
def multiply():
    while not stop:
        check()
def checks():
    for _ in range(5):
        check()
    return True
stop = False
busy = threading.Thread(target=multiply)  # so that some forks meet a pool in use
busy.start()
for _ in range(12):
    in_a_child(checks, 10)
    check()
stop = True
busy.join()
print("done")
"""
    )
    done = run_python(code, big_file, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_idle_threads_sleep(big_file: Path) -> None:
    code = (
        PRELUDE
        + """
rsr.set_num_threads(7)
used = []
for _ in range(3):
    check()
    time.sleep(0.001)
    before = time.process_time()
    time.sleep(0.15)
    used.append(time.process_time() - before)
print(min(used))
"""
    )
    done = run_python(code, big_file)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.002


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "sys.modules['kept'] = w"])
def test_exits_cleanly(end: str, big_file: Path) -> None:
    done = run_python(PRELUDE + end, big_file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exits_cleanly_while_daemon_threads_multiply(big_file: Path) -> None:
    """Python up to 3.13 unwinds such threads where C++ would abort the process."""
    code = (
        PRELUDE
        + """
rows = np.ones((50, w.shape[1]), np.float32)
def multiply():
    while True:
        check()
        w.linear(rows, "int8")
for _ in range(3):
    threading.Thread(target=multiply, daemon=True).start()
time.sleep(0.05)
"""
    )
    for _ in range(3):
        done = run_python(code, big_file)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_works_where_no_thread_can_be_started(big_file: Path) -> None:
    """The address space that is left holds no thread's stack."""
    code = (
        PRELUDE.replace("rsr.set_num_threads(2)", "rsr.set_num_threads(1)")
        + """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + (6 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
rsr.set_num_threads(4)
for _ in range(3):
    check()
tasks = len(os.listdir("/proc/self/task"))
print(tasks)
"""
    )
    done = run_python(code, big_file, OPENBLAS_NUM_THREADS="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has control groups")
@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("max 100000", 64)])
def test_the_default_heeds_the_quota_of_a_control_group(
    tmp_path: Path, quota: str, expected: int
) -> None:
    """A process with 64 processors in a container that gets the time of one and a half."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text(quota + "\n")
    code = """
import os, sys
from pathlib import Path
from rsr_formats import control_groups
control_groups._PROC = control_groups._CGROUPS = Path(sys.argv[1])
os.sched_getaffinity = lambda _: set(range(64))
import rsr_runtime as rsr
from rsr_runtime.cpu import suggest_num_threads
print(rsr.get_num_threads())
suggest_num_threads(64)
print(rsr.get_num_threads())
"""
    first = 2 if expected == 2 else len(os.sched_getaffinity(0))
    done = run_python(code, tmp_path)
    assert (done.stdout, done.stderr) == (f"{first}\n{expected}\n", "")
