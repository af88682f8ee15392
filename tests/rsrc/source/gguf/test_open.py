"""GGUF files as sources: what is compiled, under which names, and what is rejected."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Q
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsrc.common.errors import MismatchError, NothingToCompileError, SourceError
from rsrc.compiler.report import TensorReport
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.source.open import open_checkpoint

Array = npt.NDArray[Any]
Stored = tuple[Sequence[int], int, bytes]

F32, I8, TQ1_0, TQ2_0, I2_S, SHARED, STQ1_0, IQ1_BN, IQ2_BN, PQ2_0, PTQ1_0, Q1_0 = (
    0, 24, 34, 35, 36, 42, 43, 134, 135, 142, 143, 41
)  # fmt: skip
HALF, SINGLE = b"\x00\x38", b"\x00\x00\x00\x3f"  # 0.5 as F16 and F32

# Blocks of 128 or 256 weights (i % 3) - 1 with scale 0.5, without row header and tail;
# test_types.py checks them.
TQ2_0_BLOCK = bytes.fromhex("186186" * 21 + "18") + HALF
Q2_CODES = bytes.fromhex("244992" * 10 + "2449")


def llama(**more: Any) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "llama.block_count": 1,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        **more,
    }


def ternary(rows: int, columns: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.float32)


def permute(w: Array, heads: int) -> Array:
    """Permute rows as llama.cpp's converter does."""
    halves = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
    return halves.swapaxes(1, 2).reshape(w.shape)


def stored(w: Array, kind: Q) -> Stored:
    """Quantize with the gguf package."""
    data = gguf.quants.quantize(w, kind).tobytes()
    return w.shape, int(kind), data


class Bench:
    """Compiles GGUF files in one folder and returns the reports of their tensors."""

    def __init__(self, kit: Kit, gguf_kit: GgufKit, folder: Path) -> None:
        self.kit, self.gguf_kit, self.folder = kit, gguf_kit, folder
        self.source, self.rsr = folder / "m.gguf", folder / "m.rsr"

    def compile(
        self, tensors: Mapping[str, Stored], metadata: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, TensorReport]:
        """Compile, compare with the source, decompile and check the result."""
        self.gguf_kit.save(self.source, metadata or {}, tensors)
        report = rsrc.compile(self.source, self.rsr, force=True, **options)
        assert compare(self.rsr, self.source) == len(report.tensors)
        decompile(self.rsr, self.folder / "back.safetensors", force=True)
        self.back = self.kit.judge(self.folder / "back.safetensors")
        assert set(self.back) == {t.name for t in report.tensors}
        return {t.name: t for t in report.tensors}

    def one(self, shape: Sequence[int], number: int, data: bytes, **options: Any) -> TensorReport:
        return self.compile({"w": (shape, number, data)}, **options)["w"]

    def dense(self, name: str = "w") -> Array:
        """Return the values that products use; check that decompiling restores the same."""
        matrix = rsr_runtime.load(self.rsr, verify=True)[name]
        assert isinstance(matrix, rsr_runtime.Matrix)
        values = matrix.to_dense()
        raw = self.back[name]
        restored = np.frombuffer(raw.data, {"F16": "<f2", "F32": "<f4"}[raw.dtype])
        assert np.array_equal(restored.reshape(raw.shape).astype(np.float32), values)
        return values


@pytest.fixture
def bench(kit: Kit, gguf_kit: GgufKit, tmp_path: Path) -> Bench:
    return Bench(kit, gguf_kit, tmp_path)


