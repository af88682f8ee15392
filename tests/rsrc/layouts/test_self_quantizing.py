"""Masters that their model quantizes itself: chosen by config.json, never asked for."""

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
from rsrc.inspection.compare import compare

Array = npt.NDArray[Any]

ONLINE = {
    "quantization_config": {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
    },
}  # fmt: skip
ONE_BIT_LLM = {
    "architectures": ["BitnetForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
    "weight_bits": 1, "input_bits": 8,
}  # fmt: skip
WHY = "absmean per tensor, as the model computes: "
SAYS_ONLINE = WHY + "config.json says quantization_mode online"

# The mean is 1: half up would be [1, 1, 0, 1], half away from zero [1, 1, -1, 1].
HALVES = np.array([[0.5, 1.5, -0.5, 1.5]], np.float32)


def master(seed: int, shape: tuple[int, int] = (6, 8)) -> Array:
    """Values that F32, BF16 and F16 all hold."""
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.float32) / 64


class Model:
    """A model directory that is compiled without options."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit, self.folder = kit, folder
        self.rsr = folder / "x.rsr"

    def compile(
        self, config: dict[str, Any], tensors: dict[str, Any], **options: Any
    ) -> dict[str, TensorReport]:
        (self.folder / "config.json").write_text(json.dumps(config))
        self.kit.save(self.folder / "model.safetensors", tensors)
        report = rsrc.compile(self.folder, self.rsr, force=True, **options)
        assert compare(self.rsr, self.folder) == len(tensors)
        return {t.name: t for t in report.tensors}

    def matrix(self, name: str) -> rsr_runtime.Matrix:
        matrix = rsr_runtime.load(self.rsr, verify=True)[name]
        assert isinstance(matrix, rsr_runtime.Matrix)
        return matrix


@pytest.fixture
def model(kit: Kit, tmp_path: Path) -> Model:
    return Model(kit, tmp_path)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
class TestArithmetic:
    def test_half_to_even(self, model: Model, dtype: str) -> None:
        found = model.compile(ONLINE, {"a.weight": model.kit.cast(HALVES, dtype)})["a.weight"]
        assert (found.layout, found.scale) == ("absmean", SAYS_ONLINE)
        assert found.cosine is None  # nothing was lost
        assert model.matrix("a.weight").to_dense(np.int8).tolist() == [[0, 1, 0, 1]]
        assert model.matrix("a.weight").scale == 1

    def test_what_is_ternary_already_is_quantized_too(self, model: Model, dtype: str) -> None:
        """The model divides by the mean magnitude, not by the only one: 2 becomes 1 here."""
        w = np.array([[2, 0, -2, 0]], np.float32)
        tensors = {"a.weight": model.kit.cast(w, dtype), "lm_head.weight": w}
        found = model.compile(ONLINE, tensors)
        assert (found["a.weight"].layout, found["lm_head.weight"].layout) == ("absmean", "float")
        assert model.matrix("a.weight").to_dense().tolist() == [[1, 0, -1, 0]]
        assert model.matrix("lm_head.weight").to_dense().tolist() == [[2, 0, -2, 0]]

    def test_1bitllm(self, model: Model, dtype: str) -> None:
        """Stored as F32 though config.json says float16: what is stored is what is read."""
        tensors = {
            f"model.layers.0.{name}.weight": model.kit.cast(master(i), dtype)
            for i, name in enumerate(("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))
        }
        tensors |= {
            "model.embed_tokens.weight": master(7),
            "model.layers.0.self_attn.inner_attn_ln.weight": np.ones(8, np.float32),
        }
        found = model.compile(ONE_BIT_LLM, tensors)
        words = WHY + "config.json says BitnetForCausalLM with weight_bits 1"
        assert [t.scale for t in found.values()] == [words] * 3 + [None] * 2
        for i, name in enumerate(list(tensors)[:3]):  # each by itself
            W = master(i)
            s = np.float32(1) / np.abs(W).mean(dtype=np.float64).astype(np.float32)
            matrix = model.matrix(name)
            assert matrix.scale == np.float32(1) / s
            t = np.clip(np.rint(W * s), -1, 1)
            np.testing.assert_array_equal(matrix.to_dense(np.int8), t)

    def test_a_norm_inside_the_layer(self, model: Model, dtype: str) -> None:
        """BitNet embedding models: nothing packed, no word of it in config.json."""
        w, norm = model.kit.cast(master(1), dtype), model.kit.cast(np.ones(8), dtype)
        tensors = {
            "layers.0.self_attn.q_proj.weight": w,
            "layers.0.self_attn.q_proj.norm.weight": norm,
            "layers.0.self_attn.q_norm.weight": norm,
            "layers.0.other.weight": w,
            "layers.0.other.norm.weight": model.kit.cast(np.ones(6), dtype),  # of its outputs
            "embed_tokens.weight": w,
        }
        found = model.compile({"model_type": "qwen3"}, tensors)
        assert [t.layout for t in found.values()] == ["absmean"] + [None] * 5
        words = WHY + "a norm of its own makes it a BitLinear layer"
        assert found["layers.0.self_attn.q_proj.weight"].scale == words


class TestWhichTensors:
    NAMES = (
        "model.embed_tokens", "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.up_proj", "model.layers.11.mlp.up_proj", "lm_head",
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("keys", "kept"),
        [
            (..., {"lm_head"}),
            (None, {"lm_head"}),
            ([], set()),  # a list replaces what is kept otherwise
            (["lm_head"], {"lm_head"}),
            (["lm_head.weight"], {"lm_head"}),
            (["model.layers.1"], {"model.layers.1.mlp.up_proj"}),
            (["model.layers.1."], {n for n in NAMES if "layers.1" in n}),  # "." is any letter
            (["layers.1"], set()),  # from the start
            (["up_proj"], {n for n in NAMES if n.endswith("up_proj")}),  # or the end
            (["q_proj", "head"], {"model.layers.0.self_attn.q_proj", "lm_head"}),
            (["model.layers.1.*"], {"model.layers.1.mlp.up_proj", "model.layers.11.mlp.up_proj"}),
            (["model.*.mlp"], {n for n in NAMES if "mlp" in n}),
            (["model"], {n for n in NAMES if n.startswith("model")}),
        ],
    )
    def test_modules_to_not_convert(self, model: Model, keys: Any, kept: set[str]) -> None:
        """As transformers' should_convert_module says; embeddings are no linear layers."""
        quantization = dict(ONLINE["quantization_config"])
        config = {"quantization_config": quantization}
        if keys is not ...:
            quantization |= {"modules_to_not_convert": keys}
        tensors: dict[str, Any] = {f"{n}.weight": master(i) for i, n in enumerate(self.NAMES)}
        tensors["always.weight"] = master(99)
        found = model.compile(config, tensors)
        dense = {n.removesuffix(".weight") for n, t in found.items() if t.kind == "dense"}
        assert dense == kept | {"model.embed_tokens"}

    @pytest.mark.parametrize("key", ["(a+)+$", "layers.[01]", "*", "a.**", "a|b", "\\d"])
    def test_regular_expressions(self, model: Model, key: str) -> None:
        config = {"quantization_config": {**ONLINE["quantization_config"]}}
        config["quantization_config"]["modules_to_not_convert"] = [key]  # type: ignore[assignment]
        with pytest.raises(rsrc.SourceError, match=r"modules_to_not_convert has .* not supported"):
            model.compile(config, {"a.weight": master(1)})
        assert not model.rsr.exists()

    def test_only_weights_of_two_dimensions(self, model: Model) -> None:
        w = master(1)
        tensors = {"a.weight": w, "a.bias": w[0], "a.weight_g": w, "b.weight": w[None]}
        found = model.compile(ONLINE, tensors)
        assert [n for n, t in found.items() if t.kind != "dense"] == ["a.weight"]

    def test_options(self, model: Model) -> None:
        """Filters are obeyed; --quantize is for what no layout claims."""
        tensors = {"a.weight": master(1), "b.weight": master(2), "lm_head.weight": master(3)}
        found = model.compile(ONLINE, tensors, exclude=["a.*"], quantize="twn", include=["*"])
        assert [t.layout for t in found.values()] == [None, "absmean", "twn"]
        assert [t.cosine is None for t in found.values()] == [True, True, False]

    def test_not_finite(self, model: Model) -> None:
        bad = master(2)
        bad[3, 3] = np.nan
        found = model.compile(ONLINE, {"a.weight": master(1), "b.weight": bad})
        assert str(found["b.weight"].reason).startswith("F32 with NaN or infinite values")

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3)])
    def test_nothing_but_zeros(self, model: Model, shape: tuple[int, int]) -> None:
        model.compile(ONLINE, {"a.weight": np.zeros(shape, np.float32)})
        assert model.matrix("a.weight").to_dense(np.int8).shape == shape
        assert not model.matrix("a.weight").to_dense().any()


