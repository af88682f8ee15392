"""Masters that their model quantizes itself, recognized without an option."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_testing.bench import Bench, Reports

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
    """Values that are exact in F32, BF16 and F16."""
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.float32) / 64


def compiled(
    bench: Bench, config: dict[str, Any], tensors: dict[str, Any], **options: Any
) -> Reports:
    bench.configure(config)
    return bench.compile(tensors, anchors=False, **options)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
class TestArithmetic:
    def test_half_to_even(self, bench: Bench, dtype: str) -> None:
        found = compiled(bench, ONLINE, {"a.weight": bench.kit.cast(HALVES, dtype)})["a.weight"]
        assert (found.layout, found.scale) == ("absmean", SAYS_ONLINE)
        assert found.cosine is None  # nothing was lost
        assert bench.matrix("a.weight").to_dense(np.int8).tolist() == [[0, 1, 0, 1]]
        assert bench.matrix("a.weight").scale == 1

    def test_what_is_ternary_already_is_quantized_too(self, bench: Bench, dtype: str) -> None:
        """The model divides by the mean magnitude: 2 becomes 1 here."""
        w = np.array([[2, 0, -2, 0]], np.float32)
        tensors = {"a.weight": bench.kit.cast(w, dtype), "lm_head.weight": w}
        found = compiled(bench, ONLINE, tensors)
        assert (found["a.weight"].layout, found["lm_head.weight"].layout) == ("absmean", "float")
        assert bench.matrix("a.weight").to_dense().tolist() == [[1, 0, -1, 0]]
        assert bench.matrix("lm_head.weight").to_dense().tolist() == [[2, 0, -2, 0]]

    def test_1bitllm(self, bench: Bench, dtype: str) -> None:
        """config.json says float16, but the stored dtype counts."""
        tensors = {
            f"model.layers.0.{name}.weight": bench.kit.cast(master(i), dtype)
            for i, name in enumerate(("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))
        }
        tensors |= {
            "model.embed_tokens.weight": master(7),
            "model.layers.0.self_attn.inner_attn_ln.weight": np.ones(8, np.float32),
        }
        found = compiled(bench, ONE_BIT_LLM, tensors)
        words = WHY + "config.json says BitnetForCausalLM with weight_bits 1"
        assert [t.scale for t in found.values()] == [words] * 3 + [None] * 2
        for i, name in enumerate(list(tensors)[:3]):  # each tensor by itself
            W = master(i)
            s = np.float32(1) / np.abs(W).mean(dtype=np.float64).astype(np.float32)
            matrix = bench.matrix(name)
            assert matrix.scale == np.float32(1) / s
            t = np.clip(np.rint(W * s), -1, 1)
            np.testing.assert_array_equal(matrix.to_dense(np.int8), t)

    def test_a_norm_inside_the_layer(self, bench: Bench, dtype: str) -> None:
        """BitNet embedding models: nothing is packed, and config.json says nothing."""
        w, norm = bench.kit.cast(master(1), dtype), bench.kit.cast(np.ones(8), dtype)
        tensors = {
            "layers.0.self_attn.q_proj.weight": w,
            "layers.0.self_attn.q_proj.norm.weight": norm,
            "layers.0.self_attn.q_norm.weight": norm,
            "layers.0.other.weight": w,
            "layers.0.other.norm.weight": bench.kit.cast(np.ones(6), dtype),  # of its outputs
            "embed_tokens.weight": w,
        }
        found = compiled(bench, {"model_type": "qwen3"}, tensors)
        assert [t.layout for t in found.values()] == ["absmean"] + [None] * 5
        words = WHY + "the norm inside the layer makes it a BitLinear layer"
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
            ([], set()),  # a list replaces the default
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
    def test_modules_to_not_convert(self, bench: Bench, keys: Any, kept: set[str]) -> None:
        """As transformers' should_convert_module decides; embeddings are not linear layers."""
        quantization = dict(ONLINE["quantization_config"])
        config = {"quantization_config": quantization}
        if keys is not ...:
            quantization |= {"modules_to_not_convert": keys}
        tensors: dict[str, Any] = {f"{n}.weight": master(i) for i, n in enumerate(self.NAMES)}
        tensors["always.weight"] = master(99)
        found = compiled(bench, config, tensors)
        dense = {n.removesuffix(".weight") for n, t in found.items() if t.kind == "dense"}
        assert dense == kept | {"model.embed_tokens"}

    @pytest.mark.parametrize("key", ["(a+)+$", "layers.[01]", "*", "a.**", "a|b", "\\d"])
    def test_regular_expressions(self, bench: Bench, key: str) -> None:
        config = {"quantization_config": {**ONLINE["quantization_config"]}}
        config["quantization_config"]["modules_to_not_convert"] = [key]  # type: ignore[assignment]
        with pytest.raises(rsrc.SourceError, match=r"modules_to_not_convert has .* not supported"):
            compiled(bench, config, {"a.weight": master(1)})
        assert not bench.rsr.exists()

    def test_only_weights_of_two_dimensions(self, bench: Bench) -> None:
        w = master(1)
        tensors = {"a.weight": w, "a.bias": w[0], "a.weight_g": w, "b.weight": w[None]}
        found = compiled(bench, ONLINE, tensors)
        assert [n for n, t in found.items() if t.kind != "dense"] == ["a.weight"]

    def test_options(self, bench: Bench) -> None:
        """--include and --exclude apply; --quantize is for tensors that no layout claims."""
        tensors = {"a.weight": master(1), "b.weight": master(2), "lm_head.weight": master(3)}
        found = compiled(bench, ONLINE, tensors, exclude=["a.*"], quantize="twn", include=["*"])
        assert [t.layout for t in found.values()] == [None, "absmean", "twn"]
        assert [t.cosine is None for t in found.values()] == [True, True, False]

    def test_not_finite(self, bench: Bench) -> None:
        bad = master(2)
        bad[3, 3] = np.nan
        found = compiled(bench, ONLINE, {"a.weight": master(1), "b.weight": bad})
        assert str(found["b.weight"].reason).startswith("F32 with NaN or infinite values")

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3)])
    def test_nothing_but_zeros(self, bench: Bench, shape: tuple[int, int]) -> None:
        compiled(bench, ONLINE, {"a.weight": np.zeros(shape, np.float32)})
        assert bench.matrix("a.weight").to_dense(np.int8).shape == shape
        assert not bench.matrix("a.weight").to_dense().any()


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
    def test_online(self, bench: Bench, config: dict[str, Any]) -> None:
        assert compiled(bench, config, {"a.weight": master(1)})["a.weight"].layout == "absmean"

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
    def test_not_online(self, bench: Bench, config: dict[str, Any]) -> None:
        tensors = {"a.weight": master(1), "t.weight": np.array([[1, 0, -1]], np.float32)}
        found = compiled(bench, config, tensors)
        assert [t.layout for t in found.values()] == [None, "float"]

    def test_config_and_scale_take_precedence_over_the_norm(self, bench: Bench) -> None:
        tensors = {
            "a.weight": master(1), "a.norm.weight": np.ones(8, np.float32),
            "t.weight": np.array([[1, 0, -1]], np.float32),
        }  # fmt: skip
        offline = {"quantization_config": {"quant_method": "other"}}
        assert compiled(bench, offline, tensors)["a.weight"].kind == "dense"
        tensors["a.weight_scale"] = np.ones(1, np.float32)
        assert compiled(bench, {}, tensors)["a.weight"].kind == "dense"


def test_sharded(bench: Bench) -> None:
    bench.configure(ONLINE)
    bf16 = bench.kit.bf16
    shards: dict[str, Any] = {
        "model-1.safetensors": {"a.weight": bf16(master(1)), "b.norm.weight": master(2)[0]},
        "model-2.safetensors": {"b.weight": bf16(master(3)), "lm_head.weight": master(4)},
    }
    bench.kit.save_sharded(bench.folder, shards)
    reports = bench.compile_source(bench.folder)
    assert [t.layout for t in reports.values()] == ["absmean", None, "absmean", None]
