"""config.json from GGUF metadata and back; tests/parity compares with transformers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rsr_formats.architectures import takes_int8_activations
from rsrc.common.errors import SourceError
from rsrc.source.gguf.activations import activation_metadata
from rsrc.source.gguf.config import gguf_metadata, hf_config, rope_factors

# microsoft/bitnet-b1.58-2B-4T, without what GGUF cannot store.
BITNET_2B = {
    "architectures": ["BitNetForCausalLM"],
    "model_type": "bitnet",
    "hidden_act": "relu2",
    "vocab_size": 128256,
    "max_position_embeddings": 4096,
    "hidden_size": 2560,
    "num_hidden_layers": 30,
    "intermediate_size": 6912,
    "num_attention_heads": 20,
    "num_key_value_heads": 5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "head_dim": 128,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "attention_bias": False,
    "tie_word_embeddings": True,
}
METADATA_2B = {
    "general.architecture": "bitnet-b1.58",
    "bitnet-b1.58.vocab_size": 128256,
    "bitnet-b1.58.context_length": 4096,
    "bitnet-b1.58.embedding_length": 2560,
    "bitnet-b1.58.block_count": 30,
    "bitnet-b1.58.feed_forward_length": 6912,
    "bitnet-b1.58.attention.head_count": 20,
    "bitnet-b1.58.attention.head_count_kv": 5,
    "bitnet-b1.58.attention.layer_norm_rms_epsilon": 1e-05,
    "bitnet-b1.58.rope.freq_base": 500000.0,
    "bitnet-b1.58.rope.dimension_count": 128,
    "bitnet-b1.58.attention.key_length": 128,
    "bitnet-b1.58.attention.value_length": 128,
    "tokenizer.ggml.bos_token_id": 128000,
    "tokenizer.ggml.eos_token_id": 128001,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama(**changes: Any) -> dict[str, Any]:
    """Return a config.json like Falcon3's: head_dim exceeds hidden_size / num_attention_heads."""
    config = {
        **BITNET_2B,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "head_dim": 256,
        "tie_word_embeddings": False,
    }
    return {key: value for key, value in {**config, **changes}.items() if value is not None}


def back(config: dict[str, Any], factors: Any = None) -> dict[str, Any] | None:
    """Convert a config.json to GGUF metadata and back."""
    tensors = {"token_embd.weight": (config["vocab_size"], config["hidden_size"])}
    if not config["tie_word_embeddings"]:
        tensors["output.weight"] = tensors["token_embd.weight"]
    rope = {} if factors is None else {"rope_freqs.weight": factors}
    return hf_config(gguf_metadata(config), tensors, rope)


def test_metadata_of_the_2b_model() -> None:
    assert gguf_metadata(BITNET_2B) == METADATA_2B


def test_config_of_the_2b_model() -> None:
    """The file stores float32: 1e-05 must not come back as 9.999999747378752e-06."""
    single = {k: np.float32(v) if isinstance(v, float) else v for k, v in METADATA_2B.items()}
    expected = {**BITNET_2B, "input_bits": 8}
    assert hf_config(single, {"token_embd.weight": (128256, 2560)}) == expected


@pytest.mark.parametrize(
    "config",
    [
        llama(),
        llama(rope_theta=1000042.0, rms_norm_eps=1e-06),
        llama(architectures=["Qwen3ForCausalLM"], model_type="qwen3", pad_token_id=3),
        llama(
            architectures=["MiniCPMForCausalLM"],
            model_type="minicpm",
            scale_emb=12.0,
            scale_depth=1.4,
            dim_model_base=256,
        ),
        llama(architectures=["BitnetForCausalLM"], weight_bits=1, input_bits=8, head_dim=128),
    ],
)
def test_there_and_back(config: dict[str, Any]) -> None:
    assert back(config) == config


def test_rope_scaling_of_llama_3_is_a_tensor() -> None:
    config = llama(rope_scaling=LLAMA3, head_dim=64)
    factors = rope_factors(config)
    assert factors is not None
    assert factors.shape == (32,)
    assert factors[0] == 1
    assert factors[-1] == 32
    assert back(config, factors) == config
    assert rope_factors(llama()) is None


