"""What is refused, what is named, and what passes: settings and tensors of a model."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from rsr_formats.keys import HARMLESS, UNSUPPORTED, USED, Key, review, review_tensors
from rsr_formats.keys.config import CONFIG, QUANTIZATION, ROPE
from rsr_formats.keys.key import Keys
from rsr_formats.keys.review import changes_arithmetic, look_up

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"]}
SMOLLM3 = {**LLAMA, "architectures": ["SmolLM3ForCausalLM"]}
QWEN3 = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 4}


def refused(config: dict[str, Any] = LLAMA, **changes: Any) -> tuple[str, ...]:
    return review({**config, **changes}, {}).refused


# --- config.json ----------------------------------------------------------------------------------


def test_an_unknown_key_is_named() -> None:
    found = review({**LLAMA, "favorite_color": "blue"}, {})
    assert found.not_understood == ("favorite_color in config.json",)
    assert found.refused == ()


@pytest.mark.parametrize(
    "key",
    [
        "rope_foo", "my_attention_kind", "attn_sinks", "pre_norm", "query_scale", "logit_temper",
        "softcap", "residual_weight", "windowSize", "expertCount", "act_fn", "foo_multiplier",
        "mlp_kind", "use_xnorm_bias", "kv_sharing", "moe_top_k", "v_head_dim",
    ],
)  # fmt: skip
def test_an_unknown_key_that_may_change_arithmetic_is_refused(key: str) -> None:
    found = review({**LLAMA, key: 3}, {})
    assert found.not_understood == (f"{key} in config.json",)
    assert found.refused == (
        f"config.json: {key} is 3, which is not understood and may change the arithmetic",
    )
    assert review({**LLAMA, key: None}, {}).refused == ()  # the same as absent


@pytest.mark.parametrize(
    "key",
    [
        "characters", "factory", "mask_token_id", "activity", "version", "mlp_dropout",
        "attn_pdrop", "attention_dropout_prob", "router_z_loss_coef",
    ],
)  # fmt: skip
def test_names_that_only_look_like_arithmetic(key: str) -> None:
    assert not changes_arithmetic(key)


@pytest.mark.parametrize(
    ("key", "value", "neutral"),
    [
        ("logits_scaling", 8.0, 1.0),
        ("residual_multiplier", 0.2, 1),
        ("final_logit_softcapping", 30.0, None),
        ("is_encoder_decoder", True, False),
        ("num_local_experts", 8, 0),
        ("per_layer_config", {"0": {"head_dim": 3}}, {}),
        ("weight_bits", 2, 1),
        ("input_bits", 4, 8),
        ("text_config", {}, None),
    ],
)
def test_an_unsupported_key_is_refused_unless_neutral(key: str, value: Any, neutral: Any) -> None:
    (reason,) = refused(**{key: value})
    assert reason.startswith(f"config.json: {key} is ")
    assert reason.endswith(f"which is not supported ({CONFIG[key].note})")
    assert refused(**{key: neutral}) == ()


def test_settings_that_ask_for_the_same_are_one_reason() -> None:
    experts = {"num_experts": 4, "moe_intermediate_size": 32}
    [reason] = refused(LLAMA, **experts, num_experts_per_tok=2)
    assert reason.startswith(
        "config.json: num_experts is 4, moe_intermediate_size is 32, num_experts_per_tok is 2, "
        "which are not supported (a mixture"
    )
    exported = review({**LLAMA, "layer_types": ["mamba", "mamba"]}, {}, own_keys=False).refused
    assert exported[0].startswith("config.json: layer_types is a list of 'mamba', which is not")


def test_truth_is_not_one() -> None:
    assert refused(logits_scaling=True)
    assert refused(is_encoder_decoder=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float16", "transformers_version": "5.0", "_name_or_path": "x"},
        {"attention_dropout": 0.1, "initializer_range": 0.02, "pretraining_tp": 2},
        {"pad_token_id": 3, "use_cache": False, "id2label": {"0": "a"}},
        {"quantization": {"group_size": 128, "bits": 2, "model.layers.0.mlp": {"bits": 4}}},
    ],
)
def test_harmless_settings_pass(changes: dict[str, Any]) -> None:
    found = review({**LLAMA, **changes}, {})
    assert (found.refused, found.not_understood) == ((), ())


def test_nothing_is_judged_where_the_architecture_cannot_be_run() -> None:
    for name in ("GPT2LMHeadModel", "T5ForConditionalGeneration"):
        found = review({"architectures": [name], "scale_emb": 12, "rope_x": 1}, {})
        assert (found.refused, found.not_understood) == ((), ())


@pytest.mark.parametrize(
    ("config", "changes", "is_refused"),
    [
        (LLAMA, {"sliding_window": 128}, True),
        (LLAMA, {"sliding_window": 512}, False),
        (LLAMA, {"sliding_window": False}, False),
        (LLAMA, {"sliding_window": 128, "use_sliding_window": False}, False),
        (LLAMA, {"use_sliding_window": True}, True),
        (LLAMA, {"layer_types": ["full_attention", "sliding_attention"]}, True),
        (LLAMA, {"layer_types": ["full_attention"] * 2}, False),
        (LLAMA, {"layer_types": "full_attention"}, False),  # refused by the reader of layers
        (QWEN3, {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 2}, False),
        (QWEN3, {"sliding_window": 128, "layer_types": ["sliding_attention"] * 4}, False),
        (MISTRAL, {"sliding_window": 128}, False),
        (MISTRAL, {"sliding_window": 128, "use_sliding_window": True}, True),  # it does not read it
        (MISTRAL, {"no_rope_layers": [1, 1]}, True),
        (SMOLLM3, {"no_rope_layers": [1, 0], "no_rope_layer_interval": 4}, False),
        (QWEN3, {"layer_types": ["linear_attention"] * 4}, False),  # likewise
        (QWEN3, {"use_qk_norm": True}, False),
        (LLAMA, {"use_qk_norm": True}, True),
    ],
)
def test_settings_that_depend_on_others(
    config: dict[str, Any], changes: dict[str, Any], is_refused: bool
) -> None:
    assert bool(refused(config, **changes)) == is_refused


def test_own_keys_are_judged_as_those_of_other_classes() -> None:
    """For whoever does not understand them, such as an export."""
    windows = {"use_sliding_window": True, "max_window_layers": 2}
    for config, is_refused in (
        ({**QWEN3, **windows, "sliding_window": 128}, True),
        ({**QWEN3, **windows}, False),  # 4096 > 512
        ({**QWEN3, "sliding_window": 128}, False),  # only use_sliding_window makes it one
        ({**MISTRAL, "sliding_window": 128}, True),
        ({**MISTRAL, "sliding_window": None}, False),
        ({**SMOLLM3, "no_rope_layers": [1, 0]}, True),
    ):
        assert bool(review(config, {}, own_keys=False).refused) == is_refused, config


def test_layer_types_are_named() -> None:
    [reason] = refused(LLAMA, layer_types=["full_attention", "sliding_attention"] * 9)
    assert "layer_types is a list of 'full_attention', 'sliding_attention', which" in reason


def test_rope_and_quantization() -> None:
    found = review(
        {
            **LLAMA,
            "rope_parameters": {"rope_type": "default", "spiral": True, "mrope_section": [1, 2]},
            "quantization_config": {"quant_method": "bitnet", "twist": 1, "linear_class": "other"},
        },
        {},
    )
    assert found.refused == (
        "config.json: rope_parameters.spiral is true, which is not understood and may change the "
        "arithmetic",
        "config.json: quantization_config.twist is 1, which is not understood and may change the "
        "arithmetic",
        "config.json: quantization_config.linear_class is 'other', which is not supported (how "
        "weight_scale is applied)",
    )
    assert found.not_understood == (
        "rope_parameters.spiral in config.json",
        "quantization_config.twist in config.json",
    )
    both = {"rope_scaling": {"factor": 2}, "rope_parameters": {"spiral": 1}}
    assert len(refused(**both)) == 1


@pytest.mark.parametrize(
    ("config", "is_refused"),
    [
        ({"group_size": 128, "bits": 2, "lm_head": {"bits": 2}, "model.norm": False}, False),
        ({"group_size": 128, "lm_head": {"bits": 2, "mode": "mxfp4"}}, True),
        ({"group_size": 128, "lm_head": {"bits": 2, "twist": 1}}, True),
        ({"group_size": 128, "act.scale": 3}, True),
        ({"quant_method": "bitnet", "act.scale": 3}, True),
        ({"quant_method": "bitnet", "lm_head": {"bits": 2}}, True),
    ],
)
def test_quantization_of_single_modules(config: dict[str, Any], is_refused: bool) -> None:
    assert bool(refused(quantization_config=config)) == is_refused


@pytest.mark.parametrize("value", [1, 0, "false", []])
def test_flags_are_true_or_false(value: Any) -> None:
    """transformers takes 1 and "false" for true."""
    for part, key in (("quantization_config", "use_rms_norm"), ("rope_parameters", "truncate")):
        (reason,) = refused(**{part: {key: value}})
        assert reason.endswith("expected true or false")


def test_the_model_type_is_that_of_the_class() -> None:
    """transformers chooses the class by it."""
    assert refused(model_type="gemma2") == (
        "config.json: model_type is 'gemma2', but the model_type of LlamaForCausalLM is 'llama'",
    )
    assert refused(model_type="llama") == ()


def test_gguf_metadata() -> None:
    found = review({**LLAMA, "gguf_metadata": {"llama.rope.spiral": 2, "general.color": "x"}}, {})
    assert found.not_understood == (
        "llama.rope.spiral in GGUF metadata",
        "general.color in GGUF metadata",
    )
    assert found.refused == (
        "GGUF metadata: llama.rope.spiral is 2, which is not understood and may change the "
        "arithmetic",
    )


def test_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """GGUF metadata and generation settings are judged by their tables."""
    module = sys.modules["rsr_formats.keys.review"]  # the package has a function of this name
    known = {"a.b": Key(USED, "sets b"), "c": Key(UNSUPPORTED, "bends c", (1,))}
    monkeypatch.setattr(module, "ARCHITECTURE", known)
    monkeypatch.setattr(module, "GENERATION", {"c": known["c"], "d": Key(USED, "")})
    metadata = {"bitnet-b1.58.a.b": "a list", "bitnet-b1.58.c": 2}
    config = {"architectures": ["BitNetForCausalLM"], "gguf_metadata": metadata, "d": 7}
    found = review(config, {"c": 2, "d": 1, "e": 1})
    assert found.refused == (
        "GGUF metadata: bitnet-b1.58.a.b is 'a list', which cannot be used (sets b)",
        "GGUF metadata: bitnet-b1.58.c is 2, which is not supported (bends c)",
    )
    assert found.not_understood == ("e in generation_config.json",)
    assert found.not_applied == ("generation_config.json: c is 2, which is not applied (bends c)",)


def test_prefixes_in_tables() -> None:
    table: Keys = {"a.": Key(HARMLESS, "1"), "a.b.": Key(HARMLESS, "2"), "a.b.c": Key(USED, "3")}
    names = ("a.b.c", "a.b.d", "a.c.b.d", "a", "b.a.", "")
    notes = [None if (k := look_up(table, name)) is None else k.note for name in names]
    assert notes == ["3", "2", "1", None, None, None]


@pytest.mark.parametrize("table", [CONFIG, ROPE, QUANTIZATION])
def test_every_key_says_why(table: Keys) -> None:
    for name, key in table.items():
        assert key.note, name
        assert key.kind in (USED, HARMLESS, UNSUPPORTED)
        assert not key.neutral or key.kind == UNSUPPORTED, name


# --- untrusted ------------------------------------------------------------------------------------


def test_messages_are_short_and_printable() -> None:
    keys = (f"rope_{i}\x1b[31m{'x' * 500}" for i in range(10_000))
    config = {**LLAMA, **dict.fromkeys(keys, "y" * 10_000)}
    found = review(config, config)
    for part in (found.refused, found.not_understood):
        assert len(part) == 51
        assert all(len(text) < 800 and text.isprintable() for text in part)
    assert found.refused[-1] == "and 9950 more"


def test_values_of_any_type() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    values: tuple[Any, ...] = (True, -1, 1e400, float("nan"), "", [], {}, [None], deep, "x" * 99)
    for table, name in ((CONFIG, None), (ROPE, "rope_scaling"), (QUANTIZATION, "quantization")):
        for key in table:
            for value in values:
                config = {key: value} if name is None else {name: {key: value}}
                review({**QWEN3, **config}, {key: value})
    for value in values:
        review({**LLAMA, "gguf_metadata": value, "rope_parameters": value}, {})


# --- tensors --------------------------------------------------------------------------------------


def test_tensors_that_the_layers_do_not_have() -> None:
    found = review_tensors(
        LLAMA,
        [
            "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
            "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.sinks",
            "model.layers.1.self_attn.sinks", "model.layers.0.mlp.up_proj.bias",
            "model.layers.0.mlp.up_proj.rms_norm.weight",
            "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.7.mlp.up_proj.weight",
            "blk.1.attn_rot.weight", "model.embed_norm.weight", "visual.blocks.0.w",
            "visual.blocks.1.w", "rope_freqs.weight", "lm_head.bias",
        ],
    )  # fmt: skip
    assert found.refused == (
        "the layers have self_attn.sinks (tensor model.layers.0.self_attn.sinks), which "
        "LlamaForCausalLM does not have",
        "the layers have mlp.up_proj.bias, but mlp_bias is not true in config.json",
        "the layers have mlp.up_proj.rms_norm.weight, but use_rms_norm is not true in config.json",
        "the file has layer 7, and config.json says num_hidden_layers 2",
        "the layers have attn_rot.weight (tensor blk.1.attn_rot.weight), which LlamaForCausalLM "
        "does not have",
        "the file has model.embed_norm.weight, which is not understood and may change the "
        "arithmetic",
        "the file has lm_head.bias, which is not understood and may change the arithmetic",
    )
    assert "tensor visual.blocks.0.w" in found.not_understood
    assert len(found.not_understood) == 8


@pytest.mark.parametrize("part", ["q", "k", "v", "o", "gate", "up", "down"])
@pytest.mark.parametrize(
    "name", ["Llama", "SmolLM3", "Qwen2", "Qwen3", "Olmo2", "BitNet", "Bitnet", "Mistral"]
)
def test_biases_that_the_class_does_not_have(name: str, part: str) -> None:
    """transformers ignores a setting that a class does not read, and the biases with it."""
    config = {"architectures": [f"{name}ForCausalLM"], "attention_bias": True, "mlp_bias": True}
    module = f"{'self_attn' if part in 'qkvo' else 'mlp'}.{part}_proj"
    refused = review_tensors(config, [f"model.layers.0.{module}.bias"]).refused
    has_bias = {"Llama": "qkvogateupdown", "SmolLM3": "qkvogateupdown", "Qwen2": "qkv"}
    if part in {**has_bias, "Mistral": ""}.get(name, "qkvo"):
        assert refused == ()
    else:
        assert refused[0].endswith(f"which {name}ForCausalLM does not have")


@pytest.mark.parametrize(
    ("architecture", "stem", "is_known"),
    [
        ("LlamaForCausalLM", "self_attn.q_norm.weight", False),
        ("Qwen3ForCausalLM", "self_attn.q_norm.weight", True),
        ("BitNetForCausalLM", "mlp.ffn_sub_norm.weight", True),
        ("BitnetForCausalLM", "mlp.ffn_layernorm.weight", True),
        ("LlamaForCausalLM", "mlp.ffn_layernorm.weight", False),
        ("Qwen2ForCausalLM", "self_attn.k_proj.bias", True),
        ("Qwen2ForCausalLM", "self_attn.o_proj.bias", False),
        ("LlamaForCausalLM", "self_attn.k_proj.bias", False),
        ("LlamaForCausalLM", "mlp.gate_proj.input_scale", False),
        ("LlamaForCausalLM", "mlp.gate_proj.weight_scale", False),  # absorbed, if it is used
    ],
)
def test_tensors_of_architectures(architecture: str, stem: str, is_known: bool) -> None:
    config = {"architectures": [architecture]}
    for prefix in ("model.", "", "model.language_model.", "language_model.model."):
        names = [f"{prefix}layers.0.{stem}", f"{prefix}embed_tokens.weight"]
        assert (review_tensors(config, names).refused == ()) == is_known


def test_layers_that_only_draft_tokens() -> None:
    names = ["model.layers.2.self_attn.q_proj.weight"]
    assert review_tensors(LLAMA, names).refused
    drafts = {**LLAMA, "num_nextn_predict_layers": 1}
    assert not review_tensors(drafts, names).refused
    assert review_tensors(drafts, ["model.layers.3.self_attn.q_proj.weight"]).refused


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("lm_head.norm.weight", True),
        ("lm_head.lora_A.weight", True),
        ("token_embd_norm.weight", True),
        ("logit_scale", True),
        ("layers.1.mlp.up_proj.weight", False),  # of a decoder beside the one that is run
        ("visual.blocks.0.norm.weight", False),
        ("v_head.summary.weight", False),
    ],
)
def test_tensors_outside_the_layers(name: str, is_refused: bool) -> None:
    tensors = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(2)]
    found = review_tensors(LLAMA, [*tensors, name])
    assert found.not_understood == (f"tensor {name}",)
    assert bool(found.refused) == is_refused


def test_biases_of_mlx() -> None:
    names = ["model.layers.0.mlp.up_proj.biases", "model.embed_tokens.biases", "lm_head.biases"]
    assert len(review_tensors(LLAMA, names).refused) == 3
    mlx = {**LLAMA, "quantization": {"group_size": 128, "bits": 2}}
    assert not review_tensors(mlx, names).not_understood
    assert review_tensors(mlx, ["model.layers.0.mlp.up_proj.scales"]).refused
