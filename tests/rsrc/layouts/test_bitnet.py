"""Whole BitNet checkpoints: what config.json and the tensors beside a weight say of it.

Each is compiled from one file and from shards, in which no scale lies with its weight. What comes
back is read by the safetensors library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.compiler.report import TensorReport
from rsrc.export.decompile import compare, decompile

Array = npt.NDArray[Any]
Reports = dict[str, TensorReport]

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
# bitnet-b1.58-2B-4T and 1bitLLM spell the names of the norms before o_proj and down_proj apart.
SUB_NORMS = {
    "2B-4T": ("self_attn.attn_sub_norm.weight", "mlp.ffn_sub_norm.weight"),
    "1bitLLM": ("self_attn.inner_attn_ln.weight", "mlp.ffn_layernorm.weight"),
}
UP = "model.layers.0.mlp.up_proj"


class Models:
    """Compiles checkpoints from one file and from shards."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit, self.folder = kit, folder
        self.rsr = folder / "x.rsr"

    def compile(self, tensors: dict[str, Any], config: dict[str, Any] | None = None) -> Reports:
        """Compile both forms; check that everything comes back, and that both hold the same."""
        found = [self._compile(tensors, config, sharded) for sharded in (True, False)]
        assert found[0] == found[1]
        return found[0]

    def _compile(
        self, tensors: dict[str, Any], config: dict[str, Any] | None, sharded: bool
    ) -> Reports:
        source = self.folder / ("sharded" if sharded else "single")
        source.mkdir(exist_ok=True)
        for old in source.iterdir():
            old.unlink()
        if config is not None:
            (source / "config.json").write_text(json.dumps(config))
        if sharded:
            scales = {name: t for name, t in tensors.items() if name.endswith("_scale")}
            rest = {name: t for name, t in tensors.items() if name not in scales}
            shards = {"m-1-of-2.safetensors": rest, "m-2-of-2.safetensors": scales}
            self.kit.save_sharded(source, {name: part for name, part in shards.items() if part})
        else:
            self.kit.save(source / "model.safetensors", tensors)
        self.rsr.unlink(missing_ok=True)
        report = rsrc.compile(source, self.rsr)
        back = self.folder / "back.safetensors"
        decompile(self.rsr, back, force=True)
        assert self.kit.judge(back) == {name: self.kit.raw(t) for name, t in tensors.items()}
        assert compare(self.rsr, source) == len(tensors)
        return {t.name: t for t in report.tensors}

    def refuse(self, tensors: dict[str, Any], config: dict[str, Any] | None, match: str) -> None:
        for sharded in (True, False):
            with pytest.raises(rsrc.SourceError, match=match):
                self._compile(tensors, config, sharded)
            assert not self.rsr.exists()

    def matrix(self, name: str) -> rsr_runtime.Matrix:
        found = rsr_runtime.load(self.rsr, verify=True)[name]
        assert isinstance(found, rsr_runtime.Matrix)
        return found


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
    """Odd widths, a tied head that is absent, sub-norms, biases, and norms before each layer."""
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
    loaded = rsr_runtime.load(models.rsr)
    np.testing.assert_array_equal(loaded[f"{UP}.bias"], dense[f"{UP}.bias"])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_model_before_packing(models: Models, dtype: str) -> None:
    """The same config, and it is dtype and shape that tell: here every weight is a float."""
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
    """It need be no share of hidden_size (Falcon3's and Qwen3's are stated)."""
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
    """5 x 3 weights in [2, 3] bytes: bits 4 and above of the second row are no weights."""

    T = ((1, 0, -1), (0, 0, 1), (-1, 1, 0), (1, 1, 1), (0, -1, 1))
    PACKED = np.array([[18, 9, 36], [9, 9, 10]], np.uint8)
    CONFIG = configured(
        {**CONFIG, "hidden_size": 3, "intermediate_size": 5, "num_hidden_layers": 1}
    )

    def tensors(self, **others: Any) -> dict[str, Any]:
        """Return the weight, with `others` beside it by the last parts of their names."""
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
        """They would be lost, and the matrix would be another than the file's."""
        tensors = self.tensors()
        tensors[f"{UP}.weight"] = self.PACKED.copy()
        tensors[f"{UP}.weight"][row, 2] |= code << shift
        match = (
            r"up_proj\.weight: a BitNet weight by config\.json, but config\.json \(intermediate_si"
            r"ze 5, hidden_size 3\) says 5 rows, and the bytes hold weights of more"
        )
        models.refuse(tensors, self.CONFIG, match)
        assert models.compile(tensors)[f"{UP}.weight"].shape == (8, 3)
        biased = {**tensors, f"{UP}.bias": np.ones(5, np.float16), "w": np.ones((1, 2), np.int8)}
        found = models.compile(biased)[f"{UP}.weight"]
        assert found.reason == (
            f"U8, but {UP}.bias says 5 rows, and the bytes hold weights of more (codes not 0)"
        )

    @pytest.mark.parametrize("rows", [0, 4, 9, 20])
    def test_a_bias_of_another_length(self, models: Models, rows: int) -> None:
        tensors = self.tensors(bias=np.ones(rows, np.float16))
        match = rf"up_proj\.bias says {rows} rows, and \[2, 3\] packs 8$"
        models.refuse(tensors, {"quantization_config": {"quant_method": "bitnet"}}, match)

    def test_a_bias_that_contradicts_the_config(self, models: Models) -> None:
        tensors = self.tensors(bias=np.ones(7, np.float16))
        models.refuse(
            tensors, self.CONFIG, r"size 3\) says 5 rows and .*up_proj\.bias says 7 rows$"
        )

    def test_other_tensors_named_bias(self, models: Models) -> None:
        """A matrix is none of a layer's outputs."""
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
    """The shape tells: four times as many rows as the config gives it."""
    weights = ternary()
    tensors = packed(models.kit, weights)
    tensors[f"{UP}.weight"] = (weights[f"{UP}.weight"] + 1).astype(np.uint8)
    models.refuse(tensors, CONFIG, r"up_proj\.weight: U8 \[13, 6\] is a matrix of \[52, 6\], but")


