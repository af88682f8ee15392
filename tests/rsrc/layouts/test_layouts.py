"""What each layout recognizes, decodes and restores; and the reason where it does not."""

from __future__ import annotations

import json
import re
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY
from rsr_testing.checkpoints import Kit, Raw
from rsrc.compiler import index
from rsrc.compiler.report import TensorReport
from rsrc.compiler.target import TARGETS
from rsrc.export.decompile import compare, decompile
from rsrc.inspection.file import inspect_block
from rsrc.layouts import floats

Array = npt.NDArray[Any]

# From the sources of transformers (integrations/bitnet.py), and by hand from its formula.
PACKED = [
    (
        [[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]],
        [[0xA1, 0x18], [0x90, 0x0A]],
    ),
    (
        [[(i + j) % 3 - 1 for j in range(4)] for i in range(8)],
        [[24, 97, 134, 24], [97, 134, 24, 97]],
    ),
]


class Bench:
    """Compiles tensors in one folder and says what became of them."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit, self.folder = kit, folder
        self.rsr = folder / "x.rsr"

    def compile(self, tensors: dict[str, Array | Raw], **options: Any) -> dict[str, TensorReport]:
        """Compile beside a matrix that is ternary; check that everything comes back."""
        self.source = self.kit.save(
            self.folder / "s.safetensors", {"ternary": np.array([[1, 0, -1]], np.int8), **tensors}
        )
        report = rsrc.compile(self.source, self.rsr, force=True, **options)
        if "quantize" not in options:
            decompile(self.rsr, self.folder / "back.safetensors", force=True)
            found = self.kit.judge(self.folder / "back.safetensors")
            assert found == self.kit.judge(self.source)
        assert compare(self.rsr, self.source) == len(tensors) + 1
        return {t.name: t for t in report.tensors}

    def configure(self, **quantization_config: Any) -> None:
        config = {"quantization_config": quantization_config}
        (self.folder / "config.json").write_text(json.dumps(config))

    def one(self, tensor: Array | Raw, **options: Any) -> TensorReport:
        return self.compile({"w": tensor}, **options)["w"]

    def matrix(self, name: str = "w") -> rsr_runtime.Matrix:
        matrix = rsr_runtime.load(self.rsr, verify=True)[name]
        assert isinstance(matrix, rsr_runtime.Matrix)
        return matrix

    def digits(self) -> list[list[int]]:
        """Return the digit values of w."""
        values: list[list[int]] = self.matrix().to_dense(np.int8).tolist()
        return values


@pytest.fixture
def bench(kit: Kit, tmp_path: Path) -> Bench:
    return Bench(kit, tmp_path)


class TestBitNet:
    @pytest.mark.parametrize(("t", "packed"), PACKED)
    @pytest.mark.parametrize("linear_class", [None, "bitlinear", "autobitlinear"])
    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_packing_and_scale(
        self, bench: Bench, t: Any, packed: Any, linear_class: str | None, dtype: str
    ) -> None:
        if linear_class is not None:
            bench.configure(linear_class=linear_class)
        scale = bench.kit.cast(np.array([40.0]), dtype)
        found = bench.compile({"w": np.array(packed, np.uint8), "w_scale": scale})
        assert "w_scale" not in found  # absorbed
        assert found["w"].kind == "ternary"
        assert found["w"].shape == np.shape(t)
        assert found["w"].source_bytes == np.size(packed) + (4 if dtype == "F32" else 2)
        assert bench.digits() == t
        divided = np.float32(1) / np.float32(40)  # NumPy 1 divides by a Python 40 in float64
        assert bench.matrix().scale == (40 if linear_class == "autobitlinear" else divided)
        verb = "multiply" if linear_class == "autobitlinear" else "divide"
        rule = linear_class or "bitlinear, assumed: no config.json says"
        assert found["w"].scale == f"{verb} by weight_scale ({rule})"

    def test_pack_of_the_tests_is_that_of_transformers(self, kit: Kit) -> None:
        for t, packed in PACKED:
            assert kit.pack(np.array(t)).tolist() == packed
        odd = np.array([[1, 0, -1], [0, 0, 1], [-1, 1, 0], [1, 1, 1], [0, -1, 1]])
        assert kit.pack(odd).tolist() == [[18, 9, 36], [9, 9, 10]]

    def test_short_last_quarter_decodes_as_transformers_does(self, bench: Bench) -> None:
        """Five rows are packed as eight codes: what pads them is 0, which is the weight -1."""
        packed = np.array([[18, 9, 36], [9, 9, 10]], np.uint8)
        bench.compile({"w": packed, "w_scale": np.ones(1, np.float32)})
        assert bench.digits()[5:] == [[-1, -1, -1]] * 3

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_shape_of_the_scale(self, bench: Bench, shape: tuple[int, ...]) -> None:
        found = bench.compile({"w": np.zeros((1, 2), np.uint8), "w_scale": np.ones(shape, "f4")})
        assert found.keys() == {"ternary", "w"}

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
    def test_empty(self, bench: Bench, shape: tuple[int, int]) -> None:
        found = bench.compile({"w": np.zeros(shape, "u1"), "w_scale": np.ones(1, "f4")})
        assert found["w"].shape == (4 * shape[0], shape[1])

    @pytest.mark.parametrize("position", range(4))
    def test_code_3(self, bench: Bench, position: int) -> None:
        packed = np.full((2, 3), 0x55, np.uint8)
        packed[1, 2] |= 3 << 2 * position
        tensors = {"w": packed, "w_scale": np.ones(1, "f4")}
        where = rf"\(row {2 * position + 1}, column 2\)"
        self.is_refused_only_where_config_claims_it(bench, tensors, f"it holds code 3.*{where}")

    def test_code_3_in_a_later_piece(self, bench: Bench) -> None:
        packed = np.full((1100, 1000), 0x55, np.uint8)
        packed[1090, 7] = 0x5D
        found = bench.compile({"w": packed, "w_scale": np.ones(1, "f4")})["w"]
        assert found.reason == "U8, but it holds code 3, which is no weight (row 2190, column 7)"

    @pytest.mark.parametrize("value", [0, -1, -0.0, np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_impossible_scale(self, bench: Bench, value: float, dtype: str) -> None:
        scale = bench.kit.cast(np.array([value]), dtype)
        tensors = {"w": np.zeros((1, 1), np.uint8), "w_scale": scale}
        self.is_refused_only_where_config_claims_it(bench, tensors, "expected a finite positive")

    def test_scale_without_a_reciprocal(self, bench: Bench) -> None:
        tensors = {"w": np.zeros((1, 1), np.uint8), "w_scale": np.full(1, 1e-40, "f4")}
        self.is_refused_only_where_config_claims_it(bench, tensors, "is no float32")

    @staticmethod
    def is_refused_only_where_config_claims_it(
        bench: Bench, tensors: dict[str, Any], reason: str
    ) -> None:
        """A U8 matrix with a scale may be another format's: kept dense, unless config.json..."""
        found = bench.compile(tensors)
        assert found["w"].kind == found["w_scale"].kind == "dense"
        assert re.search(reason, str(found["w"].reason))
        bench.rsr.unlink()
        bench.configure(quant_method="bitnet")
        with pytest.raises(rsrc.SourceError, match=f"^w: a BitNet weight.*{reason}"):
            bench.compile(tensors)
        assert not bench.rsr.exists()
        assert not bench.kit.leftovers(bench.folder)

    def test_another_quant_method(self, bench: Bench) -> None:
        bench.configure(quant_method="novel")
        found = bench.compile({"w": np.zeros((1, 1), np.uint8), "w_scale": np.ones(1, "f4")})
        assert found["w"].reason == "U8, but config.json says quant_method 'novel', not 'bitnet'"

    def test_config_is_read_only_when_asked_for(self, bench: Bench) -> None:
        (bench.folder / "config.json").write_text("[1]")
        bench.compile({"w": np.ones((1, 2), np.int8)})
        with pytest.raises(rsrc.SourceError, match=r"config\.json: expected a JSON object"):
            bench.compile({"w": np.zeros((1, 1), np.uint8), "w_scale": np.ones(1, "f4")})

    @pytest.mark.parametrize(
        ("companion", "reason"),
        [
            (None, "U8, but there is no tensor w_scale"),
            (np.ones(2, "f4"), r"U8, but w_scale is F32 [2], expected one float"),
            (np.ones(1, "f8"), r"U8, but w_scale is F64 [1], expected one float"),
            (np.ones(2, "i1"), r"U8, but w_scale is I8 [2], expected one float"),
        ],
    )
    def test_no_companion(self, bench: Bench, companion: Array | None, reason: str) -> None:
        w = np.full((3, 2), 0xFF, np.uint8)  # codes 3: not looked at
        found = bench.compile({"w": w} if companion is None else {"w": w, "w_scale": companion})
        assert (found["w"].kind, found["w"].reason) == ("dense", reason)
        assert (companion is None) != ("w_scale" in found)

    def test_excluded_weight_leaves_its_scale(self, bench: Bench) -> None:
        tensors: dict[str, Any] = {"w": np.zeros((1, 1), "u1"), "w_scale": np.ones(1, "f4")}
        found = bench.compile(tensors, exclude=["w"])
        assert [found[name].kind for name in ("w", "w_scale")] == ["dense", "dense"]
        found = bench.compile(tensors, include=["w"])  # its scale goes with it
        assert found["w"].kind == "ternary"
        assert "w_scale" not in found


