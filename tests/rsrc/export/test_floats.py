"""The "float" form: digit * scale, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import MATRICES, T, dense, tensors, to_dense
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare


def test_every_matrix(kit: Kit, all_matrices: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"
    decompile(all_matrices, back, to="float")
    found, source = kit.judge(back), kit.judge(tmp_path / "s.safetensors")
    assert set(found) == set(source)
    for name, (values, dtype) in MATRICES.items():
        assert dense(found[name]).tolist() == values.tolist(), name
        if dtype != "I8":  # including the signs of zeros
            assert found[name] == source[name], name
    assert {found[name].dtype for name in ("ternary", "signs", "bits")} == {"BF16"}
    rsrc.compile(back, tmp_path / "again.rsr")
    assert compare(tmp_path / "again.rsr", back) == len(found)
    again = to_dense(tmp_path / "again.rsr")
    for name, want in to_dense(all_matrices).items():
        assert again[name].tobytes() == want.tobytes(), name


def test_permuted(kit: Kit, tmp_path: Path) -> None:
    names = [name for name in MATRICES if name != "group"]  # which permuted cannot hold
    source = kit.save(tmp_path / "s.safetensors", tensors(kit, names))
    rsrc.compile(source, tmp_path / "x.rsr", encoding="permuted")
    decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors", to="float")
    found = kit.judge(tmp_path / "back.safetensors")
    for name in names:
        assert dense(found[name]).tolist() == MATRICES[name][0].tolist(), name


def test_the_smallest_float_that_holds_the_scale(kit: Kit, tmp_path: Path) -> None:
    """The scale of a quantized matrix rarely fits the source's dtype."""
    folder = tmp_path / "f"
    folder.mkdir()
    noise = np.random.default_rng(2).integers(-3, 4, T.shape) / 64  # 0.75 + noise fits BF16
    masters = kit.bf16(T * 0.75 + noise)
    kit.save(folder / "model.safetensors", {"a.weight": masters})
    rsrc.compile(folder, tmp_path / "x.rsr", quantize="absmean")
    assert decompile(tmp_path / "x.rsr", tmp_path / "out", to="float").quantized == ["a.weight"]
    found = kit.judge(tmp_path / "out" / "model.safetensors")["a.weight"]
    assert found.dtype == "F32"
    assert (dense(found) == to_dense(tmp_path / "x.rsr")["a.weight"]).all()
