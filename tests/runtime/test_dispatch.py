"""The choice of kernels: the widest instruction set, or what RSR_ISA or use_isa() names."""

from __future__ import annotations

import os

import pytest

import rsr_runtime as rsr
from rsr_runtime import IsaError
from rsr_testing.matrices import ISAS, KNOWN_ISAS, Workshop
from rsr_testing.process import run_python

INFO = "import rsr_runtime as rsr; print(rsr.cpu_info()['isa'])"


def test_the_widest_is_the_default() -> None:
    for value in (None, ""):
        done = run_python(INFO, RSR_ISA=value)
        assert (done.returncode, done.stdout.strip()) == (0, ISAS[0]), done.stderr


def test_rsr_isa_chooses_each_supported_one() -> None:
    for isa in ISAS:
        done = run_python(INFO, RSR_ISA=isa)
        assert (done.returncode, done.stdout.strip()) == (0, isa), done.stderr


@pytest.mark.parametrize("value", ["sse9", "AVX2", " avx2", "unsupported"])
def test_an_unusable_rsr_isa_is_refused(value: str, workshop: Workshop) -> None:
    """load() and cpu_info() refuse it each time; the import succeeds."""
    compiled, supported = (rsr.cpu_info()[f"{key}_isas"] for key in ("compiled", "supported"))
    if value == "unsupported":
        lacking = [isa for isa in compiled if isa not in supported]
        if not lacking:
            pytest.skip("this processor supports everything this build has")
        value = lacking[0]
        sentence = f"does not support instruction set {value!r}; it supports {', '.join(supported)}"
    else:
        sentence = f"unknown instruction set {value!r}; this build has {', '.join(compiled)}"
    path = workshop.path()
    workshop.write(path, [])
    code = """
import sys
import rsr_runtime as rsr
for call in (rsr.cpu_info, lambda: rsr.load(sys.argv[1]), rsr.cpu_info):
    try:
        call()
    except rsr.IsaError as error:
        print(error)
"""
    done = run_python(code, path, RSR_ISA=value)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("RSR_ISA: ")
        assert sentence in line


def test_use_isa(restore: None) -> None:
    for isa in ISAS:
        rsr.use_isa(isa)
        assert rsr.cpu_info()["isa"] == isa
    for wrong in ("", "sse9", "SCALAR"):
        with pytest.raises(IsaError, match=f"^unknown instruction set '{wrong}'; this build has "):
            rsr.use_isa(wrong)
    with pytest.raises(IsaError, match="found 3, expected the name"):
        rsr.use_isa(3)  # type: ignore[arg-type]
    assert rsr.cpu_info()["isa"] == ISAS[-1], "a refusal changes nothing"


def test_use_isa_outranks_the_environment() -> None:
    code = "import rsr_runtime as rsr; rsr.use_isa('scalar'); print(rsr.cpu_info()['isa'])"
    done = run_python(code, RSR_ISA="nonsense")
    assert done.stdout.strip() == "scalar", done.stderr


def test_cpu_info() -> None:
    info = rsr.cpu_info()
    assert list(info) == [
        "machine", "processor", "isa", "supported_isas", "compiled_isas", "threads", "processors",
    ]  # fmt: skip
    assert info["isa"] in info["supported_isas"]
    assert info["supported_isas"][-1] == "scalar"
    compiled, supported = info["compiled_isas"], info["supported_isas"]
    assert compiled == [isa for isa in KNOWN_ISAS if isa in compiled]
    assert supported == [isa for isa in compiled if isa in supported]
    assert info["threads"] == rsr.get_num_threads()
    assert info["processors"] == os.cpu_count()