def test_factors_that_do_not_fit_say_nothing() -> None:
    config = llama(head_dim=64)
    for factors in (
        np.ones(32, np.float32),
        np.ones(7, np.float32),
        np.full(32, np.nan, np.float32),
        np.zeros(0, np.float32),
    ):
        assert back(config, factors) == config


def test_rope_parameters_as_transformers_5_writes_them() -> None:
    rope = {"rope_theta": 500000.0, "rope_type": "default"}
    new = {k: v for k, v in BITNET_2B.items() if k != "rope_theta"} | {"rope_parameters": rope}
    assert gguf_metadata(new) == METADATA_2B
    new["rope_parameters"] = {**LLAMA3, "rope_theta": 500000.0}
    found, old = rope_factors(new), rope_factors({**BITNET_2B, "rope_scaling": LLAMA3})
    assert found is not None
    assert old is not None
    assert found.tolist() == old.tolist()


def test_several_ends_of_text() -> None:
    found = gguf_metadata({**BITNET_2B, "eos_token_id": [128001, 128009]})
    assert found["tokenizer.ggml.eos_token_id"] == 128001


def test_settings_that_are_missing_or_of_another_type_are_left_out() -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": "long",
        "llama.embedding_length": True,
        "llama.block_count": -1,
        "llama.attention.head_count": np.array([4, 4, 8], np.int32),
        "llama.feed_forward_length": np.array([64, 64], np.int32),
    }
    assert hf_config(metadata, {}) == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "intermediate_size": 64,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "gguf_metadata": {
            "llama.context_length": "long",
            "llama.embedding_length": True,
            "llama.block_count": -1,
            "llama.attention.head_count": "3 values",
        },
    }


@pytest.mark.parametrize("key", ["rope.freq_base", "attention.layer_norm_rms_epsilon"])
@pytest.mark.parametrize("value", [np.float32(np.inf), "1e4", True, [1.0]])
def test_numbers_that_are_none(key: str, value: object) -> None:
    """A default in their place would be another model."""
    with pytest.raises(SourceError, match=f"llama.{key} is not a finite number"):
        hf_config({"general.architecture": "llama", f"llama.{key}": value}, {})


def test_theta_is_llama_cpp_s_if_the_file_has_none() -> None:
    """And not the default of the class, 500000 for BitNet."""
    found = hf_config({"general.architecture": "bitnet-b1.58"}, {})
    assert found is not None
    assert found["rope_theta"] == 10000.0


# --- keys for which there is no setting ---------------------------------------------------------


def unread(**keys: Any) -> dict[str, Any]:
    metadata = {f"llama.{key.replace('__', '.')}": value for key, value in keys.items()}
    sizes = {"llama.attention.key_length": 64, "llama.context_length": 4096}
    found = hf_config({"general.architecture": "llama", **sizes, **metadata}, {})
    assert found is not None
    return {k.removeprefix("llama."): v for k, v in found.get("gguf_metadata", {}).items()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention__scale", 0.5),
        ("attention__sliding_window", 1024),
        ("attention__value_length", 32),
        ("attention__causal", False),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("logit_scale", 0.25),
        ("residual_scale", 0.22),
        ("expert_count", 8),
        ("rope__scaling__yarn_attn_factor", 1.1),
        ("rope__scaling__new_idea", "x"),
        ("attention__key_length", "64"),
        ("rope__dimension_count", 32.0),
        ("rope__dimension_count", "64"),
        ("attention__head_count_kv", "2"),
    ],
)
def test_keys_that_would_change_the_model_are_listed(key: str, value: object) -> None:
    assert unread(**{key: value}) == {key.replace("__", "."): value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention__scale", 0.0),
        ("attention__scale", 0.125),  # 64 ** -0.5, the usual factor
        ("attention__sliding_window", 0),
        ("attention__sliding_window", 4096),  # as long as the context
        ("attention__value_length", 64),
        ("attention__causal", True),
        ("logit_scale", 1.0),
        ("expert_count", 0),
        ("rope__scaling__finetuned", True),
        ("rope__scaling__yarn_attn_factor", 1.0),
        ("pooling_type", 1),
    ],
)
def test_keys_that_change_nothing_are_not_listed(key: str, value: object) -> None:
    assert unread(**{key: value}) == {}