class TestTernaryTypes:
    @pytest.mark.parametrize("kind", [Q.TQ1_0, Q.TQ2_0])
    def test_what_the_gguf_package_quantizes(self, bench: Bench, kind: Q) -> None:
        w = ternary(40, 768) * np.float32(0.25)
        found = bench.compile({"w": stored(w, kind)})["w"]
        assert found.scale == f"{kind.name}, per tensor"
        assert (found.layout, found.source_dtype, found.shape) == ("float", "F16", (40, 768))
        assert found.source_bytes == 40 * 3 * (54 if kind == Q.TQ1_0 else 66)
        assert np.array_equal(bench.dense(), w)

    @pytest.mark.parametrize("kind", [Q.TQ1_0, Q.TQ2_0])
    def test_scales_of_blocks(self, bench: Bench, kind: Q) -> None:
        w = ternary(6, 512)
        scales = np.random.default_rng(1).uniform(0.1, 4, (6, 2)).astype(np.float16)
        w *= np.repeat(scales.astype(np.float32), 256, axis=1)
        data = stored(w, kind)
        assert bench.compile({"w": data})["w"].scale == f"{kind.name}, per row and 256 columns"
        judge = gguf.quants.dequantize(np.frombuffer(data[2], np.uint8).reshape(6, -1), kind)
        assert np.array_equal(bench.dense(), judge)
        assert np.array_equal(bench.dense(), w)

    def test_one_scale_for_a_row(self, bench: Bench) -> None:
        w = ternary(4, 512) * np.array([[1], [2], [2], [0.5]], np.float32)
        assert bench.compile({"w": stored(w, Q.TQ2_0)})["w"].scale == "TQ2_0, per row"
        assert np.array_equal(bench.dense(), w)

    def test_a_block_of_zeros_takes_any_scale(self, bench: Bench) -> None:
        """A block with scale 0 may have any codes; the other blocks still share one scale."""
        w = np.repeat(np.array([[1.0], [1.0]], np.float32), 512, axis=1) * ternary(2, 512)
        data = bytearray(stored(w, Q.TQ2_0)[2])
        data[66:130] = b"\x8a" * 64  # codes 2 and 0 ...
        data[130:132] = b"\x00\x80"  # ... times -0.0
        assert bench.one((2, 512), TQ2_0, bytes(data)).scale == "TQ2_0, per tensor"
        w[0, 256:] = 0
        assert np.array_equal(bench.dense(), w)

    def test_all_zeros(self, bench: Bench) -> None:
        bench.one((2, 256), TQ2_0, bytes(132))
        assert not bench.dense().any()

    def test_code_3_times_zero_is_zero(self, bench: Bench) -> None:
        bench.one((2, 256), TQ2_0, TQ2_0_BLOCK + b"\xff" * 64 + bytes(2))
        assert bench.dense()[0, :3].tolist() == [-0.5, 0, 0.5]
        assert not bench.dense()[1].any()

    def test_negative_scales_multiply(self, bench: Bench) -> None:
        bench.one((1, 256), TQ2_0, TQ2_0_BLOCK[:64] + b"\x00\xb8")
        assert bench.dense()[0, :4].tolist() == [0.5, 0, -0.5, 0.5]

    def test_i2_s(self, bench: Bench) -> None:
        codes = bytes.fromhex("244992" * 10 + "2449") * 6  # each block begins with -1
        found = bench.one((3, 256), I2_S, codes + SINGLE + bytes(range(28)))
        assert found.scale == "I2_S (order of x86 assumed), per tensor"
        assert found.source_dtype == "F32"
        expected = np.tile(np.arange(128) % 3 - 1, (3, 2)) * np.float32(0.5)
        assert np.array_equal(bench.dense(), expected)

    @pytest.mark.parametrize("columns", [64, 40, 160, 1])
    def test_i2_s_blocks_straddle_rows(self, bench: Bench, columns: int) -> None:
        """Blocks cover the whole matrix, so its width need not be a multiple of 128."""
        rows = 1280 // columns
        codes = bytes.fromhex("244992" * 10 + "2449") * 10
        bench.one((rows, columns), I2_S, codes + SINGLE + bytes(28))
        flat = np.tile(np.arange(128) % 3 - 1, 10) * np.float32(0.5)
        assert np.array_equal(bench.dense(), flat.reshape(rows, columns))
        bench.one((rows, columns), I2_S, codes + bytes(32))
        assert not bench.dense().any()

    @pytest.mark.parametrize(("rows", "columns"), [(16, 20488), (327808, 1)])
    def test_i2_s_blocks_straddle_rows_of_any_width(
        self, bench: Bench, rows: int, columns: int
    ) -> None:
        codes = bytes.fromhex("244992" * 10 + "2449") * 2561
        bench.one((rows, columns), I2_S, codes + SINGLE + bytes(28))
        flat = np.tile(np.arange(128) % 3 - 1, 2561) * np.float32(0.5)
        assert np.array_equal(bench.dense(), flat.reshape(rows, columns))

    def test_row_scales_of_ik_llama(self, bench: Bench) -> None:
        expected = np.tile(np.arange(64) % 3 - 1, (2, 2)) * np.array([[0.5], [2]], np.float32)
        codes = bytes.fromhex("244992" * 5 + "24") * 2
        data = SINGLE + codes + struct.pack("<f", 2) + codes
        assert bench.one((2, 128), IQ2_BN, data).scale == "IQ2_BN, per row"
        assert bench.back["w"].dtype == "F32"
        assert np.array_equal(bench.dense(), expected)
        codes = bytes.fromhex("6c45cfcf6c4545cf6c6c45cf17") * 2
        data = HALF + codes + b"\x00\x40" + codes
        assert bench.one((2, 128), IQ1_BN, data).scale == "IQ1_BN, per row"
        assert bench.back["w"].dtype == "F16"
        assert np.array_equal(bench.dense(), expected)

    @pytest.mark.parametrize(
        ("number", "block", "name"),
        [
            (PTQ1_0, bytes.fromhex("3194bb" * 5 + "31" + "cf456c" * 2 + "cf45436c"), "PTQ1_0"),
            (PQ2_0, Q2_CODES, "PQ2_0"),
            (SHARED, Q2_CODES, "PQ2_0"),
        ],
    )
    def test_groups_of_128(self, bench: Bench, number: int, block: bytes, name: str) -> None:
        scales = [HALF, b"\x00\x40", HALF, HALF] * 4
        data = b"".join(block + s if number == PTQ1_0 else s + block for s in scales)
        assert bench.one((8, 256), number, data).scale == f"{name}, per row and 128 columns"
        expected = np.tile(np.arange(128) % 3 - 1, (8, 2)).astype(np.float32) * 0.5
        expected[::2, 128:] *= 4
        assert np.array_equal(bench.dense(), expected)

    def test_q2_0(self, bench: Bench) -> None:
        block = bytes.fromhex("244992" * 5 + "24")
        data = (HALF + block + b"\x00\x40" + block) * 32
        assert bench.one((32, 128), SHARED, data).scale == "Q2_0, per 64 columns"
        expected = np.tile(np.arange(64) % 3 - 1, (32, 2)) * np.repeat([0.5, 2], 64)
        assert np.array_equal(bench.dense(), expected)

    @pytest.mark.parametrize("number", [SHARED, STQ1_0])
    def test_stq1_0(self, bench: Bench, number: int) -> None:
        """With all numbers 0, the pattern is A9: zeros in the first run of 16, else ones."""
        sign = bytes(4) + b"\xff" * 4  # the second half negated
        data = (bytes(32) + sign + HALF) * 8
        assert bench.one((8, 256), number, data).scale == "STQ1_0, per tensor"
        run = np.repeat([0, 0.5, 0.5, 0.5], 16)
        assert np.array_equal(bench.dense(), np.tile([*run, *run, *-run, *-run], (8, 1)))

    def test_q1_0_is_binary(self, bench: Bench) -> None:
        found = bench.one((2, 128), Q1_0, (HALF + b"\x0f" * 16) * 2)
        assert found.kind == "binary"
        expected = np.tile([0.5] * 4 + [-0.5] * 4, (2, 16))
        assert np.array_equal(bench.dense(), expected)

    def test_a_scale_of_0_is_one_of_a_binary_matrix(self, bench: Bench) -> None:
        """Binary digits have no zero, so a zero scale must be kept."""
        found = bench.one((2, 128), Q1_0, HALF + b"\xff" * 16 + bytes(2) + b"\x0f" * 16)
        assert found.scale == "Q1_0, per row"
        assert bench.dense().tolist() == [[0.5] * 128, [0] * 128]

    def test_a_row_without_columns_has_its_scale(self, bench: Bench) -> None:
        found = bench.compile({"w": ((1, 0), IQ1_BN, HALF), "x": ((1, 256), TQ2_0, TQ2_0_BLOCK)})
        assert found["w"].scale == "IQ1_BN, per tensor"

    def test_without_rows(self, bench: Bench) -> None:
        bench.compile({"w": ((0, 256), TQ2_0, b""), "x": ((1, 256), TQ2_0, TQ2_0_BLOCK)})
        assert bench.dense().shape == (0, 256)

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_any_blocks_are_what_the_gguf_package_says(
        self, kit: Kit, gguf_kit: GgufKit, scratch: Path, data: st.DataObject
    ) -> None:
        """Scales include 0, negative values, the largest and the smallest."""
        bench = Bench(kit, gguf_kit, scratch)
        kind = data.draw(st.sampled_from([Q.TQ1_0, Q.TQ2_0]))
        rows, groups = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
        size = gguf.GGML_QUANT_SIZES[kind][1]
        raw = data.draw(st.binary(min_size=rows * groups * size, max_size=rows * groups * size))
        blocks = np.frombuffer(raw, np.uint8).reshape(-1, size).copy()
        if kind == Q.TQ2_0:
            blocks &= ~(blocks & blocks >> 1 & 0x55)  # no code 3
        scale = st.sampled_from([0.5, 0.5, 2, 0, -0.0, -2, 65504, 2**-24])
        count = rows * groups
        scales = data.draw(st.lists(scale, min_size=count, max_size=count))
        blocks[:, -2:] = np.array(scales, "<f2").view(np.uint8).reshape(-1, 2)
        bench.one((rows, 256 * groups), int(kind), blocks.tobytes())
        judge = gguf.quants.dequantize(blocks.reshape(rows, -1), kind)
        assert np.array_equal(bench.dense(), judge)

    def test_windows_of_wide_matrices(self, bench: Bench) -> None:
        """Panels may begin at any strip and any column."""
        w = ternary(130, 20480, seed=3) * np.float32(2)
        bench.compile({"w": stored(w, Q.TQ1_0)}, threads=3)
        assert np.array_equal(bench.dense(), w)
        bench.compile({"w": stored(w, Q.TQ2_0)}, encoding="permuted", k=3)
        assert np.array_equal(bench.dense(), w)