class TestUnpackedBitNet:
    T = np.array([[1, 0, -1], [-0.0, 1, 1]])

    @pytest.fixture
    def configured(self, bench: Bench) -> Bench:
        bench.configure(quant_method="bitnet", linear_class="autobitlinear")
        return bench

    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_scale_is_the_companions(self, configured: Bench, dtype: str) -> None:
        w, scale = (configured.kit.cast(np.array(v), dtype) for v in (self.T, [0.25]))
        found = configured.compile({"w": w, "w_scale": scale})  # -0.0 comes back too
        assert (found["w"].kind, found["w"].layout) == ("ternary", "bitnet-unpacked")
        assert "w_scale" not in found
        assert configured.digits() == self.T.tolist()
        assert configured.matrix().scale == np.float32(0.25)

    def test_only_with_a_companion(self, configured: Bench) -> None:
        assert configured.compile({"w": self.T.astype(np.float32)})["w"].layout == "float"
        assert configured.matrix().scale == 1

    @pytest.mark.parametrize(
        ("factor", "scale"),
        [(0.5, 0.5), (0.5, 2), (0.5, 1), (3, 3), (3, 0.33203125), (0.0625, 0.0625 * (1 + 2**-7))],
    )
    @pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
    def test_a_scale_left_behind_by_dequantizing(
        self, bench: Bench, factor: float, scale: float, linear_class: str
    ) -> None:
        """The values have their scale in them, and what lies beside them says the same, or 1."""
        bench.configure(quant_method="bitnet", linear_class=linear_class)
        w = (self.T * factor).astype(np.float32)
        found = bench.compile({"w": w, "w_scale": bench.kit.bf16([scale])})
        assert (found["w"].layout, found["w_scale"].kind) == ("float", "dense")
        assert found["w"].scale == "per tensor, weight_scale says no more"
        assert bench.matrix().scale == factor

    @pytest.mark.parametrize(
        ("factors", "scale"),
        [([0.5, 0.5], 3), ([0.5, 0.5], 0.52), ([0.5, 2], 0.5), ([0.5, 0], 0.25), ([2, 4], 2)],
    )
    @pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
    def test_a_scale_that_contradicts_the_values(
        self, bench: Bench, factors: list[float], scale: float, linear_class: str
    ) -> None:
        bench.configure(quant_method="bitnet", linear_class=linear_class)
        tensors: dict[str, Any] = {
            "w": (self.T * np.array(factors)[:, None]).astype(np.float32),
            "w_scale": np.full(1, scale, np.float32),
        }
        with pytest.raises(rsrc.SourceError, match=r"^w: its values .* w_scale means .* is wrong$"):
            bench.compile(tensors)
        bench.configure(quant_method="bitnet", modules_to_not_convert=["w"])
        assert bench.compile(tensors)["w"].layout == "float"  # a scale that nothing uses

    def test_zeros_fit_any_scale(self, configured: Bench) -> None:
        tensors: dict[str, Any] = {"w": np.zeros((2, 3), "f4"), "w_scale": np.full(1, 3, "f4")}
        assert configured.compile(tensors)["w"].layout == "bitnet-unpacked"
        assert configured.matrix().scale == 3

    @pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
    @pytest.mark.parametrize("dtype", ["i1", "f4"])
    def test_impossible_scale(self, configured: Bench, value: float, dtype: str) -> None:
        tensors: dict[str, Any] = {"w": self.T.astype(dtype), "w_scale": np.full(1, value, "f4")}
        with pytest.raises(rsrc.SourceError, match=r"^w: a BitNet weight.*expected a finite"):
            configured.compile(tensors)

    def test_a_master_beside_a_scale_stays_dense(self, configured: Bench) -> None:
        w = np.array([[1, 0.5, -1]], np.float32)
        found = configured.compile({"a.weight": w, "a.weight_scale": np.full(1, np.nan, "f4")})
        assert found["a.weight"].reason == (
            "F32, not ternary: row 0 has several magnitudes; but config.json (quant_method bitnet, "
            "quantization_mode offline) says that it is: if it is a master weight, --quantize "
            "absmean makes it so"
        )

    @pytest.mark.parametrize(
        ("config", "name"),
        [
            ({"quant_method": "bitnet"}, "lm_head.weight"),
            ({"quant_method": "bitnet"}, "model.embed_tokens.weight"),
            ({"quant_method": "bitnet", "modules_to_not_convert": ["a"]}, "a.weight"),
            ({"quant_method": "bitnet", "quantization_mode": "online"}, "b.bias"),
            ({}, "a.weight"),
        ],
    )
    def test_what_need_not_be_ternary(
        self, bench: Bench, config: dict[str, Any], name: str
    ) -> None:
        bench.configure(**config)
        found = bench.compile({name: np.array([[1, 0.5, -1]], np.float32)})
        assert found[name].reason == "F32, not ternary: row 0 has several magnitudes"

    @pytest.mark.parametrize(("linear_class", "scale"), [("bitlinear", 4), ("autobitlinear", 0.25)])
    def test_int8(self, bench: Bench, linear_class: str, scale: float) -> None:
        bench.configure(quant_method="bitnet", linear_class=linear_class)
        w = self.T.astype(np.int8)
        tensors: dict[str, Any] = {"w": w, "w_scale": bench.kit.bf16([0.25])}
        found = bench.compile(tensors)
        assert (found["w"].layout, "w_scale" in found) == ("int8", False)
        assert bench.digits() == self.T.tolist()
        assert bench.matrix().scale == scale
        tensors["w"] = w * np.int8(2)
        assert bench.compile(tensors)["w"].reason == "I8 with values from -2 to 2, not -1, 0, 1"

    def test_only_where_the_config_says_so(self, bench: Bench) -> None:
        w = self.T.astype(np.float32)
        found = bench.compile({"w": w, "w_scale": np.full(1, 3, np.float32)})
        assert (found["w"].layout, found["w_scale"].kind) == ("float", "dense")


