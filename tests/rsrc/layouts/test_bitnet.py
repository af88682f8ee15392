"""BitNet: packed and unpacked tensors, and whole checkpoints with their config.json."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing.bench import Bench, Reports
from rsr_testing.checkpoints import Kit
from rsrc.inspection.compare import compare

Array = npt.NDArray[Any]

# From transformers (integrations/bitnet.py), and by hand from its formula.
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


def quantization(**config: Any) -> dict[str, Any]:
    return {"quantization_config": config}


class TestPacked:
    @pytest.mark.parametrize(("t", "packed"), PACKED)
    @pytest.mark.parametrize("linear_class", [None, "bitlinear", "autobitlinear"])
    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_packing_and_scale(
        self, bench: Bench, t: Any, packed: Any, linear_class: str | None, dtype: str
    ) -> None:
        if linear_class is not None:
            bench.configure(quantization(linear_class=linear_class))
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
        rule = linear_class or "bitlinear, assumed: not in config.json"
        assert found["w"].scale == f"{verb} by weight_scale ({rule})"

    def test_pack_of_the_tests_is_that_of_transformers(self, kit: Kit) -> None:
        for t, packed in PACKED:
            assert kit.pack(np.array(t)).tolist() == packed
        odd = np.array([[1, 0, -1], [0, 0, 1], [-1, 1, 0], [1, 1, 1], [0, -1, 1]])
        assert kit.pack(odd).tolist() == [[18, 9, 36], [9, 9, 10]]

    def test_short_last_quarter_decodes_as_transformers_does(self, bench: Bench) -> None:
        """Five rows are packed as eight codes: padding is code 0, which reads as the weight -1."""
        packed = np.array([[18, 9, 36], [9, 9, 10]], np.uint8)
        bench.compile({"w": packed, "w_scale": np.ones(1, np.float32)})
        assert bench.digits()[5:] == [[-1, -1, -1]] * 3

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_shape_of_the_scale(self, bench: Bench, shape: tuple[int, ...]) -> None:
        found = bench.compile({"w": np.zeros((1, 2), np.uint8), "w_scale": np.ones(shape, "f4")})
        assert found.keys() == {"odd", "anchor", "w"}

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
        self.check_refused_only_if_config_claims_it(bench, tensors, f"the invalid code 3 {where}")

    def test_code_3_in_a_later_piece(self, bench: Bench) -> None:
        packed = np.full((1100, 1000), 0x55, np.uint8)
        packed[1090, 7] = 0x5D
        found = bench.compile({"w": packed, "w_scale": np.ones(1, "f4")})["w"]
        assert found.reason == "U8, but it holds the invalid code 3 (row 2190, column 7)"

    @pytest.mark.parametrize("value", [0, -1, -0.0, np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_impossible_scale(self, bench: Bench, value: float, dtype: str) -> None:
        scale = bench.kit.cast(np.array([value]), dtype)
        tensors = {"w": np.zeros((1, 1), np.uint8), "w_scale": scale}
        self.check_refused_only_if_config_claims_it(bench, tensors, "expected a finite positive")

    def test_scale_without_a_reciprocal(self, bench: Bench) -> None:
        tensors = {"w": np.zeros((1, 1), np.uint8), "w_scale": np.full(1, 1e-40, "f4")}
        self.check_refused_only_if_config_claims_it(bench, tensors, "overflows float32")

    @staticmethod
    def check_refused_only_if_config_claims_it(
        bench: Bench, tensors: dict[str, Any], reason: str
    ) -> None:
        """Without a BitNet config, it stays dense: it may be in another format."""
        found = bench.compile(tensors)
        assert found["w"].kind == found["w_scale"].kind == "dense"
        assert re.search(reason, str(found["w"].reason))
        bench.configure(quantization(quant_method="bitnet"))
        with pytest.raises(rsrc.SourceError, match=f"^w: a BitNet weight.*{reason}"):
            bench.compile(tensors)
        assert not bench.rsr.exists()
        assert not bench.kit.leftovers(bench.folder)

    def test_another_quant_method(self, bench: Bench) -> None:
        bench.configure(quantization(quant_method="novel"))
        found = bench.compile({"w": np.zeros((1, 1), np.uint8), "w_scale": np.ones(1, "f4")})
        assert found["w"].reason == "U8, but config.json says quant_method 'novel', not 'bitnet'"

    def test_damaged_config(self, bench: Bench) -> None:
        (bench.folder / "config.json").write_text("[1]")
        with pytest.raises(rsrc.SourceError, match=r"config\.json: expected a JSON object"):
            bench.compile({"w": np.zeros((1, 1), np.uint8), "w_scale": np.ones(1, "f4")})

    @pytest.mark.parametrize(
        ("scale", "reason"),
        [
            (None, "U8, but there is no tensor w_scale"),
            (np.ones(2, "f4"), r"U8, but w_scale is F32 [2], expected one float"),
            (np.ones(1, "f8"), r"U8, but w_scale is F64 [1], expected one float"),
            (np.ones(2, "i1"), r"U8, but w_scale is I8 [2], expected one float"),
        ],
    )
    def test_no_scale(self, bench: Bench, scale: Array | None, reason: str) -> None:
        w = np.full((3, 2), 0xFF, np.uint8)  # code 3 everywhere: the scale is checked first
        found = bench.compile({"w": w} if scale is None else {"w": w, "w_scale": scale})
        assert (found["w"].kind, found["w"].reason) == ("dense", reason)
        assert (scale is None) != ("w_scale" in found)

    def test_excluded_weight_leaves_its_scale(self, bench: Bench) -> None:
        tensors: dict[str, Any] = {"w": np.zeros((1, 1), "u1"), "w_scale": np.ones(1, "f4")}
        found = bench.compile(tensors, exclude=["w"])
        assert [found[name].kind for name in ("w", "w_scale")] == ["dense", "dense"]
        found = bench.compile(tensors, include=["w"])  # its scale goes with it
        assert found["w"].kind == "ternary"
        assert "w_scale" not in found


class TestUnpacked:
    T = np.array([[1, 0, -1], [-0.0, 1, 1]])

    @pytest.fixture
    def autobitlinear(self, bench: Bench) -> Bench:
        bench.configure(quantization(quant_method="bitnet", linear_class="autobitlinear"))
        return bench

    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    def test_scale_is_that_of_the_weight_scale(self, autobitlinear: Bench, dtype: str) -> None:
        w, scale = (autobitlinear.kit.cast(np.array(v), dtype) for v in (self.T, [0.25]))
        found = autobitlinear.compile({"w": w, "w_scale": scale})  # -0.0 comes back too
        assert (found["w"].kind, found["w"].layout) == ("ternary", "bitnet-unpacked")
        assert "w_scale" not in found
        assert autobitlinear.digits() == self.T.tolist()
        assert autobitlinear.matrix().scale == np.float32(0.25)

    def test_only_with_a_weight_scale(self, autobitlinear: Bench) -> None:
        assert autobitlinear.compile({"w": self.T.astype(np.float32)})["w"].layout == "float"
        assert autobitlinear.matrix().scale == 1

    @pytest.mark.parametrize(
        ("factor", "scale"),
        [(0.5, 0.5), (0.5, 2), (0.5, 1), (3, 3), (3, 0.33203125), (0.0625, 0.0625 * (1 + 2**-7))],
    )
    @pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
    def test_a_scale_left_over_from_dequantizing(
        self, bench: Bench, factor: float, scale: float, linear_class: str
    ) -> None:
        """The values contain their scale, and weight_scale is that scale, its reciprocal or 1."""
        bench.configure(quantization(quant_method="bitnet", linear_class=linear_class))
        w = (self.T * factor).astype(np.float32)
        found = bench.compile({"w": w, "w_scale": bench.kit.bf16([scale])})
        assert (found["w"].layout, found["w_scale"].kind) == ("float", "dense")
        assert found["w"].scale == "per tensor, weight_scale already applied"
        assert bench.matrix().scale == factor

    @pytest.mark.parametrize(
        ("factors", "scale"),
        [([0.5, 0.5], 3), ([0.5, 0.5], 0.52), ([0.5, 2], 0.5), ([0.5, 0], 0.25), ([2, 4], 2)],
    )
    @pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
    def test_a_scale_that_contradicts_the_values(
        self, bench: Bench, factors: list[float], scale: float, linear_class: str
    ) -> None:
        bench.configure(quantization(quant_method="bitnet", linear_class=linear_class))
        tensors: dict[str, Any] = {
            "w": (self.T * np.array(factors)[:, None]).astype(np.float32),
            "w_scale": np.full(1, scale, np.float32),
        }
        with pytest.raises(
            rsrc.SourceError, match=r"^w: its values .* w_scale multiplies .* is wrong$"
        ):
            bench.compile(tensors)
        bench.configure(quantization(quant_method="bitnet", modules_to_not_convert=["w"]))
        assert bench.compile(tensors)["w"].layout == "float"  # nothing uses the scale

    def test_zeros_fit_any_scale(self, autobitlinear: Bench) -> None:
        tensors: dict[str, Any] = {"w": np.zeros((2, 3), "f4"), "w_scale": np.full(1, 3, "f4")}
        assert autobitlinear.compile(tensors)["w"].layout == "bitnet-unpacked"
        assert autobitlinear.matrix().scale == 3

    @pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
    @pytest.mark.parametrize("dtype", ["i1", "f4"])
    def test_impossible_scale(self, autobitlinear: Bench, value: float, dtype: str) -> None:
        tensors: dict[str, Any] = {"w": self.T.astype(dtype), "w_scale": np.full(1, value, "f4")}
        with pytest.raises(rsrc.SourceError, match=r"^w: a BitNet weight.*expected a finite"):
            autobitlinear.compile(tensors)

    def test_a_master_beside_a_scale_stays_dense(self, autobitlinear: Bench) -> None:
        w = np.array([[1, 0.5, -1]], np.float32)
        found = autobitlinear.compile({"a.weight": w, "a.weight_scale": np.full(1, np.nan, "f4")})
        assert found["a.weight"].reason == (
            "F32, not ternary: row 0 has several magnitudes; but config.json (quant_method bitnet, "
            "quantization_mode offline) says that it is: if it is a master weight, compile with "
            "--quantize absmean"
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
        bench.configure(quantization(**config))
        found = bench.compile({name: np.array([[1, 0.5, -1]], np.float32)})
        assert found[name].reason == "F32, not ternary: row 0 has several magnitudes"

    @pytest.mark.parametrize(("linear_class", "scale"), [("bitlinear", 4), ("autobitlinear", 0.25)])
    def test_int8(self, bench: Bench, linear_class: str, scale: float) -> None:
        bench.configure(quantization(quant_method="bitnet", linear_class=linear_class))
        w = self.T.astype(np.int8)
        tensors: dict[str, Any] = {"w": w, "w_scale": bench.kit.bf16([0.25])}
        found = bench.compile(tensors)
        assert (found["w"].layout, "w_scale" in found) == ("int8", False)
        assert bench.digits() == self.T.tolist()
        assert bench.matrix().scale == scale
        tensors["w"] = w * np.int8(3)
        assert bench.compile(tensors)["w"].reason == "I8 with values from -3 to 3, not -2 to 2"

    def test_only_where_the_config_says_so(self, bench: Bench) -> None:
        w = self.T.astype(np.float32)
        found = bench.compile({"w": w, "w_scale": np.full(1, 3, np.float32)})
        assert (found["w"].layout, found["w_scale"].kind) == ("float", "dense")


# No width is a multiple of 4: 3 heads of 2, one of them for keys and values.
CONFIG: dict[str, Any] = {
    "architectures": ["BitNetForCausalLM"],
    "torch_dtype": "float16",  # files may hold another
    "hidden_size": 6,
    "intermediate_size": 13,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 11,
    "tie_word_embeddings": True,
    "quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": None},
}
SHAPES = {
    "self_attn.q_proj": (6, 6),
    "self_attn.k_proj": (2, 6),
    "self_attn.v_proj": (2, 6),
    "self_attn.o_proj": (6, 6),
    "mlp.gate_proj": (13, 6),
    "mlp.up_proj": (13, 6),
    "mlp.down_proj": (6, 13),
}
# bitnet-b1.58-2B-4T and 1bitLLM have different names for the norms before o_proj and down_proj.
SUB_NORMS = {
    "2B-4T": ("self_attn.attn_sub_norm.weight", "mlp.ffn_sub_norm.weight"),
    "1bitLLM": ("self_attn.inner_attn_ln.weight", "mlp.ffn_layernorm.weight"),
}
UP = "model.layers.0.mlp.up_proj"


class Models:
    """Compiles checkpoints from one file, and from shards in which no scale is with its weight."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit = kit
        self.benches = {name: Bench(kit, folder / name) for name in ("sharded", "single")}
        for bench in self.benches.values():
            bench.folder.mkdir()

    def compile(self, tensors: dict[str, Any], config: dict[str, Any] | None = None) -> Reports:
        """Compile both forms; check that everything comes back, and that both hold the same."""
        sharded, single = (self._compile(form, tensors, config) for form in self.benches)
        assert sharded == single
        return sharded

    def _compile(
        self, form: str, tensors: dict[str, Any], config: dict[str, Any] | None
    ) -> Reports:
        bench = self.benches[form]
        source = bench.folder / "model"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        if config is not None:
            (source / "config.json").write_text(json.dumps(config))
        if form == "sharded":
            scales = {name: t for name, t in tensors.items() if name.endswith("_scale")}
            rest = {name: t for name, t in tensors.items() if name not in scales}
            shards = {"m-1-of-2.safetensors": rest, "m-2-of-2.safetensors": scales}
            self.kit.save_sharded(source, {name: part for name, part in shards.items() if part})
        else:
            self.kit.save(source / "model.safetensors", tensors)
        return bench.compile_source(source)

    def refuse(self, tensors: dict[str, Any], config: dict[str, Any] | None, match: str) -> None:
        for form, bench in self.benches.items():
            with pytest.raises(rsrc.SourceError, match=match):
                self._compile(form, tensors, config)
            assert not bench.rsr.exists()

    def matrix(self, name: str) -> rsr_runtime.Matrix:
        return self.benches["single"].matrix(name)


