"""Compile, load, multiply and decompile, for every kind of matrix and every option.

The expected matrix comes from how the test made it, and the contents of a file from the safetensors
library; neither comes from the compiler.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, KINDS, QUATERNARIES, QUINARY, TERNARY
from rsr_testing.checkpoints import Kit
from rsr_testing.matrices import float32_bound
from rsrc.compiler.target import TARGETS
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare

Array = npt.NDArray[Any]

FLOATS = ("F32", "F16", "BF16")
LAYOUTS = ("I8", "bitnet", "mlx", "mlx-1bit", *FLOATS)
SHORT = (TERNARY, BINARY_SIGNS, BINARY_BITS)
PLUS_2, MINUS_2 = (-1, 0, 1, 2), (-2, -1, 0, 1)
DIGITS = {  # of layouts that do not take all
    "I8": (*SHORT, PLUS_2, MINUS_2, (-2, -1, 1, 2), QUINARY),
    "bitnet": (TERNARY,),
    "mlx": (TERNARY, PLUS_2, MINUS_2),
    "mlx-1bit": (BINARY_SIGNS,),
}
ROWS = (0, 1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 160, 257)
COLUMNS = (0, 1, 2, 5, 8, 9, 10, 15, 16, 44, 45, 46, 100)
SCALES = (0.25, 0.375, 1.0, 1.5, 3.0, 96.0)  # exact in every float type


@dataclass(frozen=True)
class Case:
    """One matrix and how it is compiled."""

    layout: str
    rows: int  # of the source tensor: a packed one holds four times as many
    columns: int
    digits: tuple[int, ...] = TERNARY
    granularity: str | int = "tensor"  # int: columns of a group
    negative_zeros: bool = False
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    layout = draw(st.sampled_from(LAYOUTS))
    digits = draw(st.sampled_from(DIGITS.get(layout, SHORT)))
    encoding, direction, most = draw(
        st.sampled_from(
            [
                ("auto", "auto", 32),
                ("ranked", "expand", 32),
                ("permuted", "expand", 1 << 16),
                ("permuted", "reduce", 1 << 16),
            ]
        )
    )
    granularities: list[str | int] = ["tensor", "row"]
    if encoding != "permuted":
        granularities += [32, 64]
    base = len(digits)
    limit = max(k for k in range(1, 17) if base**k <= most)
    return Case(
        layout=layout,
        rows=draw(st.sampled_from(ROWS) | st.integers(0, 300)),
        columns=draw(st.sampled_from(COLUMNS) | st.integers(0, 120)),
        digits=digits,
        granularity=draw(st.sampled_from(granularities)),
        negative_zeros=draw(st.booleans()),
        seed=draw(st.integers(0, 1 << 32)),
        options={
            "encoding": encoding,
            "direction": direction,
            "target": draw(st.sampled_from(TARGETS)),
            # small k are as likely as large ones, which take long
            "k": draw(st.none() | st.integers(1, min(5, limit)) | st.integers(1, limit)),
            "zstd": draw(st.sampled_from((None, None, 1))),
        },
    )


def build(kit: Kit, case: Case) -> tuple[dict[str, Any], Array, Array]:
    """Return the source tensors, digit values (out, in), and scales that broadcast to them."""
    rng = np.random.default_rng(case.seed)
    rows = 4 * case.rows if case.layout == "bitnet" else case.rows
    columns = case.columns
    if case.layout in ("mlx", "mlx-1bit"):  # groups of 32, or one group per row
        columns = 32 * (
            1 + columns % 5 if isinstance(case.granularity, int) else 2 ** (columns % 3)
        )
    t = rng.choice(np.array(case.digits), (rows, columns))
    if t.size >= len(case.digits):  # every digit of the alphabet occurs
        t.flat[rng.permutation(t.size)[: len(case.digits)]] = case.digits
    if case.layout == "I8":
        return {"w": t.astype(np.int8)}, t, np.ones((rows, 1))
    if case.layout == "bitnet":
        scale = rng.choice(SCALES)
        tensors = {"w": kit.pack(t), "w_scale": kit.bf16([scale])}
        return tensors, t, np.full((rows, 1), np.float32(1) / np.float32(scale), np.float64)
    if case.layout in ("mlx", "mlx-1bit"):
        group = 32 if isinstance(case.granularity, int) else columns
        scales = rng.choice(SCALES, (rows, columns // group))
        bits = 2 if case.layout == "mlx" else 1
        codes = (
            np.searchsorted(case.digits, t)
            .astype(np.uint32)
            .reshape(rows, columns * bits // 32, 32 // bits)
        )
        words = (codes << np.arange(0, 32, bits, dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
        half = scales.astype(np.float16)
        step = half if bits == 2 else 2 * half
        tensors = {"w.weight": words, "w.scales": step, "w.biases": case.digits[0] * half}
        return tensors, t, np.repeat(scales, group, axis=1)
    scales = rng.choice(SCALES, (rows, 1))
    if case.granularity == "tensor" or case.columns == 1:
        scales[:] = 1.5
    elif isinstance(case.granularity, int):
        group = case.granularity
        scales = rng.choice(SCALES, (rows, -(-case.columns // group)))
        scales = np.repeat(scales, group, axis=1)[:, : case.columns]
    w = t * scales
    if case.negative_zeros:
        w[(t == 0) & (rng.random(t.shape) < 0.5)] *= -1
    return {"w": kit.cast(w, case.layout)}, t, scales


def check_products(matrix: rsr_runtime.Matrix, t: Array, scales: Array, seed: int) -> None:
    """Products equal the dense matrix's: integers exactly, floats within the bound."""
    rng = np.random.default_rng(seed)
    n = t.shape[1]
    q = rng.integers(-128, 128, (n,), dtype=np.int8)
    exact = t @ q.astype(np.int64)
    found = matrix @ q
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, exact)
    x = rng.standard_normal((n,), dtype=np.float32)
    found = matrix @ x
    assert found.dtype == np.float32
    x64 = x.astype(np.float64)
    error = np.abs(found - (t * scales) @ x64)
    assert (error <= max(1, np.abs(t).max(initial=0)) * float32_bound(scales + 0 * t, x)).all()
    found = matrix.linear(x[None], activations="int8")[0]
    s = np.float32(127) / max(np.abs(x).max(initial=0), np.float32(1e-5))
    exact = (t * scales) @ np.rint(x * s).astype(np.float64) / s
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-4)
    batch = rng.integers(-128, 128, (n, 3)).astype(np.int8)
    np.testing.assert_array_equal(matrix @ batch, t @ batch.astype(np.int64))


