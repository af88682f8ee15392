"""Float matrices that are ternary already; then whole checkpoints, one per published family.

A family's checkpoint has its names, dtypes, config and granularity of scales; it is small, and its
values are random. Products are compared with those of the dense matrix, which the safetensors
library reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY
from rsr_testing.bench import Bench
from rsr_testing.checkpoints import Kit, Raw
from rsr_testing.matrices import float32_bound
from rsrc.compiler import index
from rsrc.compiler.target import TARGETS
from rsrc.inspection.file import inspect_block
from rsrc.layouts import float_bits

Array = npt.NDArray[Any]
Rng = np.random.Generator

FLOATS = ("F32", "F16", "BF16")

# The relative step above 1, and the smallest subnormal, of each type.
STEP = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
TINY = {"F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}


@pytest.mark.parametrize("dtype", FLOATS)
class TestGroups:
    """Floats with one scale per row and group of columns."""

    @staticmethod
    def grouped(shape: tuple[int, int], columns: int, alphabet: tuple[int, ...]) -> Array:
        """Random digits; adjacent groups of a row have different scales."""
        rng = np.random.default_rng(columns)
        groups = -(-shape[1] // columns)
        scales = np.array([0.5, 0.75, 3.0])[
            np.add.outer(rng.integers(0, 3, shape[0]), range(groups)) % 3
        ]
        t = rng.choice(np.array(alphabet), shape)
        t[:, ::columns] = alphabet[-1]  # every group has a nonzero weight
        return np.asarray(t * np.repeat(scales, columns, axis=1)[:, : shape[1]])

    @pytest.mark.parametrize("alphabet", [TERNARY, BINARY_SIGNS, BINARY_BITS])
    @pytest.mark.parametrize(
        ("shape", "columns"),
        [((3, 33), 32), ((40, 64), 32), ((7, 100), 64), ((9, 256), 128), ((2, 385), 128),
         ((5, 600), 256), ((1, 512), 256)],
    )  # fmt: skip
    def test_the_widest_groups_are_found(
        self,
        bench: Bench,
        dtype: str,
        shape: tuple[int, int],
        columns: int,
        alphabet: tuple[int, ...],
    ) -> None:
        w = self.grouped(shape, columns, alphabet)
        found = bench.one(bench.kit.cast(w, dtype))
        assert found.scale == f"per row and {columns} columns"
        assert (found.kind, found.packing) == (
            "ternary" if alphabet == TERNARY else "binary", "w16",
        )  # fmt: skip
        matrix = bench.matrix()
        assert matrix.scale.shape == (shape[0], -(-shape[1] // columns))
        np.testing.assert_array_equal(matrix.to_dense(), w)
        assert bench.grid() == (1, columns, "F16")

    @pytest.mark.parametrize("at", [(0, 0), (3, 31), (5, 32), (39, 63), (39, 64)])
    def test_one_other_magnitude_in_a_group_keeps_it_dense(
        self, bench: Bench, dtype: str, at: tuple[int, int]
    ) -> None:
        w = self.grouped((40, 65), 32, (-1, 1))
        w[:, 64] = 3.0
        assert bench.one(bench.kit.cast(w, dtype)).kind == "binary"
        w[at] *= 2
        found = bench.one(bench.kit.cast(w, dtype))
        alone = at[1] == 64
        assert found.kind == ("binary" if alone else "dense")
        where = f"row {at[0]} has several magnitudes" + " in a group of 32 columns" * (at[0] > 0)
        assert found.reason == (None if alone else f"{dtype}, not ternary: {where}")

    def test_groups_without_a_magnitude(self, bench: Bench, dtype: str) -> None:
        """A group of zeros joins any other; alone, its scale is 0. Negative zeros come back."""
        w = np.zeros((4, 200))
        w[0, :64], w[0, 64:128] = 2.0, -3.0
        w[1, 150:] = -0.0
        w[2, 130] = -0.25
        found = bench.one(bench.kit.cast(w, dtype))
        assert found.scale == "per 64 columns"
        assert bench.matrix().scale.tolist() == [[2, 3, 0.25, 0]] * 4
        w[1, 0], w[2, 0], w[3, 192] = 0.5, -1, 8
        found = bench.one(bench.kit.cast(w, dtype))
        assert found.scale == "per row and 64 columns"
        expected = [[2, 3, 0, 0], [0.5, 0, 0, 0], [1, 0, 0.25, 0], [0, 0, 0, 8]]
        assert bench.matrix().scale.tolist() == expected

    def test_what_is_not_finite_stays_dense(self, bench: Bench, dtype: str) -> None:
        for value in (np.inf, np.nan):
            w = self.grouped((40, 64), 32, (-1, 1))
            w[30, 32:] = value
            assert bench.one(bench.kit.cast(w.astype(np.float32), dtype)).kind == "dense"

    def test_panels_leave_no_trace(
        self, bench: Bench, dtype: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        w = bench.kit.cast(self.grouped((300, 1000), 64, TERNARY), dtype)
        bench.one(w)
        whole = bench.rsr.read_bytes()
        monkeypatch.setattr(float_bits, "PIECE", 5000)
        monkeypatch.setattr(index, "_PANEL", 30_000)
        bench.one(w, threads=3)
        assert bench.rsr.read_bytes() == whole

    def test_ranked_only(self, bench: Bench, dtype: str) -> None:
        w = bench.kit.cast(self.grouped((4, 64), 32, TERNARY), dtype)
        with pytest.raises(
            rsrc.OptionError, match="w: has one scale per row and 32 columns, which"
        ):
            bench.one(w, encoding="permuted")
        for target in TARGETS:
            packing = "n4s1" if target in ("avx2", "neon") else "w16"
            assert bench.one(w, target=target).packing == packing

    def test_inspect(self, bench: Bench, dtype: str) -> None:
        bench.one(bench.kit.cast(self.grouped((4, 100), 64, TERNARY), dtype))
        found = inspect_block(bench.rsr, "w", 22)
        assert found["scale"] == {"rows": 1, "columns": 64, "dtype": "F16"}
        assert (found["scales"], found["blocks"], found["columns"]) == (8, 34, [64, 67])
        assert inspect_block(bench.rsr, "w", 21)["columns"] == [63, 64]


def test_scales_beyond_float16_are_float32(bench: Bench) -> None:
    w = np.repeat(np.array([[1.0, 0.1], [3.0, 1e30]], np.float32), 32, axis=1)
    assert bench.one(w).scale == "per row and 32 columns"
    assert bench.grid() == (1, 32, "F32")


@pytest.mark.parametrize("dtype", FLOATS)
class TestFloats:
    def test_per_tensor(self, bench: Bench, dtype: str) -> None:
        t = np.random.default_rng(1).integers(-1, 2, (70, 19))
        found = bench.one(bench.kit.cast(t * 0.375, dtype))
        assert (found.kind, found.layout, found.scale) == ("ternary", "float", "per tensor")
        assert bench.matrix().scale == np.float32(0.375)
        assert bench.digits() == t.tolist()

    def test_per_row(self, bench: Bench, dtype: str) -> None:
        t = np.array([[1, 0, -1], [0, 0, 0], [-1, -1, 1]])
        scales = np.array([0.5, 0, 3])
        found = bench.one(bench.kit.cast(t * scales[:, None], dtype))
        assert (found.kind, found.scale) == ("ternary", "per row")
        assert bench.matrix().scale.tolist() == scales.tolist()
        assert bench.digits() == t.tolist()

    @pytest.mark.parametrize("per_row", [False, True])
    @pytest.mark.parametrize(
        ("values", "kind"),
        [([-1, 1], "binary"), ([0, 1], "binary"), ([-1, 0], "ternary"), ([-1], "ternary")],
    )
    def test_alphabets(
        self, bench: Bench, dtype: str, values: list[int], kind: str, per_row: bool
    ) -> None:
        t = np.resize(np.array(values), (21, 8))
        scales = np.arange(1, 22) / 4 if per_row else np.full(21, 0.25)
        found = bench.one(bench.kit.cast(t * scales[:, None], dtype))
        assert found.kind == kind
        assert bench.digits() == t.tolist()

    def test_signed_zeros_come_back(self, bench: Bench, dtype: str) -> None:
        rng = np.random.default_rng(2)
        for shape in ((1, 1), (3, 3), (40, 11)):
            w = rng.choice(np.array([-0.0, 0.0, -2.0, 2.0]), shape)
            bench.one(bench.kit.cast(w, dtype))
            bench.one(bench.kit.cast(np.full(shape, -0.0), dtype))
            bench.one(bench.kit.cast(np.abs(w) * rng.choice([-1, 1], shape) * (w == 0), dtype))
            bench.one(bench.kit.cast(np.where(w > 0, w, -0.0), dtype))

    def test_pieces_leave_no_trace(
        self, bench: Bench, dtype: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reads may return less than asked for and end inside a row; a panel has few rows."""

        class Short(FileIO):
            def readinto(self, buffer: Any) -> int:
                return super().readinto(buffer[:7])

        original = Path.open

        def short(self: Path, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
            return Short(self) if buffering == 0 else original(self, mode, buffering, **options)

        monkeypatch.setattr(Path, "open", short)
        monkeypatch.setattr(float_bits, "PIECE", 50)
        w = np.random.default_rng(3).choice(np.array([-0.0, 0.0, -2.0, 2.0]), (60, 9))
        assert bench.one(bench.kit.cast(w, dtype)).kind == "ternary"
        w[47, 3:5] = 1.0, 0.5
        reason = bench.one(bench.kit.cast(w, dtype)).reason
        assert reason == f"{dtype}, not ternary: row 47 has several magnitudes"

    @pytest.mark.parametrize("times", [1, 3])
    def test_subnormal_scales(self, bench: Bench, dtype: str, times: int) -> None:
        t = np.array([[1, 0, -1], [-1, 0, 1]])
        found = bench.one(bench.kit.cast(t * (times * TINY[dtype]), dtype))
        assert found.kind == "ternary"
        assert bench.matrix().scale == np.float32(times * TINY[dtype])

    def test_largest_scale(self, bench: Bench, dtype: str) -> None:
        largest = {
            "F32": float(np.finfo("f4").max),
            "F16": 65504.0,
            "BF16": 2.0**127 * (2 - 2.0**-7),
        }
        found = bench.one(bench.kit.cast(np.array([[1, 0, -1]]) * largest[dtype], dtype))
        assert found.kind == "ternary"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, bench: Bench, dtype: str, value: float) -> None:
        w = np.zeros((3, 4))
        w[2, 1] = value
        assert bench.one(bench.kit.cast(w, dtype)).reason == f"{dtype} with NaN or infinite values"

    @pytest.mark.parametrize("factor", [1, -1])
    def test_one_bit_off(self, bench: Bench, dtype: str, factor: int) -> None:
        w = np.resize(np.array([1.0, -1.0, 0.0]), (50, 7))
        for row, column in ((0, 0), (31, 6), (49, 3)):
            almost = w.copy()
            almost[row, column] = factor * (1 + STEP[dtype])
            found = bench.one(bench.kit.cast(almost, dtype))
            assert found.reason == f"{dtype}, not ternary: row {row} has several magnitudes"
        almost = w.copy()
        almost[4, 4] = TINY[dtype] * factor
        reason = bench.one(bench.kit.cast(almost, dtype)).reason
        assert reason == f"{dtype}, not ternary: row 4 has several magnitudes"

    def test_one_column(self, bench: Bench, dtype: str) -> None:
        """With one scale per row, a column of any values would be ternary."""
        found = bench.one(bench.kit.cast(np.array([[1.0], [2.0], [0.0]]), dtype))
        assert (
            found.reason == f"{dtype}, not ternary: one column, where each value is its own scale"
        )
        assert bench.one(bench.kit.cast(np.array([[2.0], [-2.0], [0.0]]), dtype)).kind == "ternary"
        assert bench.one(bench.kit.cast(np.array([[3.0]]), dtype)).kind == "ternary"

    @pytest.mark.parametrize("shape", [(5, 3), (1, 1), (0, 3), (3, 0), (0, 0)])
    def test_nothing_but_zeros(self, bench: Bench, dtype: str, shape: tuple[int, int]) -> None:
        found = bench.one(bench.kit.cast(np.zeros(shape), dtype))
        assert (found.kind, found.scale) == ("ternary", "per tensor")
        assert not (bench.matrix() @ np.ones(shape[1], np.float32)).any()

    @pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2)])
    def test_other_dimensions(self, bench: Bench, dtype: str, shape: tuple[int, ...]) -> None:
        found = bench.one(bench.kit.cast(np.ones(shape), dtype))
        assert found.reason == f"{len(shape)}-dimensional"