class TestDense:
    @pytest.mark.parametrize("kind", [Q.Q8_0, Q.Q4_0, Q.Q5_1])
    def test_as_the_gguf_package_dequantizes(self, bench: Bench, kind: Q) -> None:
        w = np.random.default_rng(2).normal(size=(300, 512)).astype(np.float32)
        data = stored(w, kind)
        found = bench.compile({"e": data, "t": stored(ternary(4, 256), Q.TQ2_0)})["e"]
        assert found.reason is not None
        assert found.reason.startswith(f"{kind.name}; F32, not ternary")
        assert found.source_bytes == len(data[2])
        judge = gguf.quants.dequantize(np.frombuffer(data[2], np.uint8).reshape(300, -1), kind)
        assert bench.back["e"] == ("F32", (300, 512), judge.tobytes())

    @pytest.mark.parametrize("kind", [Q.Q6_K, Q.Q4_K, Q.Q2_K, Q.IQ4_NL, Q.MXFP4])
    def test_any_bytes_of_other_types(self, bench: Bench, kind: Q) -> None:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = np.random.default_rng(3).integers(0, 64, (5, 2048 // block * size), np.uint8)
        tensors = {"e": ((5, 2048), int(kind), data.tobytes())}
        bench.compile({**tensors, "t": stored(ternary(4, 256), Q.TQ2_0)})
        judge = gguf.quants.dequantize(data, kind)
        assert np.isfinite(judge).all()
        assert bench.back["e"] == ("F32", (5, 2048), judge.tobytes())

    def test_plain_types_keep_their_bytes(self, bench: Bench) -> None:
        tensors = {
            "f32": ((3,), 0, bytes(range(12))),
            "f16": ((2, 3), 1, bytes(range(12))),
            "i8": ((12,), 24, bytes(range(12))),
            "i16": ((6,), 25, bytes(range(12))),
            "i32": ((3, 1), 26, bytes(range(12))),
            "i64": ((1,), 27, bytes(range(8))),
            "f64": ((), 28, bytes(range(8))),
            "bf16": ((1, 2, 3), 30, bytes(range(12))),
            "t": ((1, 256), TQ2_0, TQ2_0_BLOCK),
        }
        bench.compile(tensors)
        for name, (shape, _, data) in tensors.items():
            if name != "t":
                assert bench.back[name] == (name.upper(), tuple(shape), data)

    def test_floats_that_are_ternary(self, bench: Bench) -> None:
        """F16 of a ternary model; and Q8_0 blocks whose values happen to be ternary."""
        w = ternary(6, 64) * np.float32(0.5)
        found = bench.compile({"f": stored(w, Q.F16), "q": stored(w, Q.Q8_0)})
        assert found["f"].scale == "per tensor"
        assert found["q"].kind == "ternary"
        assert np.array_equal(bench.dense("f"), w)

    @pytest.mark.parametrize("number", [TQ2_0, SHARED])
    def test_blocks_of_more_dimensions_are_dequantized(self, bench: Bench, number: int) -> None:
        """Three-dimensional tensors (experts) and excluded tensors stay dense."""
        block = {TQ2_0: TQ2_0_BLOCK, SHARED: (HALF + Q2_CODES) * 2}[number]
        tensors = {"e": ((2, 3, 256), number, block * 6), "x": ((4, 256), number, block * 4)}
        tensors["t"] = ((4, 256), number, block * 4)
        found = bench.compile(tensors, exclude=["x"])
        name = {TQ2_0: "TQ2_0", SHARED: "PQ2_0"}[number]
        assert found["e"].reason == f"{name}; 3-dimensional"
        assert found["x"].reason == f"{name}; matched by --exclude"
        width = 256 if number == TQ2_0 else 128
        values = np.resize(np.arange(width) % 3 - 1, 256).astype(np.float32) * np.float32(0.5)
        assert bench.back["e"] == ("F32", (2, 3, 256), np.tile(values, 6).tobytes())
        assert bench.back["x"] == ("F32", (4, 256), np.tile(values, 4).tobytes())

    def test_every_ternary_type_stays_dense_if_asked(self, bench: Bench) -> None:
        codes = bytes.fromhex("244992" * 5 + "24")
        i2_s = bytes.fromhex("244992" * 10 + "2449")
        tensors = {
            "iq2_bn": ((1, 64), IQ2_BN, SINGLE + codes),
            "iq1_bn": ((1, 64), IQ1_BN, HALF + bytes.fromhex("6c45cfcf6c4545cf6c6c45cf17")),
            "i2_s": ((2, 64), I2_S, i2_s + SINGLE + bytes(28)),
            "q1_0": ((1, 128), Q1_0, HALF + b"\x55" * 16),
            "t": ((1, 256), TQ2_0, TQ2_0_BLOCK),
        }
        bench.compile(tensors, include=["t"])
        values = (np.arange(128) % 3 - 1).astype(np.float32) * np.float32(0.5)
        assert bench.back["i2_s"].data == values.tobytes()
        assert bench.back["iq2_bn"].data == bench.back["iq1_bn"].data == values[:64].tobytes()
        assert bench.back["q1_0"].data == np.tile([0.5, -0.5], 64).astype("<f4").tobytes()

    def test_code_3_of_q2_0_is_a_weight(self, bench: Bench) -> None:
        blocks = HALF + b"\xe4" * 32  # 0, 1, 2, 3: times 0.5, after taking 1
        tensors = {"w": ((32, 128), SHARED, blocks * 32), "t": ((1, 256), TQ2_0, TQ2_0_BLOCK)}
        found = bench.compile(tensors)["w"]
        assert (found.kind, found.k, found.source_dtype) == ("quaternary", 2, "F16")
        expected = np.tile([-0.5, 0, 0.5, 1], 1024).astype("<f2")
        assert bench.back["w"] == ("F16", (32, 128), expected.tobytes())
        assert np.array_equal(bench.dense(), expected.reshape(32, 128))

    @pytest.mark.parametrize(("number", "columns", "size"), [(SHARED, 64, 18), (PQ2_0, 128, 34)])
    def test_code_3_against_its_definition(
        self, bench: Bench, number: int, columns: int, size: int
    ) -> None:
        """Random codes and scales of each block; where the scale is 0, code 3 is 0, too."""
        rng = np.random.default_rng(7)
        blocks = rng.integers(0, 256, (66 * 3, size), dtype=np.uint8)
        scales = rng.choice([0.5, -2, 0.375, 0], len(blocks)).astype(np.float16)
        blocks[:, :2] = scales.reshape(-1, 1).view(np.uint8)
        found = bench.one((66, 3 * columns), number, blocks.tobytes())
        assert found.kind == "quaternary"
        codes = np.stack([blocks[:, 2:] >> 2 * i & 3 for i in range(4)], axis=2)
        expected = (codes.reshape(len(blocks), -1) - 1.0) * scales[:, None].astype(np.float32)
        assert np.array_equal(bench.dense(), expected.reshape(66, 3 * columns))

    def test_code_3_beyond_float16(self, bench: Bench) -> None:
        """Twice a scale above 32752 is no float16: the tensor is restored as F32."""
        large = b"\xff\x7b"  # 65504
        blocks = large + b"\xe4" * 32
        tensors = {"w": ((32, 128), PQ2_0, blocks * 32)}
        assert bench.compile(tensors)["w"].source_dtype == "F32"
        expected = np.tile([-65504, 0, 65504, 131008], 1024).astype("<f4")
        assert bench.back["w"] == ("F32", (32, 128), expected.tobytes())

    def test_without_the_gguf_package(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only dense tensors of quantized types need the package."""
        w = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
        quantized, ternary_blocks = stored(w, Q.Q8_0), stored(ternary(2, 256), Q.TQ1_0)
        monkeypatch.setitem(sys.modules, "gguf", None)
        bench.compile({"t": ternary_blocks})
        with pytest.raises(
            SourceError, match=r"e: dequantizing its type, Q8_0, .*pip install 'rsr-ternary\[g"
        ):
            bench.compile({"t": ternary_blocks, "e": quantized})


class TestLlama:
    def tensors(self, kind: Q = Q.TQ2_0) -> dict[str, Stored]:
        self.q, self.k, self.up = ternary(256, 256, 1), ternary(128, 256, 2), ternary(512, 256, 3)
        self.embedding = np.random.default_rng(4).normal(size=(32, 256)).astype(np.float32)
        return {
            "token_embd.weight": stored(self.embedding, Q.Q8_0),
            "blk.0.attn_q.weight": stored(permute(self.q, 4), kind),
            "blk.0.attn_k.weight": stored(permute(self.k, 2), kind),
            "blk.0.ffn_up.weight": stored(self.up, kind),
            "output_norm.weight": stored(np.ones(256, np.float32), Q.F32),
        }

    @pytest.mark.parametrize("kind", [Q.TQ1_0, Q.TQ2_0, Q.F16, Q.F32, Q.BF16, Q.Q8_0])
    def test_rows_of_q_and_k_are_put_back(self, bench: Bench, kind: Q) -> None:
        found = bench.compile(self.tensors(kind), llama())
        layer = "model.layers.0."
        assert list(found) == [
            "model.embed_tokens.weight",
            f"{layer}self_attn.q_proj.weight",
            f"{layer}self_attn.k_proj.weight",
            f"{layer}mlp.up_proj.weight",
            "model.norm.weight",
        ]
        for name, values in [("self_attn.q", self.q), ("self_attn.k", self.k), ("mlp.up", self.up)]:
            matrix = rsr_runtime.load(bench.rsr)[f"{layer}{name}_proj.weight"]
            assert isinstance(matrix, rsr_runtime.Matrix)
            assert np.array_equal(matrix.to_dense(np.int8), values)

    def test_without_rows(self, bench: Bench) -> None:
        tensors = self.tensors()
        tensors["blk.0.attn_q.weight"] = ((0, 256), TQ2_0, b"")
        tensors["blk.0.attn_q.bias"] = ((0,), F32, b"")
        with pytest.raises(rsrc.SourceError, match=r"but config.json implies \[256, 256\]"):
            bench.compile(tensors, llama())

    def test_dense_rows_and_biases_too(self, bench: Bench) -> None:
        q = np.random.default_rng(8).normal(size=(256, 256)).astype(np.float32)
        bias = np.arange(256, dtype=np.float32)
        tensors = self.tensors()
        tensors["blk.0.attn_q.weight"] = stored(permute(q, 4), Q.Q8_0)
        tensors["blk.0.attn_q.bias"] = stored(permute(bias, 4), Q.F32)
        bench.compile(tensors, llama())
        name = "model.layers.0.self_attn.q_proj"
        exact = gguf.quants.dequantize(gguf.quants.quantize(q, Q.Q8_0), Q.Q8_0)
        assert bench.back[f"{name}.weight"].data == exact.tobytes()
        assert bench.back[f"{name}.bias"].data == bias.tobytes()

    def test_i2_s_rows_too(self, bench: Bench) -> None:
        rows = np.array([[[0x00], [0x55], [0xAA], [0x55]]] * 64, np.uint8).reshape(256, 1)
        rows[:128] ^= 0
        data = permute(np.repeat(rows, 64, axis=1), 4).tobytes() + SINGLE + bytes(28)
        tensors = self.tensors() | {"blk.0.attn_q.weight": ((256, 256), I2_S, data)}
        bench.compile(tensors, llama())
        dense = bench.dense("model.layers.0.self_attn.q_proj.weight")
        assert dense[:, 0].tolist() == [-0.5, 0, 0.5, 0] * 64

    def test_other_architectures_are_not_reordered(self, bench: Bench) -> None:
        metadata = {k.replace("llama", "bitnet"): v for k, v in llama().items()}
        metadata["general.architecture"] = "bitnet-b1.58"
        bench.compile(self.tensors(), metadata)
        dense = bench.dense("model.layers.0.self_attn.q_proj.weight")
        assert np.array_equal(dense, permute(self.q, 4))

    def test_the_model_is_whole(self, bench: Bench) -> None:
        bench.compile(self.tensors(), llama(**{"llama.attention.layer_norm_rms_epsilon": 1e-5}))
        with rsr_runtime.load(bench.rsr) as model:
            config = json.loads(model.files["config.json"])
            assert model.metadata["general.name"] == "Tiny"
            assert "llama.block_count" not in model.metadata
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert config["vocab_size"] == 32
        assert config["rms_norm_eps"] == 1e-5
        assert config["tie_word_embeddings"] is True

    def test_rope_factors_become_a_setting(self, bench: Bench) -> None:
        """Llama 3's factors become its scaling, others longrope; those of no head stay."""
        wavelength = 2 * np.pi * 10000 ** (np.arange(0, 64, 2) / 64)
        blend = np.clip((8192 / wavelength - 1) / 3, 0, 1)
        factors = (1 / ((1 - blend) / 8 + blend)).astype(np.float32)
        tensors = {**self.tensors(), "rope_freqs.weight": stored(factors, Q.F32)}
        found = bench.compile(tensors, llama())
        assert "rope_freqs.weight" not in found
        assert json.loads(rsr_runtime.load(bench.rsr).files["config.json"])["rope_scaling"] == {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        tensors["rope_freqs.weight"] = stored(factors + 1, Q.F32)
        assert "rope_freqs.weight" not in bench.compile(tensors, llama())
        found = json.loads(rsr_runtime.load(bench.rsr).files["config.json"])["rope_scaling"]
        assert (found["rope_type"], found["attention_factor"]) == ("longrope", 1.0)
        assert found["short_factor"] == found["long_factor"]
        assert np.array_equal(np.array(found["long_factor"], np.float32), factors + 1)
        tensors["rope_freqs.weight"] = stored(factors[:9], Q.F32)
        assert bench.compile(tensors, llama())["rope_freqs.weight"].kind == "dense"

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"llama.attention.head_count": "four"}, "256 rows are not a multiple of 2 x 0 heads"),
            ({"llama.attention.head_count": 3}, "256 rows are not a multiple of 2 x 3 heads"),
            ({"llama.attention.head_count": 256}, "256 rows are not a multiple of 2 x 256 heads"),
        ],
    )
    def test_heads_that_do_not_fit(self, bench: Bench, change: dict[str, Any], match: str) -> None:
        with pytest.raises(SourceError, match=match):
            bench.compile(self.tensors(), llama(**change))

    def test_rows_of_three_dimensions(self, bench: Bench) -> None:
        tensors = {"blk.0.attn_q.weight": ((8, 1, 256), F32, bytes(8192))}
        with pytest.raises(SourceError, match=r"permuted by heads .* it has 3 dimensions"):
            bench.compile(tensors, llama())

    def test_any_number_of_rows_without_columns(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        tensors = {"blk.0.attn_q.weight": ((1 << 60, 0), F32, b"")}
        path = gguf_kit.save(tmp_path / "m.gguf", llama(), tensors)
        (tensor,) = open_checkpoint(path).tensors.values()
        assert tensor.read().size == len(list(tensor.pieces())) == 0

    def test_i2_s_rows_that_share_blocks_cannot_move(self, bench: Bench) -> None:
        tensors = {"blk.0.attn_q.weight": ((256, 64), I2_S, bytes(256 * 16 + 32))}
        with pytest.raises(SourceError, match="blocks of I2_S straddle rows"):
            bench.compile(tensors, llama())

    def test_two_names_for_one_tensor(self, bench: Bench) -> None:
        tensors = self.tensors()
        tensors["model.norm.weight"] = tensors["output_norm.weight"]
        with pytest.raises(SourceError, match=r"'model.norm.weight' occurs under two names"):
            bench.compile(tensors, llama())


def scale(value: float, kind: Q = Q.F32) -> Stored:
    return stored(np.array([value], np.float32), kind)


class TestScales:
    """A tensor NAME.scale multiplies NAME.weight, as in llama.cpp."""

    NAME = "model.layers.0.self_attn.q_proj.weight"

    @pytest.mark.parametrize("architecture", ["llama", "bitnet", "bitnet-b1.58"])
    @pytest.mark.parametrize("kind", [Q.TQ2_0, Q.TQ1_0, Q.F16, Q.BF16, Q.F32])
    def test_blocks_and_floats(self, bench: Bench, kind: Q, architecture: str) -> None:
        q = ternary(256, 256) * np.float32(0.5)
        metadata = {k.replace("llama", architecture): v for k, v in llama().items()}
        metadata["general.architecture"] = architecture
        tensors = {
            "blk.0.attn_q.weight": stored(permute(q, 4) if architecture == "llama" else q, kind),
            "blk.0.attn_q.scale": scale(0.3),
        }
        (found,) = bench.compile(tensors, metadata).values()
        assert (found.name, found.layout, found.source_dtype) == (self.NAME, "float", "F32")
        assert np.array_equal(bench.dense(self.NAME), q * np.float32(0.3))

    def test_scales_of_blocks_too(self, bench: Bench) -> None:
        w = ternary(512, 512) * np.repeat(np.array([[0.5, 2.0]], np.float32), 256, axis=1)
        tensors = {
            "blk.0.ffn_up.weight": stored(w, Q.TQ2_0),
            "blk.0.ffn_up.scale": scale(-1.5, Q.F16),
        }
        metadata = llama(**{"llama.embedding_length": 512})
        name = "model.layers.0.mlp.up_proj.weight"
        found = bench.compile(tensors, metadata)[name]
        assert found.scale == "TQ2_0, per 256 columns in float32"
        assert np.array_equal(bench.dense(name), w * np.float32(-1.5))

    def test_dense_weights_too(self, bench: Bench) -> None:
        q = np.random.default_rng(8).normal(size=(32, 256)).astype(np.float32)
        exact = gguf.quants.dequantize(gguf.quants.quantize(q, Q.Q8_0), Q.Q8_0)
        for kind, values in ((Q.Q8_0, exact), (Q.F32, q)):
            tensors = {
                **TestLlama().tensors(),
                "output.weight": stored(q, kind),
                "output.scale": scale(0.3, Q.BF16),
            }
            assert bench.compile(tensors, llama())["lm_head.weight"].kind == "dense"
            bf16 = np.float32(0.30078125)
            assert bench.back["lm_head.weight"].data == (values * bf16).tobytes()

    def test_it_is_said(self, bench: Bench) -> None:
        tensors = {**TestLlama().tensors(), "blk.0.attn_q.scale": scale(0.5)}
        bench.compile(tensors, llama())
        notes = open_checkpoint(bench.source).notes
        assert "multiplied by their .scale tensors: 1 weight" in notes

    @pytest.mark.parametrize(
        "name",
        [
            "blk.0.attn_q.input_scale",  # of activations
            "blk.0.attn_v.scale",  # there is no such weight
            "token_embd.scale",  # no linear layer
        ],
    )
    def test_other_scales_stay_tensors(self, bench: Bench, name: str) -> None:
        tensors = {**TestLlama().tensors(), name: scale(0.5)}
        assert len(bench.compile(tensors, llama())) == 6

    @pytest.mark.parametrize(
        ("tensor", "message"),
        [
            (stored(np.ones(256, np.float32), Q.F32), r"is \[256\], expected one number"),
            (((1,), I8, b"\x01"), "is I8, expected floats"),
            (scale(np.inf), "is inf, expected a finite number"),
            (scale(3e38), "its scales times .* overflow"),
        ],
    )
    def test_scales_that_cannot_be(self, bench: Bench, tensor: Stored, message: str) -> None:
        w = stored(ternary(256, 256) * np.float32(4), Q.TQ2_0)
        tensors = {"blk.0.attn_q.weight": w, "blk.0.attn_q.scale": tensor}
        with pytest.raises(SourceError, match=message):
            bench.compile(tensors, llama())


class TestFloatsAreNoMasters:
    """llama.cpp multiplies by the floats in a GGUF file; its converter has quantized them."""

    @pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16])
    def test_ternary_floats_keep_their_scale(self, bench: Bench, kind: Q) -> None:
        w = ternary(512, 256) * np.float32(0.5)
        metadata = {k.replace("llama", "bitnet"): v for k, v in llama().items()}
        metadata["general.architecture"] = "bitnet"
        found = bench.compile({"blk.0.ffn_up.weight": stored(w, kind)}, metadata)
        (report,) = found.values()
        assert (report.layout, report.scale) == ("float", "per tensor")
        if kind != Q.BF16:
            assert np.array_equal(bench.dense(report.name), w)
        config = json.loads(rsr_runtime.load(bench.rsr).files["config.json"])
        assert config["architectures"] == ["BitnetForCausalLM"]

    def test_other_floats_stay_floats(self, bench: Bench) -> None:
        w = np.random.default_rng(8).normal(size=(512, 256)).astype(np.float32)
        metadata = {k.replace("llama", "bitnet"): v for k, v in llama().items()}
        metadata["general.architecture"] = "bitnet"
        tensors = {
            "blk.0.ffn_up.weight": stored(w, Q.F32),
            "blk.0.ffn_gate.weight": stored(ternary(512, 256), Q.TQ2_0),
        }
        found = bench.compile(tensors, metadata)
        assert found["model.layers.0.mlp.up_proj.weight"].kind == "dense"