@given(cases())
@example(Case("F32", 0, 5))
@example(Case("bitnet", 3, 0, options={"encoding": "permuted"}))
@example(Case("bitnet", 0, 1, options={"encoding": "permuted", "direction": "expand"}))
@example(Case("F16", 33, 46, BINARY_BITS, "row", True, options={"zstd": 3}))
@example(Case("BF16", 130, 300, TERNARY, 64, True))
@example(Case("F32", 65, 193, BINARY_SIGNS, 32))
@example(Case("mlx", 33, 4, TERNARY, 32))
@example(Case("mlx-1bit", 33, 4, BINARY_SIGNS, 32))
@example(Case("mlx", 33, 4, PLUS_2, 32))
@example(Case("mlx", 70, 4, MINUS_2, 32))
@example(Case("I8", 130, 45, QUINARY))
@example(Case("F16", 130, 96, PLUS_2, 64, True))
@example(Case("BF16", 50, 90, QUINARY, "row"))
@example(Case("F32", 50, 90, (-2, -1, 1, 2)))
@example(Case("mlx", 33, 1, options={"encoding": "permuted", "direction": "reduce"}))
@settings(max_examples=250, deadline=None)
def test_round_trip(kit: Kit, scratch: Path, case: Case) -> None:
    tensors, t, scales = build(kit, case)
    extra: dict[str, Any] = {
        "norm": kit.bf16(np.ones(3)),
        "anchor": np.array([[1, -1, 0]], np.int8),
    }
    source = kit.save(scratch / "s.safetensors", {"odd": np.zeros(1, np.uint8), **tensors, **extra})
    bits = {"bits": 1, "group_size": None} if case.layout == "mlx-1bit" else None
    (scratch / "config.json").write_text(json.dumps({"quantization": bits}))
    rsr, again, back = (scratch / name for name in ("x.rsr", "y.rsr", "back.safetensors"))
    occurring = set(np.unique(t))
    base = 3  # whatever else occurs of three digits, or of four
    if case.layout == "mlx-1bit" or (occurring in ({-1, 1}, {0, 1}) and case.layout != "mlx"):
        base = 2
    elif case.layout == "mlx" and case.digits == MINUS_2 and t.size:
        base = 4
    elif occurring & {-2, 2}:
        base = 4 if any(occurring <= set(digits) for digits in QUATERNARIES) else 5
    options = {**case.options, "force": True}
    most = 1 << 16 if case.options.get("encoding") == "permuted" else 32
    limit = max(k for k in range(1, 17) if base**k <= most)
    if (options.get("k") or 0) > min(limit, 10 if most > 32 else 3):  # the anchor is ternary
        options |= {"exclude": ["anchor"]}
    if (options.get("k") or 0) > limit:
        options |= {"k": limit}

    report = rsrc.compile(source, rsr, threads=1, **options)
    (w,) = (r for r in report.tensors if r.name in ("w", "w.weight"))
    assert w.kind == KINDS[base]
    assert w.shape == t.shape
    assert w.k == (options.get("k") or w.k)

    model = rsr_runtime.load(rsr, verify=True)
    matrix = model[w.name]
    assert isinstance(matrix, rsr_runtime.Matrix)
    check_products(matrix, t, scales, case.seed)
    np.testing.assert_array_equal(matrix.to_dense(np.int8), t)

    decompile(rsr, back, force=True)
    assert kit.judge(back) == kit.judge(source)
    assert compare(rsr, source) == len(kit.judge(source))

    old = rsr if case.seed % 2 else None
    report = rsrc.compile(source, again, threads=3, reuse=old, **options)
    assert again.read_bytes() == rsr.read_bytes()
    assert all(r.reused == (old is not None) for r in report.tensors)


