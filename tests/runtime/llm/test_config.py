"""config.json: defaults of each architecture, and files with any content."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from rsr_formats.architectures import ARCHITECTURES, MISSING
from rsr_formats.errors import RsrError
from rsr_runtime.llm import ModelError
from rsr_runtime.llm.config import Config, read_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
BITNET = {
    "quant_method": "bitnet",
    "linear_class": "autobitlinear",
    "quantization_mode": "offline",
    "modules_to_not_convert": None,
}


def read(generation: Any = None, **changes: Any) -> Config:
    """Read a Llama's config.json with changes; what becomes Ellipsis is left out."""
    config = {k: v for k, v in {**LLAMA, **changes}.items() if v is not ...}
    files = {"config.json": json.dumps(config).encode()}
    if generation is not None:
        files["generation_config.json"] = json.dumps(generation).encode()
    return read_config(files)


# --- families ---------------------------------------------------------------------------------

# Defaults of transformers' configuration classes (and 1bitLLM's):
# hidden_act, rms_norm_eps, rope_theta, max_position_embeddings, heads of keys of 40, head_dim.
DEFAULTS = {
    "BitNetForCausalLM": ("relu2", 1e-5, 500000.0, 2048, 5, 32),
    "BitnetForCausalLM": ("silu", 1e-6, 10000.0, 2048, 40, 32),
    "LlamaForCausalLM": ("silu", 1e-6, 10000.0, 2048, 40, 32),
    "Qwen2ForCausalLM": ("silu", 1e-6, 10000.0, 32768, None, 32),
    "Qwen3ForCausalLM": ("silu", 1e-6, 10000.0, 32768, None, 128),
    "MistralForCausalLM": ("silu", 1e-6, 10000.0, 131072, 8, 32),
    "Phi3ForCausalLM": ("silu", 1e-5, 10000.0, 4096, 40, 32),
    "SmolLM3ForCausalLM": ("silu", 1e-6, 2000000.0, 32768, 4, 32),
    "Olmo2ForCausalLM": ("silu", 1e-5, 10000.0, 2048, 40, 32),
}


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_defaults(architecture: str) -> None:
    act, eps, theta, positions, kv_heads, head_dim = DEFAULTS[architecture]
    heads = {} if kv_heads is not None else {"num_key_value_heads": 8}
    c = read(architectures=[architecture], num_attention_heads=40, hidden_size=40 * 32, **heads)
    assert c.architecture.name == architecture
    assert (c.hidden_act, c.rms_norm_eps, c.rope.theta) == (act, eps, theta)
    assert (c.max_position_embeddings, c.num_key_value_heads, c.head_dim) == (
        positions,
        kv_heads or 8,
        head_dim,
    )
    assert (c.tie_word_embeddings, c.scales_biases) == (architecture.startswith("Smol"), False)
    assert "lm_head" not in c.modules_to_not_convert
    assert (c.bos_token_id, c.eos_token_ids) == (None, ())
    assert c.int8_activations == (architecture == "BitnetForCausalLM")