@pytest.fixture
def models(kit: Kit, tmp_path: Path) -> Models:
    return Models(kit, tmp_path)


def configured(config: dict[str, Any] = CONFIG, **quantization: Any) -> dict[str, Any]:
    return {**config, "quantization_config": {**config["quantization_config"], **quantization}}


def ternary(layers: int = 2) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {
        f"model.layers.{i}.{module}.weight": rng.integers(-1, 2, shape)
        for i in range(layers)
        for module, shape in SHAPES.items()
    }


def packed(kit: Kit, weights: dict[str, Array], scale: float = 4) -> dict[str, Any]:
    tensors: dict[str, Any] = {name: kit.pack(t) for name, t in weights.items()}
    return tensors | {f"{name}_scale": kit.bf16([scale]) for name in weights}


@pytest.mark.parametrize(
    ("linear_class", "scale"), [(None, 0.25), ("bitlinear", 0.25), ("autobitlinear", 4)]
)
@pytest.mark.parametrize("norms", SUB_NORMS.values(), ids=SUB_NORMS)
def test_a_model(
    models: Models, linear_class: str | None, scale: float, norms: tuple[str, str]
) -> None:
    """Odd widths, no head (tied embeddings), sub-norms, a bias, and a norm inside a layer."""
    weights = ternary()
    rng = np.random.default_rng(4)
    dense = {
        "model.embed_tokens.weight": rng.standard_normal((11, 6), np.float32),
        "model.norm.weight": np.ones(6, np.float16),
        f"{UP}.bias": rng.standard_normal(13, np.float32),
        f"{UP}.rms_norm.weight": rng.standard_normal(6, np.float32),
        **{f"model.layers.0.{norm}": np.ones(6, np.float32) for norm in norms},
    }
    config = configured() if linear_class is None else configured(linear_class=linear_class)
    found = models.compile({**dense, **packed(models.kit, weights)}, config)
    assert found.keys() == weights.keys() | dense.keys()
    for name, t in weights.items():
        assert (found[name].kind, found[name].layout, found[name].shape) == (
            "ternary", "bitnet", t.shape,
        )  # fmt: skip
        np.testing.assert_array_equal(models.matrix(name).to_dense(np.int8), t)
        assert models.matrix(name).scale == scale
    for name in dense:
        assert found[name].kind == "dense"
    loaded = rsr_runtime.load(models.benches["single"].rsr)
    np.testing.assert_array_equal(loaded[f"{UP}.bias"], dense[f"{UP}.bias"])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_model_before_packing(models: Models, dtype: str) -> None:
    """Dtype and shape tell, not the config, which is the same: here every weight is a float."""
    weights = ternary()
    tensors: dict[str, Any] = {name: models.kit.cast(t, dtype) for name, t in weights.items()}
    tensors |= {f"{name}_scale": np.array(4, np.float16) for name in weights}  # of shape []
    found = models.compile(tensors, CONFIG)
    for name, t in weights.items():
        assert (found[name].layout, found[name].shape) == ("bitnet-unpacked", t.shape)
        assert models.matrix(name).scale == 0.25


