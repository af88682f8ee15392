"""What was built: no code of an ISA file leaks. (`make lint` compares the stubs.)"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize(
    ("file", "function"), [("kernels", "fill"), ("n4s1", "fill_n4s1"), ("batch", "fill_batch")]
)
def test_an_isa_object_exports_its_fill_function_only(file: str, function: str, isa: str) -> None:
    """A weak symbol could be picked by the linker for machines without the instruction set."""
    objects = list(ROOT.glob(f"build/*/runtime/CMakeFiles/*/native/{file}_{isa}.cpp.o"))
    if not objects or shutil.which("nm") is None:
        pytest.skip("no build folder, or no nm")
    for path in objects:
        nm = ["nm", "--defined-only", "-C", str(path)]
        output = subprocess.run(nm, check=True, capture_output=True, text=True, timeout=50).stdout
        symbols = [line.split(maxsplit=2)[1:] for line in output.splitlines()]
        exported = [name for kind, name in symbols if kind.isupper()]
        assert exported == [f"rsr::{function}_{isa}(rsr::KernelTable&)"], path
        assert not [name for kind, name in symbols if kind in "vwu"], path