def test_qwen_has_32_key_heads_by_default() -> None:
    for architecture in ("Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        c = read(architectures=[architecture], num_attention_heads=64, hidden_size=2048)
        assert c.num_key_value_heads == 32


def test_norms_that_only_some_families_have() -> None:
    named = {a: read(architectures=[a], num_key_value_heads=4).architecture for a in DEFAULTS}
    assert [a for a, family in named.items() if family.qk_norms] == [
        "Qwen3ForCausalLM",
        "Olmo2ForCausalLM",
    ]
    norms = {a: (f.attn_sub_norm, f.ffn_sub_norm) for a, f in named.items() if f.ffn_sub_norm}
    assert norms == {
        "BitNetForCausalLM": ("self_attn.attn_sub_norm", "mlp.ffn_sub_norm"),
        "BitnetForCausalLM": ("self_attn.inner_attn_ln", "mlp.ffn_layernorm"),
    }


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("bitnet", "BitNetForCausalLM"),
        ("llama", "LlamaForCausalLM"),  # not 1bitLLM's, whose class is always named
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
    ],
)
@pytest.mark.parametrize("classes", [..., None, []])
def test_a_family_by_its_model_type(classes: Any, model_type: str, architecture: str) -> None:
    c = read(architectures=classes, model_type=model_type, num_key_value_heads=4)
    assert c.architecture.name == architecture


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "'GemmaForCausalLM'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "'LlamaForSequenceClassificat"),
        ({"architectures": [["LlamaForCausalLM"]]}, "a list"),
        ({"architectures": [7]}, "7"),
        ({"architectures": "LlamaForCausalLM", "model_type": "t5"}, "'t5'"),
        ({"architectures": ..., "model_type": ...}, "nothing"),
        ({"architectures": ..., "model_type": ["llama"]}, "a list"),
        ({"architectures": ["x" * 10_000]}, "'xxxx"),
    ],
)
def test_an_unknown_architecture_is_named_beside_similar_ones(
    changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(ModelError) as caught:
        read(**changes)
    message = str(caught.value)
    assert f"architecture {found}" in message
    assert ("; similar: '" in message) == ("Gemma" in found or "Llama" in found)
    assert len(message) < 300


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ModelError, match=r"not supported: it has capped scores and logits\. docs"):
        read(architectures=["Gemma2ForCausalLM"])
    assert not {a.name for a in ARCHITECTURES} & MISSING.keys()


@pytest.mark.parametrize("name", ["LlamaModel", "Qwen3Model", "BitNetModel"])
def test_a_base_model_has_no_head(name: str) -> None:
    found = read(architectures=[name], num_key_value_heads=4).architecture
    whole = read(
        architectures=[name.replace("Model", "ForCausalLM")], num_key_value_heads=4
    ).architecture
    assert (found.has_head, whole.has_head) == (False, True)
    assert found == dataclasses.replace(whole, name=name, has_head=False)


# --- sizes ------------------------------------------------------------------------------------


def test_head_dim_is_given_or_derived() -> None:
    assert read().head_dim == 16
    assert read(head_dim=32).head_dim == 32
    assert read(head_dim=None).head_dim == 16
    assert read(head_dim=32).rope.head_dim == 32


def test_key_and_value_heads() -> None:
    assert read().num_key_value_heads == 4
    assert read(num_key_value_heads=None).num_key_value_heads == 4
    assert read(num_key_value_heads=1).num_key_value_heads == 1
    with pytest.raises(
        ModelError, match="num_attention_heads is 4, expected a multiple of num_key_value_heads, 3"
    ):
        read(num_key_value_heads=3)
    with pytest.raises(
        ModelError, match="num_attention_heads is 4, expected a multiple of num_key_value_heads, 8"
    ):
        read(num_key_value_heads=8)


def test_an_odd_head_dim_is_refused() -> None:
    with pytest.raises(ModelError, match="head_dim is 15, expected an even number"):
        read(head_dim=15)


def test_the_largest_head() -> None:
    assert read(head_dim=4096).head_dim == 4096
    with pytest.raises(ModelError, match="head_dim is 4098, expected an even number up to 4096"):
        read(head_dim=4098)


SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
)  # fmt: skip


@pytest.mark.parametrize("key", SIZES)
def test_sizes_have_no_default(key: str) -> None:
    for missing in (..., None):
        with pytest.raises(ModelError, match=f"found nothing under {key}, expected a positive"):
            read(**{key: missing})


@pytest.mark.parametrize(
    "key", [*SIZES, "head_dim", "num_key_value_heads", "max_position_embeddings"]
)
@pytest.mark.parametrize(
    "value", [0, -1, 1 << 31, 10**400, 64.0, math.nan, math.inf, True, "64", [64], {}, [[[[]]]]]
)
def test_invalid_sizes_are_refused(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"under {key}, expected a positive whole number"):
        read(**{key: value})


@pytest.mark.parametrize("value", [-1e-6, math.nan, math.inf, -math.inf, 10**400, False, "x", []])
def test_an_invalid_epsilon_is_refused(value: object) -> None:
    with pytest.raises(ModelError, match="under rms_norm_eps, expected a number from 0 to"):
        read(rms_norm_eps=value)