@pytest.mark.parametrize(("head_dim", "widths"), [(None, (6, 2)), (2, (6, 2)), (5, (15, 5))])
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BitNetForCausalLM"])
def test_head_dim(
    models: Models, architecture: str, head_dim: int | None, widths: tuple[int, int]
) -> None:
    """head_dim need not divide hidden_size; the configs of Falcon3 and Qwen3 state it."""
    q, k = (f"model.layers.{{}}.self_attn.{name}_proj.weight" for name in "qk")
    shapes = {q: (widths[0], 6), k: (widths[1], 6)}
    weights = {n.format(i): np.ones(shape, int) for n, shape in shapes.items() for i in range(2)}
    config = {**CONFIG, "architectures": [architecture], "head_dim": head_dim}
    if head_dim is None:
        del config["head_dim"]
    found = models.compile(packed(models.kit, weights), config)
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in weights.items()}
    other = {**config, "head_dim": 3}
    models.refuse(packed(models.kit, weights), other, r"heads 3 x head_dim 3, hidden_size 6\): are")


class TestRowsThatPad:
    """5 x 3 weights in [2, 3] bytes: in the second row, bits 4 to 7 are padding."""

    T = ((1, 0, -1), (0, 0, 1), (-1, 1, 0), (1, 1, 1), (0, -1, 1))
    PACKED = np.array([[18, 9, 36], [9, 9, 10]], np.uint8)
    CONFIG = configured(
        {**CONFIG, "hidden_size": 3, "intermediate_size": 5, "num_hidden_layers": 1}
    )

    def tensors(self, **others: Any) -> dict[str, Any]:
        """Return the weight, its scale and `others`, named by the last part of their names."""
        beside = {f"{UP}.{name}": t for name, t in others.items()}
        scale = np.ones(1, np.float32)
        return {f"{UP}.weight": self.PACKED, f"{UP}.weight_scale": scale, **beside}

    @pytest.mark.parametrize(("config", "bias"), [(CONFIG, None), (CONFIG, 5), (None, 5), ({}, 5)])
    def test_are_cut(self, models: Models, config: dict[str, Any] | None, bias: int | None) -> None:
        others = {} if bias is None else {"bias": np.ones(bias, np.float16)}
        found = models.compile(self.tensors(**others), config)
        assert found[f"{UP}.weight"].shape == (5, 3)
        matrix = models.matrix(f"{UP}.weight")
        assert matrix.to_dense(np.int8).tolist() == [list(row) for row in self.T]
        assert (matrix @ np.ones(3, np.int8)).tolist() == [0, 1, 0, 3, 0]

    def test_are_kept_where_nothing_tells(self, models: Models) -> None:
        for config in (None, {}, {**self.CONFIG, "architectures": ["Novel"]}):
            assert models.compile(self.tensors(), config)[f"{UP}.weight"].shape == (8, 3)

    @pytest.mark.parametrize("rows", range(1, 10))
    def test_of_every_number_of_rows(self, models: Models, rows: int) -> None:
        t = np.random.default_rng(rows).integers(-1, 2, (rows, 3))
        tensors = packed(models.kit, {f"{UP}.weight": t})
        models.compile(tensors, {**self.CONFIG, "intermediate_size": rows})
        np.testing.assert_array_equal(models.matrix(f"{UP}.weight").to_dense(np.int8), t)

    @pytest.mark.parametrize(("row", "shift"), [(1, 4), (0, 6), (1, 6)])
    @pytest.mark.parametrize("code", [1, 2])
    def test_that_hold_weights(self, models: Models, row: int, shift: int, code: int) -> None:
        """Cutting them would change the matrix."""
        tensors = self.tensors()
        tensors[f"{UP}.weight"] = self.PACKED.copy()
        tensors[f"{UP}.weight"][row, 2] |= code << shift
        match = (
            r"up_proj\.weight: a BitNet weight according to config\.json, but config\.json "
            r"\(intermediate_size 5, hidden_size 3\) implies 5 rows, and the rows after them hold "
            r"codes other than 0$"
        )
        models.refuse(tensors, self.CONFIG, match)
        assert models.compile(tensors)[f"{UP}.weight"].shape == (8, 3)
        biased = {**tensors, f"{UP}.bias": np.ones(5, np.float16), "w": np.ones((1, 2), np.int8)}
        found = models.compile(biased)[f"{UP}.weight"]
        assert found.reason == (
            f"U8, but {UP}.bias implies 5 rows, and the rows after them hold codes other than 0"
        )

    @pytest.mark.parametrize("rows", [0, 4, 9, 20])
    def test_a_bias_of_another_length(self, models: Models, rows: int) -> None:
        tensors = self.tensors(bias=np.ones(rows, np.float16))
        match = rf"up_proj\.bias implies {rows} rows, and \[2, 3\] packs 8$"
        models.refuse(tensors, {"quantization_config": {"quant_method": "bitnet"}}, match)

    def test_a_bias_that_contradicts_the_config(self, models: Models) -> None:
        tensors = self.tensors(bias=np.ones(7, np.float16))
        models.refuse(
            tensors, self.CONFIG, r"size 3\) implies 5 rows and .*up_proj\.bias implies 7 rows$"
        )

    def test_other_tensors_named_bias(self, models: Models) -> None:
        """A two-dimensional bias says nothing about the rows."""
        tensors = self.tensors(bias=np.ones((7, 2), np.float32))
        assert models.compile(tensors, self.CONFIG)[f"{UP}.weight"].shape == (5, 3)