class TestWhichConfigs:
    @pytest.mark.parametrize(
        "config",
        [
            {"architectures": [], "auto_map": {"AutoModelForCausalLM": "m.BitnetForCausalLM"},
             "weight_bits": 1},
            {"architectures": ["X", "BitnetForCausalLM"], "auto_map": 3, "weight_bits": 1},
            {"quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"}},
        ],
    )  # fmt: skip
    def test_online(self, model: Model, config: dict[str, Any]) -> None:
        assert model.compile(config, {"a.weight": master(1)})["a.weight"].layout == "absmean"

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"quantization_config": {"quant_method": "bitnet"}},
            {"quantization_config": {"quant_method": "bitnet", "quantization_mode": "offline"}},
            {"quantization_config": {"quant_method": "other", "quantization_mode": "online"}},
            {"quantization_config": "online"},
            {**ONE_BIT_LLM, "weight_bits": 2},
            {**ONE_BIT_LLM, "weight_bits": None},
            {**ONE_BIT_LLM, "architectures": ["LlamaForCausalLM"]},
            {**ONE_BIT_LLM, "architectures": "BitnetForCausalLM"},
            {**ONE_BIT_LLM, "quantization_config": {"quant_method": "other"}},
        ],
    )
    def test_not_online(self, model: Model, config: dict[str, Any]) -> None:
        tensors = {"a.weight": master(1), "t.weight": np.array([[1, 0, -1]], np.float32)}
        found = model.compile(config, tensors)
        assert [t.layout for t in found.values()] == [None, "float"]

    def test_the_norm_decides_nothing_where_config_or_scale_do(self, model: Model) -> None:
        tensors = {
            "a.weight": master(1), "a.norm.weight": np.ones(8, np.float32),
            "t.weight": np.array([[1, 0, -1]], np.float32),
        }  # fmt: skip
        offline = {"quantization_config": {"quant_method": "other"}}
        assert model.compile(offline, tensors)["a.weight"].kind == "dense"
        tensors["a.weight_scale"] = np.ones(1, np.float32)
        assert model.compile({}, tensors)["a.weight"].kind == "dense"


def test_sharded(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(ONLINE))
    shards = {
        "model-1.safetensors": {"a.weight": kit.bf16(master(1)), "b.norm.weight": master(2)[0]},
        "model-2.safetensors": {"b.weight": kit.bf16(master(3)), "lm_head.weight": master(4)},
    }
    kit.save_sharded(tmp_path, shards)
    report = rsrc.compile(tmp_path, tmp_path / "x.rsr")
    assert [t.layout for t in report.tensors] == ["absmean", None, "absmean", None]
    assert compare(tmp_path / "x.rsr", tmp_path) == 4
