"""The "int8" form: codes and scales that compile to the same matrix."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import MATRICES, PER_TENSOR, ROWS, T, dense, to_dense
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare


def test_every_matrix(kit: Kit, all_matrices: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"
    decompile(all_matrices, back, to="int8")
    found = kit.judge(back)
    for name, (values, _) in MATRICES.items():
        assert found[name].dtype == "I8"
        meant = dense(found[name])
        assert set(np.unique(meant)) <= {-1, 0, 1}
        if f"{name}_scale" in found:
            assert found[f"{name}_scale"].dtype == "F32"
            scale = dense(found[f"{name}_scale"])
            if scale.ndim == 2:
                scale = np.repeat(scale, 32, axis=1)
            elif scale.size > 1:
                scale = scale[:, None]
            meant = meant * scale
        assert meant.tolist() == values.tolist(), name
    shapes = {name: t.shape for name, t in found.items() if name.endswith("_scale")}
    per_tensor = [
        name
        for name in PER_TENSOR
        if MATRICES[name][1] != "I8" and name not in ("no_rows",)
    ]  # fmt: skip
    assert shapes == {
        "row_scale": (8,),
        "group_scale": (8, 3),
        **{f"{name}_scale": (1,) for name in per_tensor},
    }
    # It compiles to the same digits and scales.
    rsrc.compile(back, tmp_path / "again.rsr")
    assert compare(tmp_path / "again.rsr", back) == len(found)
    again = to_dense(tmp_path / "again.rsr")
    for name, want in to_dense(all_matrices).items():
        assert (again[name] == want).all(), name


@pytest.mark.parametrize(
    ("columns", "per", "groups"),
    [(100, 64, 2), (100, 50, 10), (100, 7, 100), (96, 48, 4), (70, 32, 3), (300, 150, 4)],
)  # fmt: skip
@pytest.mark.parametrize("rows", [3, 2000])
def test_groups_are_read_as_they_are_written(
    kit: Kit, tmp_path: Path, columns: int, per: int, groups: int, rows: int
) -> None:
    """100 columns are two groups of 50, or of 64: groups of 50 are written as groups of 10."""
    w = np.random.default_rng(8).standard_normal((rows, columns)).astype(np.float32)
    source = kit.save(tmp_path / "s.safetensors", {"l.weight": w})
    rsrc.compile(source, tmp_path / "x.rsr", quantize="twn", per=f"group:{per}")
    want = to_dense(tmp_path / "x.rsr")
    # Twice: the second time, the scales of 2000 rows are also a dense tensor of the .rsr file.
    for i in range(2):
        back = tmp_path / f"back{i}.safetensors"
        decompile(tmp_path / "x.rsr", back, to="int8")
        found = kit.judge(back)
        assert {name: t.shape for name, t in found.items()} == {
            "l.weight": (rows, columns), "l.weight_scale": (rows, groups),
        }  # fmt: skip
        rsrc.compile(back, tmp_path / "x.rsr", force=True)
        assert compare(tmp_path / "x.rsr", back) == 2
        assert (to_dense(tmp_path / "x.rsr")["l.weight"] == want["l.weight"]).all()
    decompile(tmp_path / "x.rsr", tmp_path / "float.safetensors", to="float")
    assert set(kit.judge(tmp_path / "float.safetensors")) == {"l.weight"}


def test_row_blocks(kit: Kit, tmp_path: Path) -> None:
    """The scale of a block of rows is repeated for each of them."""
    source = kit.save(tmp_path / "s.safetensors", {"w": (T[:, :12] * ROWS).astype(np.float32)})
    rsrc.compile(source, tmp_path / "x.rsr", encoding="permuted")
    file = RsrFile(tmp_path / "x.rsr")
    (t,) = file.header.tensors
    assert isinstance(t, IndexedTensor)
    assert t.scale is not None
    number = t.scale.section

    def in_blocks(document: dict[str, Any]) -> None:
        document["tensors"][0]["scale"]["rows"] = 3
        stored = ROWS[:3].astype(np.float32).tobytes()
        size = {"size": 12, "stored_size": 12, "sha256": hashlib.sha256(stored).digest()}
        document["sections"][number] |= size

    data = bytearray((tmp_path / "x.rsr").read_bytes())
    offset = file.header.sections[number].offset
    data[offset + 12 : offset + 32] = bytes(20)  # now padding
    (tmp_path / "x.rsr").write_bytes(data)
    kit.tamper(tmp_path / "x.rsr", in_blocks)
    decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors", to="int8")
    found = dense(kit.judge(tmp_path / "back.safetensors")["w_scale"])
    assert found.tolist() == [float(ROWS[i // 3, 0]) for i in range(8)]