def test_tokens_that_are_no_numbers_are_listed() -> None:
    ends = {"tokenizer.ggml.eos_token_id": "</s>", "tokenizer.ggml.eot_token_id": -1}
    found = hf_config({"general.architecture": "llama", **ends}, {})
    assert found is not None
    assert found["gguf_metadata"] == {"tokenizer.ggml.eos_token_id": "</s>"}


@pytest.mark.parametrize("key", ["feed_forward_length", "attention.head_count_kv"])
def test_layers_of_different_sizes_are_listed(key: str) -> None:
    assert unread(**{key: np.array([2, 2, 4], np.int32)}) == {key: "3 values"}
    assert unread(**{key: np.array([2, 2, 2], np.int32)}) == {}


def test_unknown_keys_of_any_kind_are_listed_short() -> None:
    metadata = {
        "general.architecture": "llama",
        "general.new": "x" * 500,
        "other.array": np.zeros(7, np.float32),
        "tokenizer.ggml.new": True,
        "llama.new": float("nan"),
        "general.name": "known",
        "tokenizer.chat_template.tools": "known",
        **{f"many.{i}": i for i in range(1000)},
    }
    found = hf_config(metadata, {})
    assert found is not None
    listed = found["gguf_metadata"]
    assert list(listed.values())[:4] == ["x" * 80 + "...", "7 values", True, "nan"]
    assert len(listed) == 200
    json.dumps(found, allow_nan=False)


def test_minicpm_without_keys_is_the_2b_model() -> None:
    """Files that are older than the keys, as llama.cpp reads them."""
    metadata = {"general.architecture": "minicpm", "minicpm.block_count": 40}
    found = hf_config(metadata, {})
    assert found is not None
    assert [found[key] for key in ("scale_emb", "scale_depth", "dim_model_base")] == [12, 1.4, 256]


def test_alpha_stretches_the_base_of_hunyuan_only() -> None:
    for architecture in ("hunyuan-dense", "llama"):
        prefix = f"{architecture}."
        metadata = {
            "general.architecture": architecture,
            f"{prefix}rope.scaling.alpha": 50.0,
            f"{prefix}embedding_length": 64,
            f"{prefix}attention.head_count": 4,
        }
        found = hf_config(metadata, {})
        assert found is not None
        if architecture == "llama":
            assert found["gguf_metadata"] == {"llama.rope.scaling.alpha": 50.0}
        else:
            expected = {"rope_type": "dynamic", "factor": 1.0, "alpha": 50.0}
            assert (found["rope_scaling"], "gguf_metadata" in found) == (expected, False)


def test_windows_of_phi3() -> None:
    metadata: dict[str, Any] = {
        "general.architecture": "phi3",
        "phi3.context_length": 4096,
        "phi3.attention.sliding_window": 2047,
        "phi3.rope.scaling.original_context_length": 4096,
    }
    found = hf_config(metadata, {})
    assert found is not None
    assert (found["sliding_window"], "gguf_metadata" in found) == (2047, False)
    assert found["original_max_position_embeddings"] == 4096
    found = hf_config({**metadata, "phi3.attention.sliding_window": 0}, {})  # Phi-4
    assert found is not None
    assert "sliding_window" not in found


@pytest.mark.parametrize("key", ["attention.sliding_window_pattern", "rope.freq_base_swa"])
def test_how_layers_with_windows_differ_is_listed(key: str) -> None:
    name = f"phi3.{key}"
    metadata = {"general.architecture": "phi3", name: 2}
    for window, pattern, listed in ((9, 2, {name: 2}), (9, 0, None), (0, 2, None)):
        keys = {"phi3.attention.sliding_window": window, name: pattern}
        found = hf_config({**metadata, **keys}, {})
        assert found is not None
        assert found.get("gguf_metadata") == listed


