"""MLX's 2-bit tensors against their definition, scale * code + bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsrc
from rsr_testing.bench import Bench, Reports
from rsr_testing.checkpoints import Kit
from rsr_testing.matrices import float32_bound
from rsrc.compiler import index
from rsrc.layouts import float_bits

Array = npt.NDArray[Any]

W = "w.weight"
TWO_BITS_BUT = "2 bits per weight according to config.json, but"
TWO_BITS = {"quantization": {"group_size": 32, "bits": 2}}


def dequantized(words: Array, scales: Array, biases: Array, bits: int = 2) -> Array:
    """Return scale * code + bias, one weight at a time; the lowest bits of a word come first."""
    codes = 32 // bits  # in a word
    rows, columns = len(words), codes * words.shape[1]
    group = columns // scales.shape[1]
    w = np.empty((rows, columns))
    for r in range(rows):
        for c in range(columns):
            code = int(words[r, c // codes]) >> bits * (c % codes) & (1 << bits) - 1
            w[r, c] = float(scales[r, c // group]) * code + float(biases[r, c // group])
    return w


def packed(codes: Array) -> Array:
    """Return codes (rows, columns) as words."""
    words = np.zeros((len(codes), codes.shape[1] // 16), np.uint32)
    for c in range(codes.shape[1]):
        words[:, c // 16] |= codes[:, c].astype(np.uint32) << np.uint32(2 * (c % 16))
    return words


def module(
    bench: Bench, words: Array, scales: Array, biases: Array, dtype: str = "F32", **options: Any
) -> Reports:
    tensors = {
        "w.weight": words,
        "w.scales": bench.kit.cast(scales, dtype),
        "w.biases": bench.kit.cast(biases, dtype),
    }
    return bench.compile(tensors, **options)


def reason(bench: Bench, words: Array, scales: Array, biases: Array) -> str:
    found = module(bench, words, scales, biases)
    assert found["w.weight"].kind == "dense"
    assert {"w.scales", "w.biases"} <= found.keys()
    return str(found["w.weight"].reason)


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
        found = module(bench, WORDS, SCALES, -SCALES, dtype)
        assert found.keys() == {"odd", "anchor", "w.weight"}  # scales and biases are absorbed
        w = found["w.weight"]
        assert (w.kind, w.layout, w.shape, w.packing) == ("ternary", "mlx", (2, 64), "w16")
        assert w.scale == "per row and 32 columns"
        assert w.source_bytes == WORDS.nbytes + 2 * SCALES.size * (4 if dtype == "F32" else 2)
        cycle = [-1, 0, 1] * 11
        assert bench.matrix(W).to_dense(np.int8).tolist() == [
            cycle[:32] + [0] * 32,
            [-1] * 16 + [1] * 16 + cycle[2:18] + cycle[:16],
        ]
        assert bench.matrix(W).scale.tolist() == SCALES.tolist()
        np.testing.assert_array_equal(
            bench.matrix(W).to_dense(), dequantized(WORDS, SCALES, -SCALES)
        )
        record = bench.record(W)
        assert [(c.name, c.shape, c.data) for c in record.source.auxiliary] == [
            ("w.scales", (2, 2), None),
            ("w.biases", (2, 2), None),
        ]

    def test_without_a_config_two_bits_are_assumed(self, bench: Bench) -> None:
        found = module(bench, WORDS, SCALES, -SCALES)["w.weight"]
        assert found.scale == "per row and 32 columns (2 bits assumed: not in config.json)"

    def test_one_group(self, bench: Bench) -> None:
        """A group as wide as a row is the row; one scale for all rows is per tensor."""
        found = module(bench, WORDS, SCALES[:, :1], -SCALES[:, :1])["w.weight"]
        assert str(found.scale).startswith("per row (")
        assert bench.matrix(W).scale.tolist() == [0.5, -0.25]
        same = np.full((2, 1), 0.375, np.float32)
        assert str(module(bench, WORDS, same, -same)["w.weight"].scale).startswith("per tensor")
        assert bench.matrix(W).scale == np.float32(0.375)

    def test_rows_with_the_same_scales(self, bench: Bench) -> None:
        scales = np.array([[0.5, 3.0]] * 2, np.float32)
        found = module(bench, WORDS, scales, -scales)["w.weight"]
        assert str(found.scale).startswith("per 32 columns")
        assert bench.record(W).scales == 2

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_zeros_keep_their_signs(self, bench: Bench, dtype: str) -> None:
        """Minus 0 is -0.0. A bias of zero with the other sign changes no weight, but is kept."""
        scales = np.array([[0.0, -0.0], [0.0, 2.0]], np.float32)
        assert "w.biases" not in module(bench, WORDS, scales, -scales, dtype)
        biases = np.array([[-0.0, 0.0], [0.0, -2.0]], np.float32)
        found = module(bench, WORDS, scales, biases, dtype)
        assert found["w.weight"].layout == "mlx"
        assert "w.scales" not in found
        assert found["w.biases"].bytes > 0
        expected = dequantized(WORDS, scales, biases)
        np.testing.assert_array_equal(bench.matrix(W).to_dense(), expected)

    def test_rows_of_zeros_with_other_signs_are_not_joined(self, bench: Bench) -> None:
        scales = np.array([[0.0, -0.0], [-0.0, 0.0]], np.float32)
        module(bench, WORDS, scales, -scales)
        assert np.signbit(bench.matrix(W).scale).tolist() == [[False, True], [True, False]]

    def test_empty(self, bench: Bench) -> None:
        words, scales = np.zeros((0, 2), np.uint32), np.zeros((0, 1), np.float32)
        for direction in ("expand", "reduce"):
            options = {"encoding": "permuted", "direction": direction}
            assert module(bench, words, scales, scales, **options)["w.weight"].shape == (0, 32)
        assert module(bench, words, scales, scales)["w.weight"].shape == (0, 32)
        words, scales = np.zeros((3, 0), np.uint32), np.zeros((3, 0), np.float32)
        assert reason(bench, words, scales, scales).startswith("U32, but w.scales is F32 [3, 0]")

    def test_panels_leave_no_trace(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(4)
        words = packed(rng.integers(0, 3, (300, 1024)))
        scales = rng.choice(np.array([0.25, 3.0], np.float32), (300, 16))
        module(bench, words, scales, -scales)
        whole = bench.rsr.read_bytes()
        monkeypatch.setattr(index, "_PANEL", 30_000)
        monkeypatch.setattr(float_bits, "PIECE", 5000)
        module(bench, words, scales, -scales, threads=3)
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
    assert module(bench, words, scales, -scales, dtype, target=target)["w.weight"].layout == "mlx"
    w = dequantized(words, scales, -scales)
    x = rng.standard_normal((3, w.shape[1]), dtype=np.float32)
    error = np.abs(bench.matrix(W).linear(x) - x.astype(np.float64) @ w.T)
    assert (error <= float32_bound(np.abs(w), x.T, least=1).T + 1e-30).all()


class TestCode3:
    """Code 3 is the weight scale * 3 + bias: +2 of the alphabet that begins with -1."""

    def test_it_occurs(self, bench: Bench) -> None:
        for row, column in ((0, 0), (0, 17), (1, 63), (1, 32)):
            words = WORDS.copy()
            words[row, column // 16] |= np.uint32(3 << 2 * (column % 16))
            w = module(bench, words, SCALES, -SCALES)["w.weight"]
            assert (w.kind, w.layout, w.k) == ("quaternary", "mlx", 2)
            expected = dequantized(words, SCALES, -SCALES)
            assert expected[row, column] == 2 * SCALES[row, column // 32]
            np.testing.assert_array_equal(bench.matrix(W).to_dense(), expected)
            auxiliary = bench.record(W).source.auxiliary
            assert [c.data for c in auxiliary] == [None, None]

    def test_it_occurs_in_a_later_piece(self, bench: Bench) -> None:
        words = np.full((1100, 260), 0x55555555, np.uint32)
        words[1090, 2] |= 3 << 30
        scales = np.ones((1100, 65), np.float32)
        assert module(bench, words, scales, -scales)["w.weight"].kind == "quaternary"
        assert np.argwhere(bench.matrix(W).to_dense() == 2).tolist() == [[1090, 47]]

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_biases_of_minus_two_scales(self, bench: Bench, dtype: str) -> None:
        """mlx.core.quantize writes -1 to 2 so, with a negative scale, and -2 to 1."""
        words = WORDS | np.uint32(3)
        w = module(bench, words, SCALES, -2 * SCALES, dtype)["w.weight"]
        assert (w.kind, w.layout) == ("quaternary", "mlx")
        assert bench.record(W).digits == (-2, -1, 0, 1)
        expected = dequantized(words, SCALES, -2 * SCALES)
        np.testing.assert_array_equal(bench.matrix(W).to_dense(), expected)
        assert [c.data for c in bench.record(W).source.auxiliary] == [None, None]
        without = module(bench, WORDS, SCALES, -2 * SCALES, dtype)["w.weight"]
        assert without.kind == "quaternary"  # codes are digits, whichever occur

    def test_biases_of_both_kinds(self, bench: Bench) -> None:
        biases = -SCALES
        biases[0, 1] *= 2
        assert reason(bench, WORDS, SCALES, biases) == (
            "U32 of 2-bit codes, not ternary: bias -6.0 in row 0, group 1 is not minus the scale "
            "3.0"
        )


class TestRefused:
    def test_bias(self, bench: Bench) -> None:
        for bias in (24.5, np.nextafter(np.float32(0.25), np.float32(1))):
            biases = -SCALES
            biases[1, 0] = bias
            assert reason(bench, WORDS, SCALES, biases) == (
                f"U32 of 2-bit codes, not ternary: bias {biases[1, 0]} in row 1, group 0 is not "
                "minus the scale -0.25"
            )

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("part", ["scales", "biases"])
    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_not_finite(self, bench: Bench, value: float, part: str, dtype: str) -> None:
        parts = {"scales": SCALES.copy(), "biases": -SCALES}
        parts[part][1, 1] = value
        message = rf"^w\.{part}: {value} at \[1, 1\], expected finite"
        with pytest.raises(rsrc.SourceError, match=message):
            module(bench, WORDS, parts["scales"], parts["biases"], dtype)
        parts[part][1, 1] = 1
        found = module(bench, WORDS, parts["scales"], parts["biases"], exclude=["w.weight"])
        assert found["w.weight"].kind == "dense"

    def test_other_bits(self, bench: Bench) -> None:
        """Codes of 3 to 8 bits are in source/test_mlx_codes.py."""
        for bits in (7, "2", [2]):
            bench.configure({"quantization": {"group_size": 32, "bits": bits}})
            expected = f"U32, and config.json says {bits!r} bits per weight, not 1 or 2"
            assert reason(bench, WORDS, SCALES, -SCALES) == expected

    def test_modules_have_bits_of_their_own(self, bench: Bench) -> None:
        tensors: dict[str, Any] = {}
        for name in ("model.embed_tokens", "model.layers.0.mlp.up_proj", "lm_head"):
            tensors[f"{name}.weight"] = WORDS
            tensors[f"{name}.scales"] = SCALES.astype(np.float16)
            tensors[f"{name}.biases"] = -SCALES.astype(np.float16)
        own = {"model.embed_tokens": {"bits": 7, "group_size": 64}, "lm_head": {"group_size": 32}}
        for key in ("quantization", "quantization_config"):
            bench.configure({key: {"group_size": 32, "bits": 2, **own}})
            found = bench.compile(tensors)
            assert found["model.layers.0.mlp.up_proj.weight"].kind == "ternary"
            assert found["lm_head.weight"].kind == "ternary"
            expected = "U32, and config.json says 7 bits per weight, not 1 or 2"
            assert found["model.embed_tokens.weight"].reason == expected
            assert found["model.embed_tokens.scales"].kind == "dense"

    def test_groups_of_the_config(self, bench: Bench) -> None:
        problem = "w.scales has groups of 32 columns, config.json says 64"
        bench.configure({"quantization": {"group_size": 64, "bits": 2}})
        with pytest.raises(rsrc.SourceError, match=f"^w.weight: {TWO_BITS_BUT} {problem}$"):
            module(bench, WORDS, SCALES, -SCALES)
        bench.configure({"quantization": {"group_size": 64}})
        assert reason(bench, WORDS, SCALES, -SCALES) == f"U32, but {problem}"

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
    def test_scales_and_biases(self, bench: Bench, change: dict[str, Any], problem: str) -> None:
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
        assert str(error.value) == f"w.weight: {TWO_BITS_BUT} {problem}"

    def test_other_tensors(self, bench: Bench) -> None:
        words = np.zeros((2, 2, 2), np.uint32)
        found = bench.compile(
            {"experts.weight": words, "counts": words[0], "v.weight": words[0, 0]}
        )
        reasons = [found[name].reason for name in ("experts.weight", "counts", "v.weight")]
        assert reasons == ["3-dimensional", "U32", "1-dimensional"]


def test_sharded(bench: Bench) -> None:
    """Words, scales and biases in different shards, the words at an odd offset."""
    bench.configure(TWO_BITS)
    half, norm = SCALES.astype(np.float16), bench.kit.bf16(np.ones(3))
    bench.kit.save_sharded(
        bench.folder,
        {
            "model-00001-of-00003.safetensors": {"odd": np.zeros(3, "u1"), "a.weight": WORDS},
            "model-00002-of-00003.safetensors": {
                "a.biases": -half,
                "a.norm": norm,
            },
            "model-00003-of-00003.safetensors": {"a.scales": half},
        },
    )
    reports = bench.compile_source(bench.folder)
    assert [name for name, t in reports.items() if t.layout == "mlx"] == ["a.weight"]


# A literal of 1-bit codes: FF00FF00 is eight zeros, eight ones and so on.
BITS = np.array([[0xFF00FF00, 1], [0x80000000, 0xFFFFFFFE]], np.uint32)
ONE_BIT = {"quantization": {"group_size": 32, "bits": 1}}


class TestOneBit:
    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_words_and_scales(self, bench: Bench, dtype: str) -> None:
        bench.configure(ONE_BIT)
        found = module(bench, BITS, SCALES, -SCALES / 2, dtype)
        assert found.keys() == {"odd", "anchor", "w.weight"}  # scales and biases are absorbed
        w = found["w.weight"]
        assert (w.kind, w.layout, w.shape) == ("binary", "mlx-1bit", (2, 64))
        assert w.scale == "per row and 32 columns"
        eight = [-1] * 8 + [1] * 8
        assert bench.matrix(W).to_dense(np.int8).tolist() == [
            eight * 2 + [1] + [-1] * 31,
            [-1] * 31 + [1, -1] + [1] * 31,
        ]
        assert bench.matrix(W).scale.tolist() == (SCALES / 2).tolist()
        np.testing.assert_array_equal(
            bench.matrix(W).to_dense(), dequantized(BITS, SCALES, -SCALES / 2, bits=1)
        )
        assert bench.record(W).source.layout == "mlx-1bit"

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    @pytest.mark.parametrize("group", [32, 64, 128])
    def test_products(self, bench: Bench, dtype: str, group: int) -> None:
        rng = np.random.default_rng(group)
        words = rng.integers(0, 1 << 32, (130, 12), np.uint32, endpoint=False)
        tiny = {"F32": 2.0**-148, "F16": 2.0**-23, "BF16": 2.0**-132}[dtype]
        choices = np.array([0.25, -0.375, 1.5, 96.0, 0.0, -0.0, tiny], np.float32)
        scales = rng.choice(choices, (130, 384 // group))
        bench.configure({"quantization": {"group_size": group, "bits": 1, "mode": "affine"}})
        assert module(bench, words, scales, -scales / 2, dtype)["w.weight"].kind == "binary"
        w = dequantized(words, scales, -scales / 2, bits=1)
        x = rng.standard_normal((3, w.shape[1]), dtype=np.float32)
        error = np.abs(bench.matrix(W).linear(x) - x.astype(np.float64) @ w.T)
        assert (error <= float32_bound(np.abs(w), x.T, least=1).T + 1e-30).all()

    def test_other_biases_stay_dense(self, bench: Bench) -> None:
        bench.configure(ONE_BIT)
        biases = -SCALES / 2
        biases[1, 0] = 0
        assert reason(bench, BITS, SCALES, biases) == (
            "U32 of 1-bit codes, not binary: bias 0.0 in row 1, group 0 is not minus half the "
            "scale -0.25"
        )
        odd = np.full((2, 2), 2.0**-149, np.float32)  # has no half
        assert "is not minus half the scale" in reason(bench, BITS, odd, np.zeros_like(odd))

    def test_without_a_config_it_is_not_assumed(self, bench: Bench) -> None:
        assert "U32" in reason(bench, BITS, SCALES, -SCALES / 2)
        bench.configure({"quantization": {"group_size": 32, "bits": True}})
        assert reason(bench, BITS, SCALES, -SCALES / 2) == (
            "U32, and config.json says True bits per weight, not 1 or 2"
        )

    def test_scales_of_other_shapes(self, bench: Bench) -> None:
        bench.configure(ONE_BIT)
        with pytest.raises(rsrc.SourceError) as error:
            module(bench, BITS, SCALES[:, :0], SCALES[:, :0])
        assert str(error.value) == (
            "w.weight: 1 bit per weight according to config.json, but w.scales is F32 [2, 0], "
            "expected a float of shape [2, 2] or [2, 1]"
        )

    def test_mixed_with_two_bits(self, bench: Bench) -> None:
        own = {"v": {"bits": 2, "group_size": 32}}
        bench.configure({"quantization": {"group_size": 32, "bits": 1, **own}})
        found = bench.compile(
            {
                "w.weight": BITS, "w.scales": SCALES, "w.biases": -SCALES / 2,
                "v.weight": WORDS, "v.scales": SCALES, "v.biases": -SCALES,
            }
        )  # fmt: skip
        assert [found[n].layout for n in ("w.weight", "v.weight")] == ["mlx-1bit", "mlx"]


def test_advice_is_true_of_packed_codes(bench: Bench) -> None:
    """The floats beside codes are scales, not the master weights of a BitNet model."""
    bench.configure({"quantization": {"group_size": 32, "bits": 7}})
    tensors = {"w.weight": WORDS, "w.scales": SCALES, "w.biases": SCALES, "head.weight": SCALES}
    with pytest.raises(rsrc.NothingToCompileError) as error:
        bench.compile(tensors, anchors=False)
    assert str(error.value).endswith(". Compile the checkpoint that it was quantized from")
    assert "absmean" not in str(error.value)