@pytest.mark.parametrize(
    ("module", "keys"),
    [
        ("mlp.down_proj", r"\[6, 13\] \(intermediate_size 13, hidden_size 6\)"),
        ("self_attn.k_proj", r"\[2, 6\] \(num_key_value_heads 1 x head_dim 2, hidden_size 6\)"),
    ],
)
def test_packed_shapes_that_contradict_the_config(models: Models, module: str, keys: str) -> None:
    weights = ternary()
    name = f"model.layers.1.{module}.weight"
    for shape in ((20, weights[name].shape[1]), (weights[name].shape[0], 14)):
        tensors = packed(models.kit, {**weights, name: np.ones(shape, int)})
        packs = rf"U8 \[\d, {shape[1]}\] is a matrix of \[\d+, {shape[1]}\]"
        models.refuse(tensors, CONFIG, rf"^{name}: {packs}, but config\.json implies {keys}: are")


def test_codes_a_byte_each_are_not_packed(models: Models) -> None:
    """The shape shows it: four times as many rows as in config.json."""
    weights = ternary()
    tensors = packed(models.kit, weights)
    tensors[f"{UP}.weight"] = (weights[f"{UP}.weight"] + 1).astype(np.uint8)
    models.refuse(tensors, CONFIG, r"up_proj\.weight: U8 \[13, 6\] is a matrix of \[52, 6\], but")


