"""Tensor names of GGUF and Hugging Face, compared with the map of the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from rsr_formats.architectures import ARCHITECTURES, of_config
from rsrc.source.gguf.names import gguf_name, gguf_rows, hf_name, hf_rows, permuted_heads

# Hugging Face names of tensors that all these models have.
COMMON = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.3.post_attention_layernorm.weight",
    *(f"model.layers.3.self_attn.{x}_proj.weight" for x in "qkvo"),
    *(f"model.layers.3.mlp.{x}_proj.weight" for x in ("gate", "up", "down")),
]
OWN = {
    "llama": ["lm_head.weight", "model.layers.1.self_attn.q_proj.bias"],
    "minicpm": ["lm_head.weight"],
    "qwen2": ["lm_head.weight", "model.layers.1.self_attn.k_proj.bias"],
    "qwen3": [f"model.layers.1.self_attn.{x}_norm.weight" for x in "qk"],
    "hunyuan-dense": [f"model.layers.1.self_attn.{x}_layernorm.weight" for x in ("query", "key")],
    "smollm3": ["model.layers.0.input_layernorm.weight"],
    "bitnet": [
        "model.layers.1.self_attn.inner_attn_ln.weight",
        "model.layers.1.mlp.ffn_layernorm.weight",
    ],
}
CASES = [(arch, name) for arch, own in OWN.items() for name in COMMON + own]
# Of models whose layers have other modules.
CASES += [
    ("phi3", f"model.layers.1.{module}.weight")
    for module in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
]
CASES += [
    ("olmo2", f"model.layers.1.{module}.weight")
    for module in (
        "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm",
        "post_feedforward_layernorm",
    )
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_names_are_those_of_the_gguf_package(architecture: str, name: str) -> None:
    enum = next(a for a, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    expected = gguf.get_tensor_name_map(enum, 4).get_name(name, (".weight", ".bias"))
    assert gguf_name(name, architecture) == expected
    assert hf_name(expected, architecture) == name


@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "bitnet-25"])
def test_inner_norms_of_the_2b_model(architecture: str) -> None:
    for own, other in [
        ("blk.7.attn_sub_norm.weight", "model.layers.7.self_attn.attn_sub_norm.weight"),
        ("blk.7.ffn_sub_norm.weight", "model.layers.7.mlp.ffn_sub_norm.weight"),
    ]:
        assert hf_name(own, architecture) == other
        assert gguf_name(other, architecture) == own


@pytest.mark.parametrize(
    "name",
    [
        "rope_freqs.weight",
        "blk.0.ffn_gate_shexp.weight",
        "blk.00.attn_q.weight",  # not another name of layer 0
        "blk.0.attn_q.weight.weight",
        "blk.0.attn_q.scales",
        "blk.\u0663.attn_q.weight",
        "output_norm",
        "",
    ],
)
def test_other_names_stay_as_they_are(name: str) -> None:
    for architecture in ("mamba", *(name for a in ARCHITECTURES for name in a.gguf_names)):
        assert hf_name(name, architecture) == name
    assert gguf_name(name, "llama") == name


@pytest.mark.parametrize("stem", ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"])
def test_experts(stem: str) -> None:
    """One tensor for the experts of a layer: `rsrc.source.stacks` cuts it."""
    name = f"model.layers.2.mlp.experts.{stem.split('_')[1]}_proj.weight"
    assert hf_name(f"blk.2.{stem}.weight", "qwen3moe") == name
    assert hf_name("blk.2.ffn_gate_inp.weight", "qwen3moe") == "model.layers.2.mlp.gate.weight"
    assert hf_name(f"blk.2.{stem}.weight", "qwen3") == f"blk.2.{stem}.weight"


def test_an_unknown_architecture_keeps_its_names() -> None:
    assert hf_name("blk.0.attn_q.weight", "gpt2") == "blk.0.attn_q.weight"
    assert gguf_name("lm_head.weight", "gpt2") == "lm_head.weight"


def test_rows_of_q_and_k_by_hand() -> None:
    """Two heads of four rows: halves (0 1 | 2 3) of a head become pairs (0 2)(1 3)."""
    assert gguf_rows(8, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert hf_rows(8, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert gguf_rows(12, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert hf_rows(12, 2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


@pytest.mark.parametrize(("rows", "heads"), [(2, 1), (24, 3), (256, 4), (96, 48)])
def test_row_orders_undo_each_other(rows: int, heads: int) -> None:
    assert gguf_rows(rows, heads)[hf_rows(rows, heads)].tolist() == list(range(rows))
    assert np.array_equal(np.sort(gguf_rows(rows, heads)), np.arange(rows))


def test_which_rows_are_reordered() -> None:
    assert permuted_heads("blk.0.attn_q.weight", "llama", 8, 2) == 8
    assert permuted_heads("blk.0.attn_k.weight", "llama", 8, 2) == 2
    assert permuted_heads("blk.31.attn_k.bias", "minicpm", 8, 2) == 2
    assert permuted_heads("blk.3.attn_k.weight", "smollm3", 8, 2) == 2
    for name in ("blk.0.attn_v.weight", "blk.0.attn_q_norm.weight", "blk.0.attn_qkv.weight"):
        assert permuted_heads(name, "llama", 8, 2) is None
    others = ("bitnet", "bitnet-b1.58", "qwen2", "qwen3", "gpt2", "hunyuan-dense", "phi3", "olmo2")
    for architecture in others:
        assert permuted_heads("blk.0.attn_q.weight", architecture, 8, 2) is None


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"architectures": ["BitNetForCausalLM"], "model_type": "bitnet"}, "bitnet-b1.58"),
        ({"architectures": ["BitnetForCausalLM"], "model_type": "llama"}, "bitnet"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "llama"),
        ({"model_type": "qwen3"}, "qwen3"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "llama"}, None),
        ({"architectures": "LlamaForCausalLM"}, None),
        ({}, None),
    ],
)
def test_architecture_of_a_config(config: dict[str, object], name: str | None) -> None:
    found = of_config(config)
    assert (None if found is None else found.gguf_names[0]) == name
