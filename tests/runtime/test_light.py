"""The runtime imports little (NumPy, msgpack and itself), and fast."""

from __future__ import annotations

from pathlib import Path

from rsr_testing.matrices import Workshop
from rsr_testing.process import run_python

HEAVY = [
    "click", "safetensors", "rich", "rsrc", "zstandard", "torch", "transformers", "huggingface_hub",
]  # fmt: skip


def test_loads_nothing_of_the_compiler(workshop: Workshop) -> None:
    """Neither when it is imported nor when a file without compression is used."""
    path = workshop.path()
    spec = workshop.one((5, 5)).spec
    workshop.write(path, [spec], dense=[("norm", "F32", (1,), bytes(4))])
    code = """
import sys
import rsr_runtime as rsr
def heavy():
    return sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2].split()))
print(heavy())
import numpy
model = rsr.load(sys.argv[1], verify=True)
for name in model:
    if isinstance(model[name], rsr.Matrix):
        model[name] @ numpy.zeros(5, numpy.int8)
print(heavy())
"""
    done = run_python(code, path, " ".join(HEAVY))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_imports_fast(tmp_path: Path) -> None:
    """In less time than NumPy takes, the best of four each.

    Both come from compiled bytecode, whatever PYTHONDONTWRITEBYTECODE says. The time is that of
    the importing thread: the threads that NumPy starts spin beside whatever comes next.
    """
    code = """
import time
times = [time.thread_time()]
import numpy
times.append(time.thread_time())
import rsr_runtime
times.append(time.thread_time())
print(times[1] - times[0], times[2] - times[1])
"""
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": None}
    run_python(code, **cached)
    runs = [tuple(map(float, run_python(code, **cached).stdout.split())) for _ in range(4)]
    numpy, ours = (min(seconds) for seconds in zip(*runs, strict=True))
    assert ours < max(0.060, numpy)