class TestHead:
    """A vocabulary may have more rows than tokens; no row is cut."""

    CONFIG = configured(CONFIG, modules_to_not_convert=[])

    @pytest.mark.parametrize("rows", [12, 16, 64])
    def test_is_ternary_where_the_file_holds_codes(self, models: Models, rows: int) -> None:
        t = np.resize(np.array([0, 1, -1]), (rows, 6))
        tensors = packed(models.kit, {**ternary(), "lm_head.weight": t})
        for config in (CONFIG, self.CONFIG):
            assert models.compile(tensors, config)["lm_head.weight"].shape == (rows, 6)

    def test_needs_a_scale_only_if_it_is_converted(self, models: Models) -> None:
        tensors = {**packed(models.kit, ternary()), "lm_head.weight": np.zeros((3, 6), np.uint8)}
        found = models.compile(tensors, CONFIG)["lm_head.weight"]
        assert found.reason == "U8, but there is no tensor lm_head.weight_scale"
        match = r"^packed weights \(U8\) have no weight_scale.*: 'lm_head\.weight'$"
        models.refuse(tensors, self.CONFIG, match)


def test_weights_that_are_missing(models: Models) -> None:
    """For modules of unknown names, a scale without its weight shows it."""
    tensors = packed(models.kit, {f"block.{i}.fc.weight": np.ones((4, 2), int) for i in range(3)})
    assert len(models.compile(tensors, configured({**CONFIG, "architectures": ["Novel"]}))) == 3
    for i in (0, 2):
        del tensors[f"block.{i}.fc.weight"]
    models.refuse(
        tensors, CONFIG,
        r": weights are missing whose scales are there: 'block\.0\.fc\.weight', 'block\.2\.fc\.w",
    )  # fmt: skip
    found = models.compile(tensors, {})  # it may be in another format
    assert found["block.0.fc.weight_scale"].kind == "dense"