@given(
    st.sampled_from((TERNARY, BINARY_SIGNS, BINARY_BITS)),
    st.integers(1, 5),
    st.sampled_from(ROWS),
    st.sampled_from(COLUMNS),
    st.integers(0, 1 << 32),
)
@settings(max_examples=60, deadline=None)
def test_both_encodings_give_the_same_index(
    kit: Kit, scratch: Path, digits: tuple[int, ...], k: int, rows: int, columns: int, seed: int
) -> None:
    """Ranked W, permuted W (expand) and permuted W transposed (reduce) have the same blocks."""
    rng = np.random.default_rng(seed)
    t = rng.choice(np.array(digits, np.int8), (rows, columns))
    if t.size:  # the alphabet does not depend on the draw
        t.flat[: len(digits)] = digits[: t.size]
    if len(digits) == 3 or t.size < 2:  # a matrix of one value counts as ternary
        k = min(k, 3)
    source = kit.save(scratch / "s.safetensors", {"w": t})
    transposed = kit.save(scratch / "t.safetensors", {"w": np.ascontiguousarray(t.T)})
    found = []
    for path, options in (
        (source, {"encoding": "ranked"}),
        (source, {"encoding": "permuted", "direction": "expand"}),
        (transposed, {"encoding": "permuted", "direction": "reduce"}),
    ):
        rsrc.compile(path, scratch / "x.rsr", k=k, force=True, **options)  # type: ignore[arg-type]
        matrix = rsr_runtime.load(scratch / "x.rsr")["w"]
        assert isinstance(matrix, rsr_runtime.Matrix)
        assert matrix.blocks == -(-columns // k)
        found.append([matrix.block(j) for j in range(matrix.blocks)])
    for ranked, expand, reduce in zip(*found, strict=True):
        for part in range(2):
            np.testing.assert_array_equal(expand[part], ranked[part])
            np.testing.assert_array_equal(reduce[part], ranked[part])


@pytest.mark.parametrize("digits", [TERNARY, BINARY_SIGNS])
@pytest.mark.parametrize(
    ("shape", "options", "packing"),
    [
        ((70_000, 10), {"target": "avx512"}, "w16"),
        ((70_000, 10), {"encoding": "permuted", "direction": "expand", "k": 3}, "u32"),
        ((70_000, 10), {"encoding": "permuted", "direction": "reduce", "k": 4}, "u16"),
        ((10, 70_000), {"encoding": "permuted", "direction": "reduce", "k": 3}, "u32"),
        ((65_535, 4), {"encoding": "permuted", "direction": "expand", "k": 3}, "u16"),
        ((65_536, 4), {"encoding": "permuted", "direction": "expand", "k": 3}, "u32"),
    ],
)
def test_tall(
    kit: Kit,
    tmp_path: Path,
    digits: tuple[int, ...],
    shape: tuple[int, int],
    options: dict[str, Any],
    packing: str,
) -> None:
    t = np.random.default_rng(5).choice(np.array(digits, np.int8), shape)
    source = kit.save(tmp_path / "s.safetensors", {"w": t})
    report = rsrc.compile(source, tmp_path / "x.rsr", **options)
    assert report.tensors[0].packing == packing
    matrix = rsr_runtime.load(tmp_path / "x.rsr", verify=True)["w"]
    assert isinstance(matrix, rsr_runtime.Matrix)
    check_products(matrix, t.astype(np.int64), np.ones((shape[0], 1)), 5)
    decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors")
    assert kit.judge(tmp_path / "back.safetensors") == kit.judge(source)


@pytest.mark.parametrize("encoding", ["ranked", "permuted"])
def test_compressed_files_hold_the_same(kit: Kit, tmp_path: Path, encoding: str) -> None:
    rng = np.random.default_rng(6)
    tensors: dict[str, Any] = {
        "random": rng.integers(-1, 2, (300, 200)).astype(np.int8),
        "zeros": np.zeros((500, 300), np.float16),  # would compress further than the format allows
        "dense zeros": np.zeros(1 << 20, np.uint8),
        "dense": rng.random(1000),
        "empty": np.zeros((0, 4), np.int8),
    }
    source = kit.save(tmp_path / "s.safetensors", tensors)
    sizes = {}
    for zstd in (None, 1, 19):
        path = tmp_path / f"{zstd}.rsr"
        report = rsrc.compile(source, path, encoding=encoding, target="avx512", zstd=zstd)
        sizes[zstd] = sum(t.bytes for t in report.tensors)
        assert path.stat().st_size == report.output_bytes
        model = rsr_runtime.load(path, verify=True)
        for name, expected in tensors.items():
            found = model[name]
            if isinstance(found, rsr_runtime.Matrix):
                found = found.to_dense()
            np.testing.assert_array_equal(found, expected)
        decompile(path, tmp_path / "back.safetensors", force=True)
        assert kit.judge(tmp_path / "back.safetensors") == kit.judge(source)
    assert sizes[None] > max(sizes[1], sizes[19])


@given(st.sampled_from(ROWS), st.sampled_from(COLUMNS), st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None)
def test_every_target_holds_the_same(
    kit: Kit, scratch: Path, rows: int, columns: int, seed: int
) -> None:
    t = np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.int8)
    source = kit.save(scratch / "s.safetensors", {"w": t, "anchor": np.array([[1, -1, 0]], "i1")})
    files: dict[str, set[bytes]] = {}
    for target in ("generic", "avx512", "avx2", "neon"):
        for threads in (1, 3):
            report = rsrc.compile(
                source, scratch / "x.rsr", target=target, threads=threads, force=True
            )
            packing = str(report.tensors[1].packing)  # of the anchor: always ternary
            files.setdefault(packing, set()).add((scratch / "x.rsr").read_bytes())
        decompile(scratch / "x.rsr", scratch / "back.safetensors", force=True)
        assert kit.judge(scratch / "back.safetensors") == kit.judge(source)
    assert {packing: len(contents) for packing, contents in files.items()} == {"w16": 1, "n4s1": 1}


def test_embedded_example(kit: Kit, tmp_path: Path, digits_source: Path) -> None:
    for options in ({}, {"encoding": "permuted"}, {"encoding": "permuted", "direction": "expand"}):
        path = tmp_path / "d.rsr"
        rsrc.compile(digits_source, path, force=True, **options)  # type: ignore[arg-type]
        decompile(path, tmp_path / "back.safetensors", force=True)
        assert kit.judge(tmp_path / "back.safetensors") == kit.judge(digits_source)
