"""Builds and runs the harness: every slot of the kernel table on every instruction set here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rsr_runtime as rsr

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the harness, with the kernel library of the installed module if that is still there."""
    cmake = shutil.which("cmake")
    if cmake is None or not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        pytest.skip("no CMake, or no C++ compiler")
    folder = tmp_path_factory.mktemp("harness")
    options = []
    if sys.platform == "linux":  # a compiler may have no sanitizer library to link
        probe = [os.environ.get("CXX", "c++"), "-fsanitize=address,undefined", "-x", "c++", "-"]
        found = subprocess.run(probe, input=b"int main() {}", cwd=folder, check=False,
                               capture_output=True)  # fmt: skip
        options += ["-DRSR_EMULATE_AMX=ON"] + ["-DRSR_SANITIZE=ON"] * (found.returncode == 0)
    libraries = list(ROOT.glob(f"build/{sys.implementation.cache_tag.replace('cpython-', 'cp')}-*/"
                               "runtime/native/librsr_kernels.a"))  # fmt: skip
    options += [f"-DRSR_KERNELS={path}" for path in libraries[:1]]
    configure: list[str | Path] = ["-S", HERE, "-B", folder, *options]
    build: list[str | Path] = ["--build", folder, "--config", "Release"]
    build += ["--parallel", str(os.cpu_count() or 1)]
    for arguments in (configure, build):
        done = subprocess.run([cmake, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return next(path for path in folder.rglob("harness*") if path.stem == "harness" and
                path.suffix in ("", ".exe") and path.is_file())  # fmt: skip


def test_every_kernel_is_as_plain_cpp(harness: Path) -> None:
    done = subprocess.run([harness], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for isa in rsr.cpu_info()["supported_isas"]:
        assert f" {isa} " in done.stdout, "the harness has other instruction sets than the module"


def test_a_wrong_name_is_refused(harness: Path) -> None:
    done = subprocess.run([harness, "sse9"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "no instruction set sse9 here\n")