class TestScalesThatAreMissing:
    def test_all_are_named(self, models: Models) -> None:
        tensors = packed(models.kit, ternary())
        for module in ("self_attn.k_proj", "mlp.down_proj"):
            del tensors[f"model.layers.1.{module}.weight_scale"]
        models.refuse(
            tensors, CONFIG,
            r"^packed weights \(U8\) have no weight_scale, without which the values of a BitNet "
            r"weight are unknown: 'model\.layers\.1\.self_attn\.k_proj\.weight', "
            r"'model\.layers\.1\.mlp\.down_proj\.weight'$",
        )  # fmt: skip

    def test_many(self, models: Models) -> None:
        tensors = {f"{i}.weight": np.zeros((1, 1), np.uint8) for i in range(25)}
        match = r"^packed weights .*, '19\.weight' and 5 more$"
        models.refuse(tensors, {"quantization_config": {"quant_method": "bitnet"}}, match)

    @pytest.mark.parametrize("skip", ["up_proj", "model.layers.0.mlp", "model.layers.0"])
    def test_modules_that_are_not_converted_need_none(self, models: Models, skip: str) -> None:
        tensors = packed(models.kit, ternary())
        del tensors[f"{UP}.weight_scale"]
        config = configured(modules_to_not_convert=[skip])
        found = models.compile(tensors, config)
        assert found[f"{UP}.weight"].reason == f"U8, but there is no tensor {UP}.weight_scale"
        models.refuse(tensors, configured(modules_to_not_convert=["lm_head"]), "^packed weights")

    def test_other_bytes_need_none(self, models: Models) -> None:
        tensors = packed(models.kit, ternary())
        tensors["model.mask"] = np.ones((2, 2), np.uint8)
        tensors["model.table.weight"] = np.ones(4, np.uint8)
        found = models.compile(tensors, CONFIG)
        assert (found["model.mask"].kind, found["model.table.weight"].kind) == ("dense", "dense")