class TestRefused:
    @pytest.mark.parametrize(
        ("number", "match"),
        [
            (38, "TL1 of bitnet.cpp"),
            (39, "TL2 of bitnet.cpp"),
            (335, "IQ2_BN_R4 of ik_llama.cpp"),
            (137, "type 137, which is unknown"),
            (36, "type 36, but 96 bytes for shape .*, which is not the size of I2_S"),
            (42, "type 42, but 96 bytes for shape .* size of Q2_0 or PQ2_0 or STQ1_0"),
        ],
    )
    def test_types(self, bench: Bench, number: int, match: str) -> None:
        with pytest.raises(SourceError, match=match):
            bench.one((2, 512), number, bytes(96))

    def test_a_size_that_fits_two_types(self, bench: Bench) -> None:
        with pytest.raises(SourceError, match="its size fits both Q2_0 and PQ2_0"):
            bench.one((1, 256), SHARED, bytes(72))

    def test_sizes_of_different_types(self, bench: Bench) -> None:
        """Each tensor fits some type of the number, but no type fits all tensors."""
        tensors = {
            "q2_0": ((1, 64), SHARED, HALF + Q2_CODES[:16]),
            "stq1_0": ((1, 256), SHARED, bytes(40) + HALF),
        }
        with pytest.raises(
            SourceError, match=r"'q2_0' and others have type 42, but their sizes fit d"
        ):
            bench.compile(tensors)

    def test_the_other_tensors_of_a_type_decide(self, bench: Bench) -> None:
        """One tensor cannot tell 68 bytes of PQ2_0 from 72 of Q2_0; two tensors can."""
        block = HALF + Q2_CODES
        tensors = {"w": ((1, 256), SHARED, block * 2), "x": ((8, 256), SHARED, block * 16)}
        assert bench.compile(tensors)["w"].scale == "PQ2_0, per tensor"

    @pytest.mark.parametrize("scale", [b"\x00\x7c", b"\x00\xfc", b"\x00\x7e"])
    def test_scales_that_are_no_numbers(self, bench: Bench, scale: bytes) -> None:
        data = TQ2_0_BLOCK + TQ2_0_BLOCK[:64] + scale
        with pytest.raises(SourceError, match=r"w: TQ2_0 with scale -?(inf|nan) \(number 1 of 2\)"):
            bench.one((2, 256), TQ2_0, data)

    @pytest.mark.parametrize(
        ("number", "columns", "data"),
        [
            (TQ2_0, 256, TQ2_0_BLOCK[:5] + b"\x03" + TQ2_0_BLOCK[6:]),
            (I2_S, 128, bytes(31) + b"\xc0" + SINGLE + bytes(28)),
            (IQ2_BN, 64, SINGLE + bytes(15) + b"\x30"),
        ],
    )
    def test_code_3(self, bench: Bench, number: int, columns: int, data: bytes) -> None:
        with pytest.raises(SourceError, match="with the invalid code 3"):
            bench.one((1, columns), number, data)

    def test_rotated_weights(self, bench: Bench) -> None:
        with pytest.raises(SourceError, match=r"rotated basis .* transform is missing"):
            bench.compile({}, {"prism.hadamard.version": 1})

    def test_adapters(self, bench: Bench) -> None:
        with pytest.raises(SourceError, match=r"a LoRA adapter.* with --lora DIR"):
            bench.compile({}, {"general.type": "adapter"})

    def test_nothing_ternary(self, bench: Bench) -> None:
        w = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
        with pytest.raises(NothingToCompileError, match="Q8_0; F32, not ternary"):
            bench.compile({"w": stored(w, Q.Q8_0)})

    @pytest.mark.parametrize("value", [[1, 2], [], ["a", "b"], "x", True, 1.5, 7])
    def test_values_of_unexpected_types(
        self, gguf_kit: GgufKit, tmp_path: Path, value: Any
    ) -> None:
        """Whatever the value of a key, the file is read, or rejected with a message."""
        tensors = TestLlama().tensors() | {"rope_freqs.weight": ((32,), F32, bytes(128))}
        keys = [
            *("general.architecture", "general.type", "general.name", "general.alignment"),
            *("split.count", "split.no", "prism.hadamard.version"),
            *(f"llama.{k}" for k in ("block_count", "attention.head_count", "rope.freq_base")),
            *(f"llama.rope.{k}" for k in ("scaling.type", "scaling.factor", "dimension_count")),
            *(f"minicpm.{k}" for k in ("block_count", "residual_scale", "logit_scale")),
            "tokenizer.ggml.bos_token_id",
        ]
        opened = 0
        for architecture in ("llama", "minicpm"):
            for key in keys:
                metadata = llama(**{"general.architecture": architecture}) | {key: value}
                if architecture == "minicpm":
                    metadata |= {k.replace("llama", "minicpm"): v for k, v in metadata.items()}
                path = gguf_kit.save(tmp_path / "m.gguf", metadata, tensors)
                try:
                    open_checkpoint(path)
                    opened += 1
                except SourceError as error:
                    assert "m.gguf" in str(error)  # noqa: PT017
        assert opened >= 10