def test_an_epsilon_may_be_a_whole_number() -> None:
    assert read(rms_norm_eps=0).rms_norm_eps == 0.0


# --- what is refused ----------------------------------------------------------------------------


def test_windows_that_the_class_does_not_know() -> None:
    assert read(sliding_window=4096, use_sliding_window=False)
    assert read(sliding_window=4096)
    with pytest.raises(ModelError, match="use_sliding_window is true, which is not supported"):
        read(use_sliding_window=True)


def test_activations() -> None:
    assert read(hidden_act="swish").hidden_act == "silu"
    assert read(hidden_act="relu2").hidden_act == "relu2"
    assert read(hidden_act="gelu_pytorch_tanh").hidden_act == "gelu_tanh"
    with pytest.raises(ModelError, match="hidden_act 'gelu' is not supported; known are silu"):
        read(hidden_act="gelu")
    with pytest.raises(ModelError, match="found a list under hidden_act, expected a string"):
        read(hidden_act=["silu"])


def test_a_missing_config_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no config\.json.*compile the model's directory"):
        read_config({"tokenizer.json": b"{}"})


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"1", b'"{}"', b"null", b"\xff\xfe", b"[" * 2000, b"1" * 5000],
    ids=lambda data: data[:3],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_invalid_json_is_refused(name: str, data: bytes) -> None:
    files = {"config.json": json.dumps(LLAMA).encode(), name: data}
    with pytest.raises(ModelError, match=f"^{name}") as caught:
        read_config(files)
    assert len(str(caught.value)) < 300


def test_a_huge_config_is_refused() -> None:
    data = json.dumps({**LLAMA, "x": "x" * (16 << 20)}).encode()
    with pytest.raises(ModelError, match=r"config\.json: .* bytes, the limit is 16,777,216"):
        read_config({"config.json": data})


def outcome(function: Callable[..., Config], *arguments: Any, **changes: Any) -> type:
    """Return the type of what was read, or of the error of ours that was raised."""
    try:
        return type(function(*arguments, **changes))
    except RsrError as error:
        return type(error)


def test_values_nested_as_deep_as_json_goes() -> None:
    results = set()
    deep = "[" * 900 + "]" * 900
    keys = ("rope_scaling", "hidden_act", "eos_token_id", "quantization_config", "id2label")
    for key in (*LLAMA, *keys):
        text = json.dumps({**LLAMA, key: "DEEP"}).replace('"DEEP"', deep)
        results.add(outcome(read_config, {"config.json": text.encode()}))
    assert results == {Config, ModelError}  # unused keys may hold anything


def test_any_type_under_any_key() -> None:
    """Every key with every type gives a model or an error of ours."""
    lenient = ("architectures", "tie_word_embeddings")
    keys = (
        *LLAMA, "head_dim", "num_key_value_heads", "rms_norm_eps", "hidden_act", "eos_token_id",
        "bos_token_id", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings",
        "max_position_embeddings", "quantization_config", "partial_rotary_factor",
        "use_sliding_window",
    )  # fmt: skip
    values: tuple[Any, ...] = (
        None, True, False, 0, -1, 1, 1.5, 10**400, math.nan, math.inf, "", "x", [], [None], {},
        {"rope_type": "yarn", "factor": 10**400}, {"type": ["linear"]}, {"quant_method": 3},
        {"quant_method": "bitnet", "modules_to_not_convert": [1, None, "", [], "lm_head"]},
    )  # fmt: skip
    for key in keys:
        found = {outcome(read, **{key: value}) for value in values}
        assert found <= {Config, ModelError}, key
        assert (ModelError in found) == (key not in lenient), key


# --- quantization -------------------------------------------------------------------------------


