"""All forms: matrices of any kind, large ones, and tensors that only one form can hold."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import T, dense, to_dense
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.layouts.float_bits import row_blocks
from rsrc.source.tensor import PIECE

Array = npt.NDArray[Any]


@st.composite
def matrices(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Draw ternary or binary floats with negative zeros and scales per tensor, row or group."""
    rows, columns = draw(st.integers(0, 9)), draw(st.integers(0, 70))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    t = rng.choice(draw(st.sampled_from([(-1, 0, 1), (-1, 1), (0, 1), (0,)])), (rows, columns))
    width = draw(st.sampled_from([None, 1, 32]))
    shape = {None: (1, 1), 1: (rows, 1), 32: (rows, -(-columns // 32))}[width]
    scales = rng.uniform(0.01, 9, shape).astype(np.float32)
    if width == 32:
        scales = np.repeat(scales, 32, axis=1)[:, :columns]
    values: npt.NDArray[np.float32] = (t * scales).astype(np.float32)
    values[(t == 0) & (rng.random(t.shape) < draw(st.sampled_from([0, 0.5])))] = -0.0
    return values


@settings(max_examples=30, deadline=None)
@given(values=matrices(), encoding=st.sampled_from(["ranked", "permuted"]))
def test_any_matrix_in_any_form(
    kit: Kit, scratch: Path, values: npt.NDArray[np.float32], encoding: str
) -> None:
    rsr, back = scratch / "forms.rsr", scratch / "forms.safetensors"
    source = kit.save(scratch / "forms_source.safetensors", {"w": values, "i": T})
    try:
        rsrc.compile(source, rsr, encoding=encoding, force=True)
    except rsrc.OptionError:
        assume(False)  # permuted cannot hold groups
    indexed = isinstance(
        next(t for t in RsrFile(rsr).header.tensors if t.name == "w"), IndexedTensor
    )
    decompile(rsr, back, to="float", force=True)
    assert kit.judge(back)["w"] == kit.raw(values)  # bit for bit
    decompile(rsr, back, to="int8", force=True)
    found = kit.judge(back)
    if indexed and values.size:
        scale = dense(found["w_scale"])
        if scale.ndim == 2:
            file = RsrFile(rsr)
            t = next(t for t in file.header.tensors if t.name == "w")
            assert isinstance(t, IndexedTensor)
            scale = np.repeat(scale, t.group_columns, axis=1)[:, : values.shape[1]]
        elif scale.size > 1:
            scale = scale[:, None]
        assert (dense(found["w"]) * scale == values).all()
    out = scratch / f"forms_{os.urandom(8).hex()}"
    if indexed and len(set(dense(found["w_scale"]).flat if "w_scale" in found else ())) > 1:
        with pytest.raises(rsrc.ExportError, match="several for 'w'"):
            decompile(rsr, out, to="bitnet")
        return
    decompile(rsr, out, to="bitnet")
    rsrc.compile(out, rsr, force=True)
    assert (to_dense(rsr)["w"] == values).all()


@pytest.mark.parametrize("to", ["float", "int8", "bitnet"])
def test_large_matrices_in_windows(kit: Kit, tmp_path: Path, to: str) -> None:
    """Windows of rows join, and only the digits are all in memory."""
    shape = (2052, 1537)
    t = np.random.default_rng(3).integers(-1, 2, shape).astype(np.int8)
    assert len(list(row_blocks(shape, PIECE))) > 3
    wide = kit.bf16(np.where(t == 0, np.float32(-0.0), t * np.float32(0.5)))
    source = kit.save(tmp_path / "s.safetensors", {"w": wide})
    rsrc.compile(source, tmp_path / "x.rsr")
    tracemalloc.start()
    try:
        decompile(tmp_path / "x.rsr", tmp_path / "out", to=to)
        assert tracemalloc.get_traced_memory()[1] < 4 * t.size + (16 << 20)
    finally:
        tracemalloc.stop()
    found = kit.judge(tmp_path / "out" / "model.safetensors")["w"]
    want = {"float": wide, "int8": kit.raw(t), "bitnet": kit.raw(kit.pack(t))}
    assert found == want[to]


def test_mlx_codes_that_are_not_ternary(kit: Kit, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "w": np.eye(3, dtype=np.int8),
        "e.weight": np.full((2, 8), 0xFFFFFFFF, np.uint32),
        "e.scales": np.ones((2, 1), np.float32),
        "e.biases": np.full((2, 1), -0.5, np.float32),
    }
    rsrc.compile(kit.save(tmp_path / "s.safetensors", tensors), tmp_path / "x.rsr")
    for form in ("int8", "float", "bitnet", "gguf"):
        with pytest.raises(
            rsrc.ExportError, match=r"MLX codes \(U32\) .* in form source only: 'e.weight'"
        ):
            decompile(tmp_path / "x.rsr", tmp_path / "y", to=form)
    decompile(tmp_path / "x.rsr", tmp_path / "y.safetensors")
    assert compare(tmp_path / "x.rsr", tmp_path / "y.safetensors") == 4