def test_a_module_that_is_not_converted_keeps_its_floats(models: Models) -> None:
    """Without that entry config.json says that it is ternary, and the reason says what to do."""
    tensors = packed(models.kit, ternary())
    tensors[f"{UP}.weight"] = np.random.default_rng(1).standard_normal((13, 6), np.float32)
    del tensors[f"{UP}.weight_scale"]
    reason = "F32, not ternary: row 0 has several magnitudes"
    config = configured(modules_to_not_convert=["model.layers.0.mlp.up_proj"])
    assert models.compile(tensors, config)[f"{UP}.weight"].reason == reason
    found = str(models.compile(tensors, CONFIG)[f"{UP}.weight"].reason)
    assert found.startswith(f"{reason}; but config.json")
    assert "--quantize absmean" in found


def test_verify_knows_another_meaning_of_the_scale(kit: Kit, tmp_path: Path) -> None:
    """With the same bytes, one config.json divides by the scale, the other multiplies."""
    t = np.array([[1, -1], [0, 1], [1, 1], [-1, 0]], np.int8)
    tensors: dict[str, Any] = {"a.weight": kit.pack(t), "a.weight_scale": kit.bf16([4.0])}
    for name in ("bitlinear", "autobitlinear"):
        (tmp_path / name).mkdir()
        kit.save(tmp_path / name / "model.safetensors", tensors)
        config = {"quantization_config": {"quant_method": "bitnet", "linear_class": name}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    rsrc.compile(tmp_path / "bitlinear", tmp_path / "x.rsr")
    assert compare(tmp_path / "x.rsr", tmp_path / "bitlinear") == 2
    with pytest.raises(rsrc.MismatchError, match=r"a\.weight: means another scale"):
        compare(tmp_path / "x.rsr", tmp_path / "autobitlinear")