class TestHead:
    """A file may give a vocabulary more rows than it has tokens: none is cut."""

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
        match = r"^packed weights \(U8\) have no weight_scale .*: 'lm_head\.weight'$"
        models.refuse(tensors, self.CONFIG, match)


def test_weights_that_are_missing(models: Models) -> None:
    """Of modules with names of their own, a scale that is left shows it."""
    tensors = packed(models.kit, {f"block.{i}.fc.weight": np.ones((4, 2), int) for i in range(3)})
    assert len(models.compile(tensors, configured({**CONFIG, "architectures": ["Novel"]}))) == 3
    for i in (0, 2):
        del tensors[f"block.{i}.fc.weight"]
    models.refuse(
        tensors, CONFIG,
        r": weights are missing whose scales are there: 'block\.0\.fc\.weight', 'block\.2\.fc\.w",
    )  # fmt: skip
    found = models.compile(tensors, {})  # another format's, for all that is known
    assert found["block.0.fc.weight_scale"].kind == "dense"


class TestScalesThatAreMissing:
    def test_all_are_named(self, models: Models) -> None:
        tensors = packed(models.kit, ternary())
        for module in ("self_attn.k_proj", "mlp.down_proj"):
            del tensors[f"model.layers.1.{module}.weight_scale"]
        models.refuse(
            tensors, CONFIG,
            r"^packed weights \(U8\) have no weight_scale beside them, without which a BitNet "
            r"weight is unknown: 'model\.layers\.1\.self_attn\.k_proj\.weight', "
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
    """Without the entry, the config says it is ternary, and the reason says what to do."""
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
    """The bytes are the same, but config.json has one divide by them and the other multiply."""
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
