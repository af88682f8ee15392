"""The runtime imports little (NumPy, msgpack and itself), and fast."""

from __future__ import annotations

from rsr_testing.matrices import Workshop
from rsr_testing.process import run_python

HEAVY = ["click", "safetensors", "rich", "rsrc", "zstandard", "torch"]


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


def test_imports_fast() -> None:
    """In less processor time than NumPy takes, the best of four each."""
    code = """
import time
times = [time.process_time()]
import numpy
times.append(time.process_time())
import rsr_runtime
times.append(time.process_time())
print(times[1] - times[0], times[2] - times[1])
"""
    runs = [tuple(map(float, run_python(code).stdout.split())) for _ in range(4)]
    numpy, ours = (min(seconds) for seconds in zip(*runs, strict=True))
    assert ours < max(0.060, numpy)