def gemma3(**changes: Any) -> dict[str, Any]:
    """Return the config.json of a Gemma 3 by GGUF keys, "." written "__"."""
    keys = {
        "block_count": 4,
        "embedding_length": 5376,
        "attention__head_count": 32,
        "attention__key_length": 128,
        "attention__sliding_window": 512,
        **changes,
    }
    metadata = {f"gemma3.{key.replace('__', '.')}": value for key, value in keys.items()}
    found = hf_config({"general.architecture": "gemma3", **metadata}, {})
    assert found is not None
    return found


FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, {}),  # 6 by default
        (2, {"sliding_window_pattern": 2}),
        (np.array([True, False, True, True]), {"layer_types": [SLIDING, FULL, SLIDING, SLIDING]}),
        (np.array([0, 1, 0, 0, 7], np.uint32), {"layer_types": [FULL, SLIDING, FULL, FULL]}),
    ],
)
def test_windows_of_gemma3(pattern: Any, expected: dict[str, Any]) -> None:
    given = {} if pattern is None else {"attention__sliding_window_pattern": pattern}
    found = gemma3(rope__freq_base_swa=5000.0, attention__value_length_swa=128, **given)
    keys = ("sliding_window_pattern", "layer_types")
    assert {key: found[key] for key in keys if key in found} == expected
    assert (found["sliding_window"], found["rope_local_base_freq"]) == (512, 5000.0)
    assert "gguf_metadata" not in found


def test_gemma3_without_windows() -> None:
    """llama.cpp then rotates all layers alike, whatever the other keys say."""
    found = gemma3(attention__sliding_window=0, rope__freq_base_swa=5000.0)
    assert found["sliding_window_pattern"] == 1
    assert not {"sliding_window", "rope_local_base_freq", "gguf_metadata"} & found.keys()


@pytest.mark.parametrize("pattern", [0, 2.5, "2", np.array([True]), np.array([1.0] * 4)])
def test_patterns_of_windows_that_are_none(pattern: Any) -> None:
    with pytest.raises(SourceError, match=r"^gemma3\.attention\.sliding_window_pattern is .* 4 la"):
        gemma3(attention__sliding_window_pattern=pattern)


def test_what_divides_the_scores_of_gemma3() -> None:
    """The root of head_dim; in the model of 27B, of hidden_size / heads."""
    assert gemma3()["query_pre_attn_scalar"] == 128
    assert gemma3(block_count=62)["query_pre_attn_scalar"] == 168


def test_other_keys_of_windows_are_listed() -> None:
    found = gemma3(attention__key_length_swa=64, rope__freq_base_swa="x")
    assert found["gguf_metadata"] == {
        "gemma3.attention.key_length_swa": 64,
        "gemma3.rope.freq_base_swa": "x",
    }


def test_gemma3_is_not_written() -> None:
    config = {**llama(), "architectures": ["Gemma3ForCausalLM"]}
    with pytest.raises(SourceError, match="GGUF files are read, but not written"):
        gguf_metadata(config)


def test_minicpm_s_scales_are_settings() -> None:
    metadata = {
        "general.architecture": "minicpm",
        "minicpm.embedding_length": 256,
        "minicpm.block_count": 4,
        "minicpm.embedding_scale": 12.0,
        "minicpm.residual_scale": 0.7,
        "minicpm.logit_scale": 2.0,
    }
    found = hf_config(metadata, {})
    assert found is not None
    assert "gguf_metadata" not in found
    found = hf_config({**metadata, "minicpm.logit_scale": "two"}, {})
    assert found is not None
    assert found["gguf_metadata"] == {"minicpm.logit_scale": "two"}


