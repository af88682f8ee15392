"""What was built: no code of an ISA file leaks. (`make lint` compares the stubs.)"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "fill"),
    [
        ("batch/panels_amx", "fill_w16_amx"),
        ("batch/panels_avx512vnni", "fill_w16_avx512vnni"),
        ("batch/small_batch_avx2", "fill_together_avx2"),
        ("batch/tables_avx2", "fill_batch_avx2"),
        ("batch/tables_avx512", "fill_batch_avx512"),
        ("decoder/decoder_avx2", "fill_decoder_avx2"),
        ("decoder/decoder_avx512", "fill_decoder_avx512"),
        ("dense/dense_avx2", "fill_dense_avx2"),
        ("dense/dense_avx512", "fill_dense_avx512"),
        ("dense/dense_avx512vnni", "fill_dense_avx512vnni"),
        ("permuted/segments_avx2", "fill_permuted_avx2"),
        ("vector/n4s1_avx2", "fill_n4s1_avx2"),
        ("vector/n4s1_avx512", "fill_n4s1_avx512"),
        ("vector/w16_avx2", "fill_w16_avx2"),
        ("vector/w16_avx512", "fill_w16_avx512"),
    ],
)
def test_an_isa_object_exports_its_fill_function_only(source: str, fill: str) -> None:
    """A weak symbol could be picked by the linker for machines without the instruction set."""
    objects = list(ROOT.glob(f"build/*/runtime/native/CMakeFiles/*/{source}.cpp.o"))
    if not objects or shutil.which("nm") is None:
        pytest.skip("no build folder, or no nm")
    for path in objects:
        nm = ["nm", "--defined-only", "-C", str(path)]
        output = subprocess.run(nm, check=True, capture_output=True, text=True, timeout=50).stdout
        symbols = [line.split(maxsplit=2)[1:] for line in output.splitlines()]
        exported = [name for kind, name in symbols if kind.isupper()]
        assert exported == [f"rsr::{fill}(rsr::KernelTable&)"], path
        assert not [name for kind, name in symbols if kind in "vwu"], path
