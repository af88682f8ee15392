"""MLX's 2-bit tensors: words, scales and biases against the definition, scale * code + bias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_formats import RsrFile
from rsr_formats.records import IndexedTensor
from rsr_testing.checkpoints import Kit
from rsr_testing.matrices import float32_bound
from rsrc.compiler import index
from rsrc.compiler.report import TensorReport
from rsrc.export.decompile import compare, decompile
from rsrc.layouts import floats

Array = npt.NDArray[Any]

TWO_BITS = {"quantization": {"group_size": 32, "bits": 2}}


def dequantized(words: Array, scales: Array, biases: Array) -> Array:
    """Return scale * code + bias, a weight at a time; sixteen codes a word, the lowest first."""
    rows, columns = len(words), 16 * words.shape[1]
    group = columns // scales.shape[1]
    w = np.empty((rows, columns))
    for r in range(rows):
        for c in range(columns):
            code = int(words[r, c // 16]) >> 2 * (c % 16) & 3
            w[r, c] = float(scales[r, c // group]) * code + float(biases[r, c // group])
    return w


def packed(codes: Array) -> Array:
    """Return codes (rows, columns) as words."""
    words = np.zeros((len(codes), codes.shape[1] // 16), np.uint32)
    for c in range(codes.shape[1]):
        words[:, c // 16] |= codes[:, c].astype(np.uint32) << np.uint32(2 * (c % 16))
    return words


class Bench:
    """Compiles a module in one folder, checks that it comes back, and says what became of it."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit, self.folder, self.rsr = kit, folder, folder / "x.rsr"

    def configure(self, config: dict[str, Any]) -> None:
        (self.folder / "config.json").write_text(json.dumps(config))

    def compile(self, tensors: dict[str, Any], **options: Any) -> dict[str, TensorReport]:
        tensors = {"odd": np.zeros(1, "u1"), "ternary": np.array([[1, 0, -1]], "i1"), **tensors}
        source = self.kit.save(self.folder / "s.safetensors", tensors)
        report = rsrc.compile(source, self.rsr, force=True, **options)
        decompile(self.rsr, self.folder / "back.safetensors", force=True)
        assert self.kit.judge(self.folder / "back.safetensors") == self.kit.judge(source)
        assert compare(self.rsr, source) == len(tensors)
        return {t.name: t for t in report.tensors}

    def module(
        self, words: Array, scales: Array, biases: Array, dtype: str = "F32", **options: Any
    ) -> dict[str, TensorReport]:
        return self.compile(
            {
                "w.weight": words,
                "w.scales": self.kit.cast(scales, dtype),
                "w.biases": self.kit.cast(biases, dtype),
            },
            **options,
        )

    def reason(self, words: Array, scales: Array, biases: Array) -> str:
        found = self.module(words, scales, biases)
        assert found["w.weight"].kind == "dense"
        assert {"w.scales", "w.biases"} <= found.keys()
        return str(found["w.weight"].reason)

    def matrix(self, name: str = "w.weight") -> rsr_runtime.Matrix:
        matrix = rsr_runtime.load(self.rsr, verify=True)[name]
        assert isinstance(matrix, rsr_runtime.Matrix)
        return matrix

    def record(self) -> IndexedTensor:
        (t,) = (t for t in RsrFile(self.rsr).header.tensors if t.name == "w.weight")
        assert isinstance(t, IndexedTensor)
        return t


@pytest.fixture
def bench(kit: Kit, tmp_path: Path) -> Bench:
    return Bench(kit, tmp_path)


# The codes 0 1 2 0 1 2 .. are the bytes 24 49 92 24 49 ..; ones are 55, twos AA.
WORDS = np.array(
    [[0x24924924, 0x49249249, 0x55555555, 0x55555555], [0, 0xAAAAAAAA, 0x92492492, 0x24924924]],
    np.uint32,
)
SCALES = np.array([[0.5, 3.0], [-0.25, 96.0]], np.float32)