def test_other_processes_know_it_again(gguf_kit: GgufKit, kit: Kit, tmp_path: Path) -> None:
    """The digest of a checkpoint does not depend on the process that opened it."""
    tensors = {"w": ((1, 256), TQ2_0, TQ2_0_BLOCK)}
    source = gguf_kit.save(tmp_path / "m.gguf", {"general.architecture": "none"}, tensors)
    code = (
        "import sys; from pathlib import Path; from rsrc.source.open import open_checkpoint\n"
        "print(open_checkpoint(Path(sys.argv[1])).digest.hex())"
    )
    assert kit.python(code, source).stdout == kit.python("import click\n" + code, source).stdout
    assert open_checkpoint(source).digest.hex() == kit.python(code, source).stdout.strip()


class TestCompare:
    def test_differences_are_found(self, bench: Bench, gguf_kit: GgufKit) -> None:
        w = ternary(4, 512) * np.array([[1], [2], [2], [0.5]], np.float32)
        bench.compile({"w": stored(w, Q.TQ2_0)})
        other = w.copy()
        other[3, 500] = 0.5 if other[3, 500] != 0.5 else 0
        binary = ((4, 512), Q1_0, (HALF + b"\x55" * 16) * 16)
        for tensor, what in [
            (stored(other, Q.TQ2_0), "w: decodes to other digits"),
            (stored(w * np.float32(2), Q.TQ2_0), "w: decodes to another scale"),
            (stored(ternary(4, 512, 9), Q.TQ2_0), "w: decodes to other digits"),
            (stored(w[:2], Q.TQ2_0), r"w: F16 \[2, 512\] of \[-1, 0, 1\] in the source"),
            (binary, r"w: F16 \[4, 512\] of \[-1, 1\] in the source"),
            (stored(w, Q.F32), r"w: F32 \[4, 512\] in the source, F16 \[4, 512\]"),
            (
                ((4, 512), PQ2_0, (HALF + b"\xe4" * 32) * 16),
                r"w: F16 \[4, 512\] of \[-1, 0, 1, 2\] in the source",
            ),
        ]:
            gguf_kit.save(bench.source, {}, {"w": tensor})
            with pytest.raises(MismatchError, match=what):
                compare(bench.rsr, bench.source)

    def test_the_type_itself_does_not_matter(self, bench: Bench, gguf_kit: GgufKit) -> None:
        w = ternary(4, 512)
        bench.compile({"w": stored(w, Q.TQ2_0)})
        gguf_kit.save(bench.source, {}, {"w": stored(w, Q.TQ1_0)})
        assert compare(bench.rsr, bench.source) == 1


