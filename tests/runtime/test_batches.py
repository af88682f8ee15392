"""The kernels for many vectors under sanitizers, those of AMX on emulated tiles."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rsr_testing.paths import ROOT

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Build native/batches.cpp with sanitizers, AMX on emulated tiles; return what runs it."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("batches")

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip

    flags = ["-std=c++17", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    vbmi = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vbmi"]
    vnni = [*vbmi, "-mavx512vnni"]
    probe = folder / "probe.cpp"
    probe.write_text(
        'int main() { return !__builtin_cpu_supports("avx512vbmi") ||'
        ' !__builtin_cpu_supports("avx512vnni"); }\n'
    )
    if run(compiler, *flags, *vnni, probe, "-o", "probe").returncode != 0:
        pytest.skip(f"{compiler} compiles no AVX-512 code, or has no sanitizers")
    if run(folder / "probe").returncode != 0:
        pytest.skip("this processor has no AVX-512 VBMI and VNNI")

    native, here = ROOT / "runtime/native", ROOT / "tests/runtime/native"
    emulated = ["-include", str(here / "emulated_tiles.h")]
    others = [native / f"{name}.cpp" for name in ("ranked", "parallel")]
    commands: tuple[list[str | Path], ...] = (
        [*vbmi, *emulated, "-c", native / "w16_amx.cpp"],
        [*vnni, "-c", native / "w16_avx512vnni.cpp"],
        [f"-I{native}", *others, here / "batches.cpp", "w16_amx.o", "w16_avx512vnni.o",
         "-o", "batches", "-pthread"],
    )  # fmt: skip
    for command in commands:
        done = run(compiler, *flags, "-w", *command)
        assert done.returncode == 0, done.stderr
    return lambda isa: run(folder / "batches", isa)


@pytest.mark.parametrize("isa", ["amx", "avx512vnni"])
def test_any_number_of_vectors_under_sanitizers(isa: str, program: Program) -> None:
    """AMX too, for the many processors that have none: the same source, the tiles in plain C++."""
    done = program(isa)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 400