class TestInt8:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ([-1, 0, 1], "ternary"),
            ([-1, 1], "binary"),
            ([0, 1], "binary"),
            ([-1, 0], "ternary"),
            ([0], "ternary"),
            ([1], "ternary"),
            ([-1], "ternary"),
        ],
    )
    def test_alphabets(self, bench: Bench, values: list[int], kind: str) -> None:
        w = np.resize(np.array(values, np.int8), (37, 13))
        found = bench.one(w)
        assert (found.kind, found.layout, found.scale) == (kind, "int8", "none")
        assert found.k == (5 if kind == "binary" else 3)
        assert bench.digits() == w.tolist()
        assert bench.matrix().scale == 1

    @pytest.mark.parametrize("value", [2, -2, 127, -128])
    def test_other_values(self, bench: Bench, value: int) -> None:
        found = bench.one(np.array([[0, 1, value]], np.int8))
        low, high = min(0, value), max(1, value)
        assert found.reason == f"I8 with values from {low} to {high}, not -1, 0, 1"

    @pytest.mark.parametrize("shape", [(), (3,), (1, 3, 1)])
    def test_other_dimensions(self, bench: Bench, shape: tuple[int, ...]) -> None:
        assert bench.one(np.zeros(shape, np.int8)).reason == f"{len(shape)}-dimensional"

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    @pytest.mark.parametrize(
        ("shape", "words"),
        [((), "per tensor"), ((1,), "per tensor"), ((4,), "per row"), ((4, 1), "per row"),
         ((4, 2), "per row and 64 columns"), ((4, 5), "per row and 20 columns")],
    )  # fmt: skip
    def test_scales(self, bench: Bench, dtype: str, shape: tuple[int, ...], words: str) -> None:
        w = np.resize(np.array([-1, 0, 1, 1, 0, -1, 1], np.int8), (4, 100))
        scale = np.resize(np.array([0.5, 3, 0.25, 2, 0.125]), shape)
        tensors: dict[str, Array | Raw] = {"w": w, "w_scale": bench.kit.cast(scale, dtype)}
        assert bench.compile(tensors)["w"].scale == f"{words}, multiply by w_scale"
        each = np.broadcast_to(scale.reshape(-1, 1), (4, 1)) if scale.ndim < 2 else scale
        wide = np.repeat(each, {1: 100, 2: 64, 5: 20}[each.shape[1]], axis=1)[:, :100]
        assert bench.matrix().to_dense().tolist() == (w * wide).tolist()

    @pytest.mark.parametrize("shape", [(3,), (1, 1), (4, 6), (100,), (4, 2, 1), (2, 2), (4, 0)])
    def test_scales_of_other_shapes_are_refused(self, bench: Bench, shape: tuple[int, ...]) -> None:
        """Not dropped: the matrix would be another."""
        w = np.resize(np.array([-1, 0, 1, 1], np.int8), (4, 100))
        tensors: dict[str, Array | Raw] = {"w": w, "w_scale": np.ones(shape, np.float32)}
        message = re.escape(f"w_scale is F32 {list(shape)}, and beside I8 [4, 100]")
        with pytest.raises(rsrc.SourceError, match=message):
            bench.compile(tensors)
        assert bench.compile(tensors, exclude=["w"])["w"].kind == "dense"

    def test_scales_of_other_values_are_refused(self, bench: Bench) -> None:
        w = np.array([[1, 0, -1]] * 2, np.int8)
        with pytest.raises(rsrc.SourceError, match=r"w_scale is I32 \[1\]"):
            bench.compile({"w": w, "w_scale": np.ones(1, np.int32)})
        with pytest.raises(rsrc.SourceError, match="w_scale: NaN or infinite"):
            bench.compile({"w": w, "w_scale": np.array([1, np.nan], np.float32)})

    def test_other_integers(self, bench: Bench) -> None:
        assert bench.one(np.ones((2, 2), np.int16)).reason == "I16"


