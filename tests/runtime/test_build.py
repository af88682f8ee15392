"""What was built: no code for an instruction set leaks. (`make lint` compares the stubs.)"""

from __future__ import annotations

import shutil
import subprocess

import pytest

import rsr_runtime as rsr
from rsr_testing.paths import ROOT

ISAS = [isa for isa in rsr.cpu_info()["compiled_isas"] if isa != "scalar"]


@pytest.mark.parametrize("isa", ISAS)
def test_objects_of_an_isa_export_their_fill_function_only(isa: str) -> None:
    """The linker could pick a weak symbol for machines without the instruction set."""
    objects = list(ROOT.glob(f"build/*/runtime/native/CMakeFiles/*/*/*_{isa}.cpp.o"))
    if not objects or shutil.which("nm") is None:
        pytest.skip("no build folder, or no nm")
    for path in objects:
        nm = ["nm", "--defined-only", "-C", str(path)]
        output = subprocess.run(nm, check=True, capture_output=True, text=True, timeout=50).stdout
        symbols = [line.split(maxsplit=2)[1:] for line in output.splitlines()]
        (exported,) = [name for kind, name in symbols if kind.isupper()]
        topic = path.name.removesuffix(".cpp.o")
        assert exported.startswith(f"rsr::fill_{topic}(rsr::KernelTable&"), path
        assert not [name for kind, name in symbols if kind in "vwu"], path