@pytest.mark.parametrize(
    ("keys", "head_dim", "partial"),
    [
        ({"attention.key_length": 64, "rope.dimension_count": 32}, 64, 0.5),
        ({"rope.dimension_count": 16}, 64, 0.25),  # of 256 / 4
        ({"rope.dimension_count": 64}, 64, None),
        ({"attention.key_length": 32, "rope.dimension_count": 64}, 32, 2.0),
    ],
)
def test_features_that_rope_rotates(
    keys: dict[str, int], head_dim: int, partial: float | None
) -> None:
    sizes = {"embedding_length": 256, "attention.head_count": 4}
    metadata = {f"llama.{key}": value for key, value in {**sizes, **keys}.items()}
    found = hf_config({"general.architecture": "llama", **metadata}, {})
    assert found is not None
    assert (found["head_dim"], found.get("partial_rotary_factor")) == (head_dim, partial)


def test_the_share_that_rotates_gives_their_number() -> None:
    for head_dim in range(2, 257):
        for rotated in range(2, head_dim, 2):
            keys = {"llama.attention.key_length": head_dim, "llama.rope.dimension_count": rotated}
            found = hf_config({"general.architecture": "llama", **keys}, {})
            assert found is not None
            assert int(head_dim * found["partial_rotary_factor"]) == rotated


def test_padded_embeddings_count() -> None:
    found = hf_config({**METADATA_2B, "bitnet-b1.58.vocab_size": 5}, {"token_embd.weight": (8, 2)})
    assert found is not None
    assert found["vocab_size"] == 8


def test_unknown_architectures() -> None:
    assert hf_config({"general.architecture": "mamba"}, {}) is None
    assert hf_config({}, {}) is None
    with pytest.raises(SourceError, match="architecture 'Mamba"):
        gguf_metadata({"architectures": ["MambaForCausalLM"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "expected an integer for hidden_size"),
        ({"num_hidden_layers": "30"}, "expected an integer for num_hidden_layers"),
    ],
)
def test_a_config_without_sizes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        gguf_metadata({**BITNET_2B, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {**LLAMA3, "factor": 0}},
        {"rope_scaling": {**LLAMA3, "factor": "8"}},
        {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
        {"rope_scaling": LLAMA3, "rope_theta": -1.0},
        {"rope_scaling": LLAMA3, "head_dim": 1 << 40},
    ],
)
def test_impossible_rope_scaling(change: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="RoPE scaling 'llama3'"):
        rope_factors({**BITNET_2B, **change})


# --- activations --------------------------------------------------------------------------------

INT8, KEPT = "rsr.int8_activations", "rsr.modules_to_not_convert"


def test_activations_come_back() -> None:
    """GGUF has no key for them, so an export writes its own where the architecture misleads."""
    bitnet = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head", "mlp.up_proj"]}
    for config in (
        llama(quantization_config=bitnet),
        llama(quantization_config={"quant_method": "bitnet"}),
        BITNET_2B,  # floats, in transformers
    ):
        plain = {k: v for k, v in config.items() if k != "quantization_config"}
        made = back(plain)
        assert made is not None
        marks = activation_metadata(config, made)
        assert set(marks) >= {INT8}
        found = hf_config({**gguf_metadata(plain), **marks}, {"output.weight": (1, 1)})
        assert found is not None
        assert found.get("quantization_config") == config.get("quantization_config")
        assert takes_int8_activations(found) == takes_int8_activations(config)
        assert activation_metadata(config, found) == {}


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({INT8: 1}, "rsr.int8_activations is not a boolean"),
        ({INT8: True, KEPT: "lm_head"}, "is not a list"),
        ({INT8: True, KEPT: np.zeros(3)}, "is not a list"),
        ({INT8: True, KEPT: [1, 2]}, "is not a list of at most"),
        ({INT8: True, KEPT: ["x"] * 20000}, "is not a list of at most"),
    ],
)
def test_marks_of_activations_that_are_none(marks: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        hf_config({"general.architecture": "llama", **marks}, {})


def test_biases() -> None:
    for name, key in (("attn_k", "attention_bias"), ("ffn_down", "mlp_bias")):
        found = hf_config({"general.architecture": "llama"}, {f"blk.0.{name}.bias": (4,)})
        assert found is not None
        assert found[key] is True