def test_quantization_config() -> None:
    c = read(quantization_config=BITNET)
    assert c.int8_activations
    assert c.scales_biases
    assert c.has_int8_activations("model.layers.0.mlp.up_proj")
    assert not read(quantization_config={**BITNET, "quantization_mode": "online"}).scales_biases
    assert not read(quantization_config={**BITNET, "linear_class": "bitlinear"}).scales_biases
    with pytest.raises(ModelError, match=r"quantization_config\.quant_method is 'gptq', which is"):
        read(quantization_config={"quant_method": "gptq"})
    assert not read(quantization_config=None).int8_activations
    assert read(quantization_config={**BITNET, "rms_norm_eps": 1e-5}).linear_norm_eps == 1e-5
    assert c.linear_norm_eps == 1e-6
    with pytest.raises(ModelError, match="found 'bitnet' under quantization_config, expected an"):
        read(quantization_config="bitnet")


def test_modules_that_are_not_converted() -> None:
    """A name, a module's name or the end of a name matches, as in transformers."""
    listed = ["lm_head", "model.layers.1", "k_proj.weight", "up_proj", 7, None]
    c = read(quantization_config={**BITNET, "modules_to_not_convert": listed})
    converted = {
        name: c.has_int8_activations(name)
        for name in (
            "lm_head", "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj",
            "model.layers.0.mlp.gate_up_proj",
        )
    }  # fmt: skip
    assert converted == {
        "lm_head": False,
        "model.layers.0.self_attn.k_proj": False,
        "model.layers.0.self_attn.q_proj": True,
        "model.layers.1.self_attn.q_proj": False,
        "model.layers.11.self_attn.q_proj": True,
        "model.layers.0.mlp.gate_up_proj": False,
    }


# --- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (..., None, ()),
        (None, None, ()),
        (2, None, (2,)),
        ([2, 5], None, (2, 5)),
        (2, {"eos_token_id": [7, 8]}, (7, 8)),
        (2, {"eos_token_id": 9}, (9,)),
        (2, {"eos_token_id": None}, (2,)),
        (2, {}, (2,)),
        ([3, -1, 0], None, (3, 0)),
    ],
)
def test_end_tokens(config: Any, generation: Any, expected: tuple[int, ...]) -> None:
    """generation_config.json, which also lists tokens that end a turn, takes precedence."""
    assert read(generation, eos_token_id=config).eos_token_ids == expected


@pytest.mark.parametrize("wrong", [True, -2, 1 << 31, 10**400, 2.0, "</s>", [[3]], [None]])
def test_end_tokens_that_are_none(wrong: Any) -> None:
    for generation, config in (({"eos_token_id": wrong}, 2), (None, wrong)):
        with pytest.raises(ModelError, match="under eos_token_id, expected a token id or a list"):
            read(generation, eos_token_id=config)


def test_the_first_token() -> None:
    assert read(bos_token_id=1).bos_token_id == 1
    assert read(bos_token_id=None).bos_token_id is None
    with pytest.raises(ModelError, match="found '1' under bos_token_id, expected a token id"):
        read(bos_token_id="1")


def test_embeddings_are_tied_only_by_true() -> None:
    assert read(tie_word_embeddings=True).tie_word_embeddings
    for value in (..., None, False, "true", 1):
        assert not read(tie_word_embeddings=value).tie_word_embeddings


@pytest.mark.parametrize("entry", ["(a+)+$", "layers.[01]", "*"])
def test_modules_by_unsupported_expressions_are_refused(entry: str) -> None:
    with pytest.raises(ModelError, match=r"^config\.json: modules_to_not_convert has .*supported"):
        read(quantization_config={**BITNET, "modules_to_not_convert": [entry]})


@pytest.mark.parametrize("entries", ["lm_head", 3, {"lm_head": True}])
def test_modules_that_are_no_list_are_refused(entries: Any) -> None:
    with pytest.raises(ModelError, match=r"modules_to_not_convert is .*, expected a list"):
        read(quantization_config={**BITNET, "modules_to_not_convert": entries})


def test_modules_by_patterns_take_floats() -> None:
    c = read(quantization_config={**BITNET, "modules_to_not_convert": ["model.layers.*.mlp"]})
    assert not c.has_int8_activations("model.layers.3.mlp.up_proj")
    assert c.has_int8_activations("model.layers.3.self_attn.q_proj")