FLOATS = pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
# One more than a unit in the last place, and the smallest subnormal, of each type.
STEP = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
TINY = {"F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}


@FLOATS
class TestGroups:
    """Floats with one scale per row and group of columns."""

    @staticmethod
    def grouped(shape: tuple[int, int], columns: int, alphabet: tuple[int, ...]) -> Array:
        """Random digits; in a row every group's scale differs from its neighbor's."""
        rng = np.random.default_rng(columns)
        groups = -(-shape[1] // columns)
        scales = np.array([0.5, 0.75, 3.0])[
            np.add.outer(rng.integers(0, 3, shape[0]), range(groups)) % 3
        ]
        t = rng.choice(np.array(alphabet), shape)
        t[:, ::columns] = alphabet[-1]  # no group without a magnitude
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
        (t,) = (t for t in RsrFile(bench.rsr).header.tensors if t.name == "w")
        assert isinstance(t, IndexedTensor)
        assert t.scale is not None
        assert (t.scale.rows, t.scale.columns, t.scale.dtype) == (1, columns, "F16")

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
        """A group of zeros fits any neighbor; alone, its scale is 0. Negative zeros come back."""
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
        monkeypatch.setattr(floats, "PIECE", 5000)
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
            assert bench.one(w, target=target).packing == "w16"

    def test_inspect(self, bench: Bench, dtype: str) -> None:
        bench.one(bench.kit.cast(self.grouped((4, 100), 64, TERNARY), dtype))
        found = inspect_block(bench.rsr, "w", 22)
        assert found["scale"] == {"rows": 1, "columns": 64, "dtype": "F16"}
        assert (found["scales"], found["blocks"], found["columns"]) == (8, 34, [64, 67])
        assert inspect_block(bench.rsr, "w", 21)["columns"] == [63, 64]


def test_scales_beyond_float16_are_float32(bench: Bench) -> None:
    w = np.repeat(np.array([[1.0, 0.1], [3.0, 1e30]], np.float32), 32, axis=1)
    assert bench.one(w).scale == "per row and 32 columns"
    (t,) = (t for t in RsrFile(bench.rsr).header.tensors if t.name == "w")
    assert isinstance(t, IndexedTensor)
    assert t.scale is not None
    assert t.scale.dtype == "F32"


@FLOATS
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
        """Reads may be short and end inside a row; a panel has few rows."""

        class Short(FileIO):
            def readinto(self, buffer: Any) -> int:
                return super().readinto(buffer[:7])

        original = Path.open

        def short(self: Path, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
            return Short(self) if buffering == 0 else original(self, mode, buffering, **options)

        monkeypatch.setattr(Path, "open", short)
        monkeypatch.setattr(floats, "PIECE", 50)
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
        """A column of any values is 'ternary per row': that would be silly."""
        found = bench.one(bench.kit.cast(np.array([[1.0], [2.0], [0.0]]), dtype))
        assert found.reason == f"{dtype}, not ternary: one column, every value its own scale"
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


def absmean(W: Array) -> tuple[Array, np.float32]:
    """BitNet b1.58's rule as transformers writes it, in float32, with the mean rounded once."""
    mean = np.abs(W.astype(np.float64)).mean().astype(np.float32)
    s = np.float32(1) / np.maximum(mean, np.float32(1e-5))
    t = np.clip(np.round(W.astype(np.float32) * s), -1, 1)  # np.round: half to even
    return t.astype(np.int8), np.float32(1) / s


class TestAbsMean:
    def test_half_to_even(self, bench: Bench) -> None:
        """Half up gives [1, 1, 0, 1] here, half away from zero [1, 1, -1, 1]."""
        w = np.array([[0.5, 1.5, -0.5, 1.5]], np.float32)
        found = bench.compile({"w.weight": w}, quantize="absmean")["w.weight"]
        assert (found.kind, found.layout) == ("ternary", "absmean")
        assert found.scale == "absmean per tensor (post-training, lossy)"
        matrix = bench.matrix("w.weight")
        assert matrix.to_dense(np.int8).tolist() == [[0, 1, 0, 1]]
        assert matrix.scale == 1

    def test_plain(self, bench: Bench) -> None:
        w = np.array([[0.5, -1, 0.2, 0], [1.5, -0.1, 0.75, -0.75]], np.float32)
        bench.compile({"w.weight": w}, quantize="absmean")
        matrix = bench.matrix("w.weight")
        assert matrix.to_dense(np.int8).tolist() == [[1, -1, 0, 0], [1, 0, 1, -1]]
        assert matrix.scale == pytest.approx(0.6, rel=1e-6)

    @FLOATS
    @given(st.data())
    @settings(max_examples=15, deadline=None)
    def test_equals_the_formula(
        self, kit: Kit, scratch: Path, dtype: str, data: st.DataObject
    ) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        shape = data.draw(st.tuples(st.integers(1, 150), st.integers(1, 60)))
        size = data.draw(st.sampled_from((1e-7, 1e-3, 1.0, 100.0)))
        W = rng.standard_normal(shape).astype(np.float32) * np.float32(size)
        if data.draw(st.booleans()):  # many ties: halves of the mean
            W = rng.choice(np.array([0.5, -0.5, 1.5, -1.5, 1, -1]), shape).astype(np.float32)
        if dtype == "BF16":
            W = (W.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        elif dtype == "F16":
            W = W.astype(np.float16).astype(np.float32)
        bench = Bench(kit, scratch)
        option = data.draw(st.sampled_from(({}, {"encoding": "permuted"})))
        found = bench.compile({"l.weight": kit.cast(W, dtype)}, quantize="absmean", **option)
        if found["l.weight"].layout == "absmean":  # a small one may be ternary already
            t, scale = absmean(W)
            np.testing.assert_array_equal(bench.matrix("l.weight").to_dense(np.int8), t)
            assert bench.matrix("l.weight").scale == scale

    def test_names(self, bench: Bench) -> None:
        w = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)
        kept = [
            "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "wte.weight",
            "output.weight", "layers.0.mlp.router.weight", "a.Norm.weight",
        ]  # fmt: skip
        tensors: dict[str, Any] = dict.fromkeys(kept, w)
        tensors |= {"layers.0.q_proj.weight": w, "layers.0.q_proj.lora_A": w, "bias.weight": w[0]}
        found = bench.compile(tensors, quantize="absmean")
        reason = "F32, not ternary: row 0 has several magnitudes; not quantized: "
        by_name = reason + "no linear layer by its name (--include overrides)"
        assert [found[name].reason for name in kept] == [by_name] * len(kept)
        assert found["layers.0.q_proj.weight"].layout == "absmean"
        ending = reason + "the name does not end in 'weight' (--include overrides)"
        assert found["layers.0.q_proj.lora_A"].reason == ending
        assert found["bias.weight"].reason == "1-dimensional"
        assert found["ternary"].layout == "int8"  # nothing is lost where nothing must be

        found = bench.compile(tensors, quantize="absmean", include=["lm_head*", "*lora_A"])
        indexed = [name for name, t in found.items() if t.kind != "dense"]
        assert indexed == ["lm_head.weight", "layers.0.q_proj.lora_A"]
        assert found["ternary"].reason == "not matched by --include"

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, bench: Bench, value: float) -> None:
        w = np.array([[1, 2, value]], np.float32)
        found = bench.compile({"w.weight": w}, quantize="absmean")["w.weight"]
        assert found.reason == "F32 with NaN or infinite values"

    @pytest.mark.parametrize("value", [np.finfo("f4").max, 3.3e38])
    def test_enormous(self, bench: Bench, value: float) -> None:
        w = np.array([[value, -value, value, value / 2]], np.float32)
        bench.compile({"w.weight": w}, quantize="absmean")
        assert bench.matrix("w.weight").to_dense(np.int8).tolist() == [[1, -1, 1, 1]]

    def test_restores_what_was_kept(self, bench: Bench) -> None:
        w = np.array([[0.5, -1, 0.2, 0], [1.5, -0.1, 0.75, -0.75]], np.float32)
        for dtype in ("F32", "F16"):
            bench.compile({"w.weight": bench.kit.cast(w, dtype)}, quantize="absmean")
            names = decompile(bench.rsr, bench.folder / "back.safetensors", force=True)
            assert names == ["w.weight"]
            found = bench.kit.judge(bench.folder / "back.safetensors")["w.weight"]
            t, scale = absmean(w.astype(np.float16) if dtype == "F16" else w)
            assert found == bench.kit.raw(bench.kit.cast(t * scale, dtype))