class TestLiteral:
    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_words_and_scales(self, bench: Bench, dtype: str) -> None:
        bench.configure(TWO_BITS)
        found = bench.module(WORDS, SCALES, -SCALES, dtype)
        assert found.keys() == {"odd", "ternary", "w.weight"}  # scales and biases are absorbed
        w = found["w.weight"]
        assert (w.kind, w.layout, w.shape, w.packing) == ("ternary", "mlx", (2, 64), "w16")
        assert w.scale == "per row and 32 columns"
        assert w.source_bytes == WORDS.nbytes + 2 * SCALES.size * (4 if dtype == "F32" else 2)
        cycle = [-1, 0, 1] * 11
        assert bench.matrix().to_dense(np.int8).tolist() == [
            cycle[:32] + [0] * 32,
            [-1] * 16 + [1] * 16 + cycle[2:18] + cycle[:16],
        ]
        assert bench.matrix().scale.tolist() == SCALES.tolist()
        np.testing.assert_array_equal(
            bench.matrix().to_dense(), dequantized(WORDS, SCALES, -SCALES)
        )
        record = bench.record()
        assert [(c.name, c.shape, c.data) for c in record.source.auxiliary] == [
            ("w.scales", (2, 2), None),
            ("w.biases", (2, 2), None),
        ]

    def test_without_a_config_two_bits_are_assumed(self, bench: Bench) -> None:
        found = bench.module(WORDS, SCALES, -SCALES)["w.weight"]
        assert found.scale == "per row and 32 columns (2 bits assumed: no config.json says)"

    def test_one_group(self, bench: Bench) -> None:
        """Groups as wide as a row are rows; one scale for all of them is the tensor's."""
        found = bench.module(WORDS, SCALES[:, :1], -SCALES[:, :1])["w.weight"]
        assert str(found.scale).startswith("per row (")
        assert bench.matrix().scale.tolist() == [0.5, -0.25]
        same = np.full((2, 1), 0.375, np.float32)
        assert str(bench.module(WORDS, same, -same)["w.weight"].scale).startswith("per tensor")
        assert bench.matrix().scale == np.float32(0.375)

    def test_rows_with_the_same_scales(self, bench: Bench) -> None:
        scales = np.array([[0.5, 3.0]] * 2, np.float32)
        found = bench.module(WORDS, scales, -scales)["w.weight"]
        assert str(found.scale).startswith("per 32 columns")
        assert bench.record().scales == 2

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_zeros_keep_their_signs(self, bench: Bench, dtype: str) -> None:
        """Minus 0 is -0.0. A bias of the other sign weighs nothing either, but is kept as it is."""
        scales = np.array([[0.0, -0.0], [0.0, 2.0]], np.float32)
        assert "w.biases" not in bench.module(WORDS, scales, -scales, dtype)
        biases = np.array([[-0.0, 0.0], [0.0, -2.0]], np.float32)
        found = bench.module(WORDS, scales, biases, dtype)
        assert found["w.weight"].layout == "mlx"
        assert "w.scales" not in found
        assert found["w.biases"].bytes > 0
        expected = dequantized(WORDS, scales, biases)
        np.testing.assert_array_equal(bench.matrix().to_dense(), expected)

    def test_rows_of_zeros_with_other_signs_are_not_joined(self, bench: Bench) -> None:
        scales = np.array([[0.0, -0.0], [-0.0, 0.0]], np.float32)
        bench.module(WORDS, scales, -scales)
        assert np.signbit(bench.matrix().scale).tolist() == [[False, True], [True, False]]

    def test_empty(self, bench: Bench) -> None:
        words, scales = np.zeros((0, 2), np.uint32), np.zeros((0, 1), np.float32)
        for direction in ("expand", "reduce"):
            options = {"encoding": "permuted", "direction": direction}
            assert bench.module(words, scales, scales, **options)["w.weight"].shape == (0, 32)
        assert bench.module(words, scales, scales)["w.weight"].shape == (0, 32)
        words, scales = np.zeros((3, 0), np.uint32), np.zeros((3, 0), np.float32)
        assert bench.reason(words, scales, scales).startswith("U32, but w.scales is F32 [3, 0]")

    def test_panels_leave_no_trace(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(4)
        words = packed(rng.integers(0, 3, (300, 1024)))
        scales = rng.choice(np.array([0.25, 3.0], np.float32), (300, 16))
        bench.module(words, scales, -scales)
        whole = bench.rsr.read_bytes()
        monkeypatch.setattr(index, "_PANEL", 30_000)
        monkeypatch.setattr(floats, "PIECE", 5000)
        bench.module(words, scales, -scales, threads=3)
        assert bench.rsr.read_bytes() == whole


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_products_are_those_of_the_definition(
    kit: Kit, scratch: Path, dtype: str, data: st.DataObject
) -> None:
    group = data.draw(st.sampled_from((32, 64, 128)))
    rows, groups = data.draw(st.sampled_from((1, 3, 33, 130))), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    words = packed(rng.integers(0, 3, (rows, group * groups)))
    tiny = {"F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}[dtype]
    scales = rng.choice(np.array([0.25, -0.375, 1.5, 96.0, 0.0, tiny], np.float32), (rows, groups))
    bench = Bench(kit, scratch)
    target = data.draw(st.sampled_from(("generic", "avx2", "avx512")))
    assert bench.module(words, scales, -scales, dtype, target=target)["w.weight"].layout == "mlx"
    w = dequantized(words, scales, -scales)
    x = rng.standard_normal((3, w.shape[1]), dtype=np.float32)
    error = np.abs(bench.matrix().linear(x) - x.astype(np.float64) @ w.T)
    assert (error <= float32_bound(np.abs(w), x.T, least=1).T + 1e-30).all()


class TestRefused:
    def test_code_3(self, bench: Bench) -> None:
        for row, column in ((0, 0), (0, 17), (1, 63), (1, 32)):
            words = WORDS.copy()
            words[row, column // 16] |= np.uint32(3 << 2 * (column % 16))
            reason = f"U32 of 2-bit codes, not ternary: code 3 in row {row}, column {column}"
            assert bench.reason(words, SCALES, -SCALES) == reason

    def test_code_3_beyond_the_first_panel(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(floats, "PIECE", 50)
        words = np.full((40, 4), 0x55555555, np.uint32)
        words[33, 2] |= 3 << 30
        scales = np.ones((40, 2), np.float32)
        assert bench.reason(words, scales, -scales).endswith("code 3 in row 33, column 47")

    def test_bias(self, bench: Bench) -> None:
        for bias in (24.5, np.nextafter(np.float32(0.25), np.float32(1))):
            biases = -SCALES
            biases[1, 0] = bias
            assert bench.reason(WORDS, SCALES, biases) == (
                f"U32 of 2-bit codes, not ternary: bias {biases[1, 0]} in row 1, group 0 is not "
                "minus the scale -0.25"
            )

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("part", ["scales", "biases"])
    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_not_finite(self, bench: Bench, value: float, part: str, dtype: str) -> None:
        parts = {"scales": SCALES.copy(), "biases": -SCALES}
        parts[part][1, 1] = value
        message = rf"^w\.{part}: {value} in row 1, group 1, expected finite"
        with pytest.raises(rsrc.SourceError, match=message):
            bench.module(WORDS, parts["scales"], parts["biases"], dtype)
        parts[part][1, 1] = 1
        found = bench.module(WORDS, parts["scales"], parts["biases"], exclude=["w.weight"])
        assert found["w.weight"].kind == "dense"

    def test_other_bits(self, bench: Bench) -> None:
        """Words of eight 4-bit codes have the shapes of 2-bit codes in groups twice as wide."""
        for bits in (4, 8, "2", [2]):
            bench.configure({"quantization": {"group_size": 32, "bits": bits}})
            reason = f"U32, and config.json says {bits!r} bits per weight, not 2"
            assert bench.reason(WORDS, SCALES, -SCALES) == reason

    def test_modules_have_bits_of_their_own(self, bench: Bench) -> None:
        tensors: dict[str, Any] = {}
        for module in ("model.embed_tokens", "model.layers.0.mlp.up_proj", "lm_head"):
            tensors[f"{module}.weight"] = WORDS
            tensors[f"{module}.scales"] = SCALES.astype(np.float16)
            tensors[f"{module}.biases"] = -SCALES.astype(np.float16)
        own = {"model.embed_tokens": {"bits": 4, "group_size": 64}, "lm_head": {"group_size": 32}}
        for key in ("quantization", "quantization_config"):
            bench.configure({key: {"group_size": 32, "bits": 2, **own}})
            found = bench.compile(tensors)
            assert found["model.layers.0.mlp.up_proj.weight"].kind == "ternary"
            assert found["lm_head.weight"].kind == "ternary"
            reason = "U32, and config.json says 4 bits per weight, not 2"
            assert found["model.embed_tokens.weight"].reason == reason
            assert found["model.embed_tokens.scales"].kind == "dense"

    def test_groups_of_the_config(self, bench: Bench) -> None:
        problem = "w.scales has groups of 32 columns, config.json says 64"
        bench.configure({"quantization": {"group_size": 64, "bits": 2}})
        with pytest.raises(
            rsrc.SourceError, match=f"^w.weight: 2 bits per weight by config.json, but {problem}$"
        ):
            bench.module(WORDS, SCALES, -SCALES)
        bench.configure({"quantization": {"group_size": 64}})
        assert bench.reason(WORDS, SCALES, -SCALES) == f"U32, but {problem}"

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"w.scales": None}, "there is no tensor w.scales"),
            ({"w.biases": None}, "there is no tensor w.biases"),
            (
                {"w.scales": np.ones((2, 3), np.float32)},
                "w.scales is F32 [2, 3], expected a float of shape [2, 2] or [2, 1]",
            ),
            (
                {"w.scales": np.ones((2, 2), np.int32)},
                "w.scales is I32 [2, 2], expected a float of shape [2, 2] or [2, 1]",
            ),
            (
                {"w.biases": np.ones((2, 1), np.float32)},
                "w.biases is F32 [2, 1], expected a float of shape [2, 2]",
            ),
            (
                {"w.biases": np.ones((2, 2), np.float64)},
                "w.biases is F64 [2, 2], expected a float of shape [2, 2]",
            ),
        ],
    )
    def test_companions(self, bench: Bench, change: dict[str, Any], problem: str) -> None:
        tensors = {"w.weight": WORDS, "w.scales": SCALES, "w.biases": -SCALES, **change}
        tensors = {name: t for name, t in tensors.items() if t is not None}
        found = bench.compile(tensors)
        assert (found["w.weight"].kind, found["w.weight"].reason) == (
            "dense",
            f"U32, but {problem}",
        )
        bench.configure(TWO_BITS)
        with pytest.raises(rsrc.SourceError) as error:
            bench.compile(tensors)
        assert str(error.value) == f"w.weight: 2 bits per weight by config.json, but {problem}"

    def test_other_tensors(self, bench: Bench) -> None:
        words = np.zeros((2, 2, 2), np.uint32)
        found = bench.compile(
            {"experts.weight": words, "counts": words[0], "v.weight": words[0, 0]}
        )
        reasons = [found[name].reason for name in ("experts.weight", "counts", "v.weight")]
        assert reasons == ["3-dimensional", "U32", "1-dimensional"]


def test_sharded(kit: Kit, tmp_path: Path) -> None:
    """Words, scales and biases in different shards, the words at an odd offset."""
    (tmp_path / "config.json").write_text(json.dumps(TWO_BITS))
    half = SCALES.astype(np.float16)
    kit.save_sharded(
        tmp_path,
        {
            "model-00001-of-00003.safetensors": {"odd": np.zeros(3, "u1"), "a.weight": WORDS},
            "model-00002-of-00003.safetensors": {"a.biases": -half, "a.norm": kit.bf16(np.ones(3))},
            "model-00003-of-00003.safetensors": {"a.scales": half},
        },
    )
    report = rsrc.compile(tmp_path, tmp_path / "x.rsr")
    assert [t.name for t in report.tensors if t.layout == "mlx"] == ["a.weight"]
    assert compare(tmp_path / "x.rsr", tmp_path) == 5
