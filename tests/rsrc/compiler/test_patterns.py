"""Which tensors list their patterns; that they decompile and multiply as without lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsr_formats.records import TERNARY
from rsr_testing.checkpoints import Kit
from rsr_testing.matrices import float32_bound
from rsrc.compiler import index, patterns
from rsrc.compiler.patterns import list_patterns
from rsrc.compiler.plan import IndexPlan
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.inspection.file import inspect_block, inspect_file
from rsrc.layouts import TernaryTensor
from rsrc.layouts.int8 import Int8
from rsrc.source.tensor import SourceTensor

Array = npt.NDArray[Any]

SHAPE = (130, 512)


def sparse(shape: tuple[int, int] = SHAPE, stride: int = 1, seed: int = 1) -> Array:
    """Return a ternary matrix with exactly one zero in each four columns `stride` apart."""
    rng = np.random.default_rng(seed)
    W = rng.choice(np.array([-1, 1], np.int8), shape)
    zeros = rng.integers(0, 4, (shape[0], shape[1] // 4))
    for r in range(shape[0]):
        for j in range(shape[1] // 4):
            W[r, j // stride * 4 * stride + j % stride + stride * zeros[r, j]] = 0
    return W


def compiled(
    kit: Kit, folder: Path, tensors: dict[str, Any], target: str = "avx512", **options: Any
) -> dict[str, IndexedTensor]:
    """Compile, verify and compare with the source; return the records."""
    source = kit.save(folder / "s.safetensors", tensors)
    report = rsrc.compile(source, folder / "s.rsr", target=target, force=True, **options)
    file = RsrFile(folder / "s.rsr")
    file.verify()
    assert compare(folder / "s.rsr", source) == len(tensors)
    decompile(folder / "s.rsr", folder / "back.safetensors", force=True)
    assert kit.judge(folder / "back.safetensors") == kit.judge(source)
    records = {t.name: t for t in file.header.tensors if isinstance(t, IndexedTensor)}
    for t in report.tensors:
        if t.name in records:
            assert (t.k, t.packing) == (records[t.name].k, records[t.name].packing)
            assert t.bits_per_weight == records[t.name].bits_per_weight
    return records


def scaled(W: Array, rule: str, seed: int = 2) -> Array:
    rng = np.random.default_rng(seed)
    scale = {
        "tensor": np.full((1, 1), 0.75),
        "row": rng.random((len(W), 1)) + 0.5,
        "group": np.repeat(rng.random((len(W), W.shape[1] // 256)) + 0.5, 256, axis=1),
    }[rule]
    scaled: Array = (W * scale.astype(np.float16)).astype(np.float16)
    return scaled


@pytest.mark.parametrize("stride", [1, 16])
@pytest.mark.parametrize("rule", ["tensor", "row", "group"])
def test_sparse_floats(kit: Kit, tmp_path: Path, rule: str, stride: int) -> None:
    W = sparse(stride=stride)
    t = compiled(kit, tmp_path, {"w": scaled(W, rule)})["w"]
    assert (t.k, t.packing, t.patterns, t.stride) == (4, "w16", 32, stride)
    w = rsr_runtime.load(tmp_path / "s.rsr")["w"]
    assert isinstance(w, rsr_runtime.Matrix)
    rng = np.random.default_rng(3)
    for count in (1, 2, 9, 33):
        X = rng.integers(-128, 128, (SHAPE[1], count)).astype(np.int8)
        np.testing.assert_array_equal(w @ X, W.astype(np.int64) @ X)
    x = rng.standard_normal(SHAPE[1]).astype(np.float32)
    dense = scaled(W, rule).astype(np.float64)
    bound = float32_bound(np.abs(w.to_dense()).max(axis=1)[:, None], x)
    assert (np.abs(w @ x - dense @ x) <= bound).all()
    np.testing.assert_array_equal(w.to_dense(), dense)


def test_bits_per_weight(kit: Kit, tmp_path: Path) -> None:
    shape = (128, 3072)
    t = compiled(kit, tmp_path, {"w": sparse(shape)})["w"]
    assert t.bits_per_weight == 16 / 12
    assert 8 * (tmp_path / "s.rsr").stat().st_size / (shape[0] * shape[1]) < 1.5  # the whole file


def test_other_layouts(kit: Kit, tmp_path: Path) -> None:
    W = sparse((132, 512))
    found = compiled(
        kit, tmp_path,
        {"int8": W, "packed": kit.pack(W), "packed_scale": np.ones(1, np.float32),
         "bf16": kit.bf16(W * 0.5)},
    )  # fmt: skip
    assert {name: (t.source.layout, t.k) for name, t in found.items()} == {
        "int8": ("int8", 4), "packed": ("bitnet", 4), "bf16": ("float", 4),
    }  # fmt: skip


def test_negative_zeros(kit: Kit, tmp_path: Path) -> None:
    W = sparse(stride=16).astype(np.float32)
    W[W == 0] = np.where(np.arange((W == 0).sum()) % 3, np.float32(0), np.float32(-0.0))
    t = compiled(kit, tmp_path, {"w": W})["w"]
    assert (t.k, t.stride) == (4, 16)
    assert t.source.negative_zeros is not None


@pytest.mark.parametrize("stride", [1, 16])
@pytest.mark.parametrize("rule", ["tensor", "row", "group"])
def test_one_more_pattern_in_the_last_row(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, stride: int
) -> None:
    monkeypatch.setattr(patterns, "_PANEL", 8 * SHAPE[1])  # the last row in another panel
    W = sparse(stride=stride)
    W[-1, -1 - 3 * stride :: stride] = 1
    t = compiled(kit, tmp_path, {"w": scaled(W, rule)})["w"]
    assert (t.k, t.pattern_list, t.stride) == (3, None, 1)


def test_fewer_patterns_are_listed_too(kit: Kit, tmp_path: Path) -> None:
    W = np.zeros(SHAPE, np.int8)
    W[::3, ::4] = 1
    W[1::3, ::4] = -1
    t = compiled(kit, tmp_path, {"w": W})["w"]
    assert (t.k, t.pattern_list) == (4, bytes.fromhex("00010101 01010101 02010101"))


@pytest.mark.parametrize(
    "W",
    [
        np.random.default_rng(0).integers(-1, 2, SHAPE).astype(np.int8),  # not sparse
        sparse((130, 512))[:, :-1],  # not a multiple of 4
        sparse((8, 504)),  # too few weights for a list
        sparse((130, 516))[:, 2:-2],  # the groups of four are shifted
    ],
)
def test_others_have_three_columns(kit: Kit, tmp_path: Path, W: Array) -> None:
    t = compiled(kit, tmp_path, {"w": np.ascontiguousarray(W)})["w"]
    assert (t.k, t.pattern_list) == (3, None)


def test_groups_that_blocks_of_four_would_straddle(kit: Kit, tmp_path: Path) -> None:
    """Groups of 32 columns hold whole blocks, but not whole runs of stride 16."""
    scale = np.repeat(np.random.default_rng(4).random((130, 16)) + 0.5, 32, axis=1)
    for stride, k in ((1, 4), (16, 3)):
        w = (sparse(stride=stride) * scale.astype(np.float16)).astype(np.float16)
        t = compiled(kit, tmp_path, {"w": w})["w"]
        assert (t.group_columns, t.k, t.stride) == (32, k, 1)


@pytest.mark.parametrize("target", ["avx2", "neon"])
def test_n4s1_stays_unless_asked(kit: Kit, tmp_path: Path, target: str) -> None:
    tensors = {"w": sparse(), "g": scaled(sparse(), "group")}
    t = compiled(kit, tmp_path, tensors, target)
    assert [(x.k, x.packing) for x in t.values()] == [(3, "n4s1")] * 2
    t = compiled(kit, tmp_path, tensors, target, k=4)
    assert [x.k for x in t.values()] == [4, 4]


def test_k_that_was_asked_for(kit: Kit, tmp_path: Path) -> None:
    assert compiled(kit, tmp_path, {"w": sparse()}, k=3)["w"].k == 3
    few = compiled(kit, tmp_path, {"w": sparse((3, 8))}, k=4)["w"]
    assert few.pattern_list is not None  # k = 4 lists for any size
    source = kit.save(tmp_path / "x.safetensors", {"w": np.arange(81, dtype=np.int8)[None] % 3 - 1})
    with pytest.raises(rsrc.OptionError, match=r"^w: k = 4, expected 1 to 3 for base 3 in"):
        rsrc.compile(source, tmp_path / "x.rsr", k=4)
    assert not (tmp_path / "x.rsr").exists()


@pytest.mark.parametrize("panel", [1, 5000])
@pytest.mark.parametrize("stride", [1, 16])
def test_panels_leave_no_trace(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int, panel: int
) -> None:
    W = sparse(stride=stride)
    tensors = {"w": W, "g": scaled(W, "group"), "wide": sparse((1, 8192), stride)}
    compiled(kit, tmp_path, tensors)
    whole = (tmp_path / "s.rsr").read_bytes()
    monkeypatch.setattr(index, "_PANEL", panel)
    monkeypatch.setattr(patterns, "_PANEL", max(panel, 64))
    found = compiled(kit, tmp_path, tensors, threads=3)
    assert {t.stride for t in found.values()} == {stride}
    assert (tmp_path / "s.rsr").read_bytes() == whole


@pytest.mark.parametrize("stride", [1, 16])
def test_a_code_that_is_no_digit_is_left_to_the_encoder(stride: int) -> None:
    W = sparse(stride=stride)
    source = SourceTensor("w", "I8", W.shape, Path("x"), 0, W.size)
    p = IndexPlan(
        TernaryTensor(source, Int8(), SHAPE, TERNARY, None, "none"),
        "ranked", "w16", "expand", 3, lists=True,
    )  # fmt: skip
    listed = list_patterns(p, W.reshape(-1).view(np.uint8))
    assert (listed.k, listed.stride) == (4, stride)
    assert p.k == 3
    W[-1, -1] = 2
    assert list_patterns(p, W.reshape(-1).view(np.uint8)) is p


@pytest.mark.parametrize("stride", [1, 16])
def test_inspection(kit: Kit, tmp_path: Path, stride: int) -> None:
    W = sparse(stride=stride)
    compiled(kit, tmp_path, {"w": W})
    rsr = tmp_path / "s.rsr"
    j = 17
    found = inspect_block(rsr, "w", j)
    columns = slice(found["columns"][0], found["columns"][1], found["stride"])
    first = 68 if stride == 1 else 65
    assert columns == slice(first, first + 3 * stride + 1, stride)
    L, sigma = found["segments"], found["permutation"]
    assert len(found["patterns"]) == len(L) - 1 == 32
    for s, pattern in enumerate(found["patterns"]):
        for row in sigma[L[s] : L[s + 1]]:
            assert W[row, columns].tolist() == pattern
    assert sorted(sigma) == list(range(SHAPE[0]))
    (tensor,) = inspect_file(rsr)["tensors"]
    assert (tensor["k"], tensor["blocks"]) == (4, 128)