class TestFiles:
    def part(self, gguf_kit: GgufKit, folder: Path, number: int, count: int, **more: Any) -> Path:
        metadata = {
            "split.no": struct.pack("<IH", 2, number),
            "split.count": struct.pack("<IH", 2, count),
            **more,
        }
        tensors = {f"w{number}": ((1, 256), TQ2_0, TQ2_0_BLOCK)}
        return gguf_kit.save(folder / f"m-{number + 1:05}-of-{count:05}.gguf", metadata, tensors)

    def test_parts(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        first, second, _ = [self.part(gguf_kit, tmp_path, i, 3) for i in range(3)]
        assert list(open_checkpoint(first).tensors) == ["w0", "w1", "w2"]
        assert list(open_checkpoint(second).tensors) == ["w0", "w1", "w2"]
        assert list(open_checkpoint(tmp_path).tensors) == ["w0", "w1", "w2"]
        rsrc.compile(first, tmp_path / "m.rsr")
        assert compare(tmp_path / "m.rsr", first) == 3
        with pytest.raises(rsrc.OptionError, match="part of the source"):
            rsrc.compile(first, tmp_path / "m-00002-of-00003.gguf", force=True)

    def test_missing_parts(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        first = self.part(gguf_kit, tmp_path, 0, 4)
        self.part(gguf_kit, tmp_path, 2, 4)
        with pytest.raises(
            SourceError, match=r"2 of 4 parts missing: m-00002-of-00004.gguf, m-00004-of-00004.gguf"
        ):
            open_checkpoint(first)

    def test_rope_factors_in_a_later_part(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        first = self.part(gguf_kit, tmp_path, 0, 2, **llama())
        head = {"split.no": struct.pack("<IH", 2, 1), "split.count": struct.pack("<IH", 2, 2)}
        factors = np.ones(32, "<f4").tobytes()
        tensors = {"rope_freqs.weight": ((32,), F32, factors)}
        gguf_kit.save(tmp_path / "m-00002-of-00002.gguf", head, tensors)
        assert open_checkpoint(first).tensors["rope_freqs.weight"].read().tobytes() == factors

    @pytest.mark.parametrize("number", [[0, 1], "1", 1.0, []])
    def test_parts_with_a_number_of_another_type(
        self, gguf_kit: GgufKit, tmp_path: Path, number: Any
    ) -> None:
        first = self.part(gguf_kit, tmp_path, 0, 2)
        self.part(gguf_kit, tmp_path, 1, 2, **{"split.no": gguf_kit.value(number)})
        with pytest.raises(SourceError, match=r"metadata says part .* expected 1 of 2"):
            open_checkpoint(first)

    def test_parts_that_are_not_what_their_names_say(
        self, gguf_kit: GgufKit, tmp_path: Path
    ) -> None:
        first, second = (self.part(gguf_kit, tmp_path, i, 2) for i in range(2))
        second.write_bytes(first.read_bytes())
        with pytest.raises(SourceError, match=r"metadata says part 0 of 2 .*expected 1 of 2"):
            open_checkpoint(first)
        first.rename(tmp_path / "other.gguf")
        with pytest.raises(SourceError, match="one of 2 parts, which must be named"):
            open_checkpoint(tmp_path / "other.gguf")

    def test_parts_with_the_same_tensor(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        first, second = (self.part(gguf_kit, tmp_path, i, 2) for i in range(2))
        second.write_bytes(second.read_bytes().replace(b"w1", b"w0"))
        with pytest.raises(SourceError, match="a tensor of the same name"):
            open_checkpoint(first)

    def test_a_tokenizer_beside_the_file_replaces_the_one_inside(
        self, gguf_kit: GgufKit, tmp_path: Path
    ) -> None:
        metadata = llama(**{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"]})
        gguf_kit.save(tmp_path / "a.gguf", metadata, {"w": ((1, 256), TQ2_0, TQ2_0_BLOCK)})
        (note,) = open_checkpoint(tmp_path).notes
        assert "tokenizer.ggml.pre is missing" in note
        (tmp_path / "tokenizer.json").write_text("{}")
        found = open_checkpoint(tmp_path)
        assert found.notes == ()
        assert found.files["tokenizer.json"] == tmp_path / "tokenizer.json"

    def test_a_directory(self, kit: Kit, gguf_kit: GgufKit, tmp_path: Path) -> None:
        gguf_kit.save(tmp_path / "a.gguf", llama(), {"w": ((1, 256), TQ2_0, TQ2_0_BLOCK)})
        (tmp_path / "tokenizer.json").write_text("{}")
        found = open_checkpoint(tmp_path)
        assert sorted(found.files) == ["config.json", "tokenizer.json"]
        assert found.notes == ()
        assert found.config["model_type"] == "llama"
        (tmp_path / "config.json").write_text('{"model_type": "beside"}')
        assert open_checkpoint(tmp_path).config == {"model_type": "beside"}
        gguf_kit.save(tmp_path / "b.gguf", {}, {})
        with pytest.raises(SourceError, match=r"which of a.gguf, b.gguf\?"):
            open_checkpoint(tmp_path)
        kit.save(tmp_path / "model.safetensors", {"w": np.ones((1, 1), np.int8)})
        assert open_checkpoint(tmp_path).tensors["w"].dtype == "I8"

    def test_an_unknown_architecture_has_no_config(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        path = gguf_kit.save(tmp_path / "a.gguf", {"general.architecture": "mamba"}, {})
        found = open_checkpoint(path)
        assert (found.files, found.config) == ({}, {})
        assert found.metadata == {"general.architecture": "mamba"}

    def test_a_file_that_got_shorter(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        w = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
        tensors = {"q": stored(w, Q.Q8_0), "t": ((1, 256), TQ2_0, TQ2_0_BLOCK)}
        path = gguf_kit.save(tmp_path / "a.gguf", {}, tensors)
        found = open_checkpoint(path)
        path.write_bytes(path.read_bytes()[:100])
        for tensor in found.tensors.values():
            with pytest.raises(SourceError, match="ended while tensor"):
                tensor.read()