SHARDS = 6  # of TriLM's model-parallel training


@dataclass(frozen=True)
class Family:
    """How a family stores its models; `values` returns the values and scale rule of a matrix."""

    dtype: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, int]]
    values: Callable[[Rng, str, tuple[int, int]], tuple[Array, str | None]]
    norms: tuple[str, ...] = ()


def linears(
    hidden: int, inner: int, width: int | None = None, kv: int | None = None
) -> dict[str, tuple[int, int]]:
    """Return the linear layers of one decoder layer, by name: (out_features, in_features)."""
    width = width or hidden
    kv = kv or width
    attention = {"q": (width, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, width)}
    mlp = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    return {f"self_attn.{n}_proj": s for n, s in attention.items()} | {
        f"mlp.{n}_proj": s for n, s in mlp.items()
    }


def halves(values: Array, dtype: str) -> Array:
    """Round to what `dtype` holds."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float64)
    wide = values.astype(np.float32)
    return (wide.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def scales(rng: Rng, shape: tuple[int, ...], dtype: str) -> Array:
    """Return scales of realistic size, all different."""
    found = np.unique(halves(rng.uniform(0.01, 0.04, 4 * int(np.prod(shape)) + 64), dtype))
    return rng.permutation(found)[: int(np.prod(shape))].reshape(shape)


def trilm(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """One scale per shard: of rows, or of columns for layers whose inputs are sharded."""
    if "embed" in name or "lm_head" in name:
        return halves(rng.standard_normal(shape), "F16"), None
    t = rng.integers(-1, 2, shape)
    s = scales(rng, (SHARDS,), "F16")
    if name.endswith(("o_proj", "down_proj")):
        return t * np.repeat(s, shape[1] // SHARDS), f"per {shape[1] // SHARDS} columns"
    return t * np.repeat(s, shape[0] // SHARDS)[:, None], f"per {shape[0] // SHARDS} rows"


def bonsai(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """A scale per row and 128 columns, in embeddings and head as well."""
    t = rng.integers(-1, 2, shape)
    s = rng.choice(scales(rng, (40,), "BF16"), (shape[0], shape[1] // 128))  # exact in F16, too
    return t * np.repeat(s, 128, axis=1), "per row and 128 columns"


def sherry(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """One zero in every four columns."""
    if "embed" in name:
        return halves(rng.standard_normal(shape), "BF16"), None
    t = rng.choice((-1, 1), (shape[0], shape[1] // 4, 4))
    t *= np.arange(4) != rng.integers(0, 4, (*t.shape[:2], 1))
    s = rng.choice(scales(rng, (20,), "BF16"), (shape[0], shape[1] // 256))
    return t.reshape(shape) * np.repeat(s, 256, axis=1), "per row and 256 columns"


def paretoq(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """One scale per row: two thirds of a learned value."""
    if "embed" in name:
        return halves(rng.standard_normal(shape), "BF16"), None
    alpha = rng.choice(scales(rng, (30,), "BF16"), (shape[0], 1))
    return halves(alpha * rng.integers(-1, 2, shape) / 1.5, "BF16"), "per row"


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64}
FAMILIES = {
    # 6 shards of 192 columns have 32 each; those of 480 have 80, not a multiple of 32.
    "trilm": Family("F16", LLAMA, linears(192, 480), trilm),
    "bonsai": Family(
        "BF16", QWEN3, linears(256, 384, 512, 128), bonsai, ("self_attn.q_norm", "self_attn.k_norm")
    ),
    "bonsai-f16": Family("F16", QWEN3, linears(256, 384, 512, 128), bonsai),
    "sherry": Family("BF16", {**LLAMA, "tie_word_embeddings": True}, linears(512, 768), sherry),
    "paretoq": Family("BF16", LLAMA, linears(64, 176), paretoq),
}


def build(kit: Kit, family: Family) -> tuple[dict[str, Array | Raw], dict[str, str | None]]:
    """Return the tensors of a model of two layers, and the scale rule of each matrix."""
    rng = np.random.default_rng(12)
    hidden = family.shapes["mlp.up_proj"][1]
    matrices = {"model.embed_tokens.weight": (301, hidden)}
    for i in range(2):
        matrices |= {f"model.layers.{i}.{n}.weight": s for n, s in family.shapes.items()}
    if not family.config.get("tie_word_embeddings"):
        matrices["lm_head.weight"] = (301, hidden)
    tensors: dict[str, Array | Raw] = {
        "model.tag": np.ones(1, np.uint8)
    }  # shifts the others to odd offsets
    rules = {}
    for name, shape in matrices.items():
        values, rules[name] = family.values(rng, name.removesuffix(".weight"), shape)
        tensors[name] = kit.cast(values, family.dtype)
    norms = ("input_layernorm", "post_attention_layernorm", *family.norms)
    for name in (*(f"model.layers.{i}.{n}.weight" for i in range(2) for n in norms), "model.norm"):
        tensors[name] = kit.cast(halves(rng.uniform(0.5, 2, hidden), family.dtype), family.dtype)
    return tensors, rules


def dense(raw: Raw) -> Array:
    """Return a matrix of F16 or BF16 as float64."""
    if raw.dtype == "F16":
        return np.frombuffer(raw.data, "<f2").reshape(raw.shape).astype(np.float64)
    bits = np.frombuffer(raw.data, "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(raw.shape).astype(np.float64)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_family(kit: Kit, tmp_path: Path, name: str, sharded: bool) -> None:
    family = FAMILIES[name]
    tensors, rules = build(kit, family)
    (tmp_path / "config.json").write_text(json.dumps(family.config))
    if sharded:
        names = list(tensors)
        kit.save_sharded(
            tmp_path,
            {
                f"model-0000{i + 1}-of-00003.safetensors": {n: tensors[n] for n in names[i::3]}
                for i in range(3)
            },
        )
    else:
        kit.save(tmp_path / "model.safetensors", tensors)
    bench = Bench(kit, tmp_path)
    found = bench.compile_source(tmp_path)
    assert {n: found[n].scale for n in rules} == rules
    assert {n for n, t in found.items() if t.kind == "ternary"} == {n for n in rules if rules[n]}
    rng = np.random.default_rng(13)
    model = rsr_runtime.load(bench.rsr, verify=True)
    for n, raw in bench.decompiled().items():
        if rules.get(n):
            w, matrix = dense(raw), model[n]
            assert isinstance(matrix, rsr_runtime.Matrix)
            x = rng.standard_normal((2, w.shape[1]), dtype=np.float32)
            bound = float32_bound(np.abs(w), x.T, least=1).T
            assert (np.abs(matrix.linear(x) - x.astype(np.float64) @ w.T) <= bound).all()


def test_one_stray_weight_keeps_a_tensor_dense(bench: Bench) -> None:
    """The rest of the model compiles; the report names the row."""
    tensors, rules = build(bench.kit, FAMILIES["trilm"])
    name = "model.layers.1.mlp.down_proj.weight"
    stray = np.array(tensors[name])
    stray[100, 7] = np.float16(0.5)
    found = bench.compile({**tensors, name: stray})
    reason = "F16, not ternary: row 100 has several magnitudes in a group of 80 columns"
    assert found[name].reason == reason
    kinds = {n: found[n].kind == "ternary" for n in rules}
    assert kinds == {n: rule is not None and n != name for n, rule in rules.items()}
