"""The decoder architectures that are known: the one table for compiler, GGUF and runtime.

All are decoders of the Llama kind: RMS norms before attention and before a gated feed-forward
network, RoPE over halves of a head, grouped-query attention. Names and defaults are those of the
classes in transformers; BitnetForCausalLM is 1bitLLM's own class, MiniCPMForCausalLM OpenBMB's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One class that config.json may name under `architectures`.

    Attributes:
        name: the class.
        model_type: its `model_type` in config.json.
        gguf_names: its values of `general.architecture`; an export writes the first.
        is_runnable: whether the decoder of `rsr_runtime.llm` computes it.
        attn_sub_norm: name within a layer of the norm before o_proj, None without one.
        ffn_sub_norm: name within a layer of the norm before down_proj, None without one.
        has_qk_norms: whether each query and key head has a norm, applied before RoPE.
        permutes_qk: whether GGUF files have the rows of q and k in llama.cpp's order, which rotates
            neighboring pairs instead of halves of a head.
        int8_activations: linear layers take int8 activations whatever config.json says.
        self_quantizing: linear layers quantize float weights in every forward pass.
        hidden_act: activation of the gate. This and the following stand for absent keys.
        num_key_value_heads: None stands for `num_attention_heads`.
        head_dim: None stands for `hidden_size / num_attention_heads`.
        gguf_config: settings of config.json that GGUF metadata have no keys for.
    """

    name: str
    model_type: str
    gguf_names: tuple[str, ...] = ()
    is_runnable: bool = True
    attn_sub_norm: str | None = None
    ffn_sub_norm: str | None = None
    has_qk_norms: bool = False
    permutes_qk: bool = False
    int8_activations: bool = False
    self_quantizing: bool = False
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    gguf_config: Mapping[str, Any] = field(default_factory=dict)


# Where config.json names no class, the first entry of its model_type is meant: 1bitLLM's models,
# which are "llama" with code of their own, always name theirs.
ARCHITECTURES = (
    # HF1BitLLM, Falcon3 and Falcon-E 1.58bit, TriLM
    Architecture("LlamaForCausalLM", "llama", ("llama",), permutes_qk=True),
    # microsoft/bitnet-b1.58-2B-4T; bitnet.cpp first called it bitnet-25
    Architecture(
        "BitNetForCausalLM",
        "bitnet",
        ("bitnet-b1.58", "bitnet-25"),
        attn_sub_norm="self_attn.attn_sub_norm",
        ffn_sub_norm="mlp.ffn_sub_norm",
        int8_activations=True,
        hidden_act="relu2",
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        num_key_value_heads=5,
    ),
    # 1bitLLM/bitnet_b1_58-*
    Architecture(
        "BitnetForCausalLM",
        "llama",
        ("bitnet",),
        attn_sub_norm="self_attn.inner_attn_ln",
        ffn_sub_norm="mlp.ffn_layernorm",
        int8_activations=True,
        self_quantizing=True,
        gguf_config={"weight_bits": 1, "input_bits": 8},
    ),
    # Ternary-Bonsai
    Architecture(
        "Qwen3ForCausalLM",
        "qwen3",
        ("qwen3",),
        has_qk_norms=True,
        max_position_embeddings=32768,
        num_key_value_heads=32,
        head_dim=128,
    ),
    # The same without a head: embedding models
    Architecture(
        "Qwen3Model",
        "qwen3",
        is_runnable=False,
        has_qk_norms=True,
        max_position_embeddings=32768,
        num_key_value_heads=32,
        head_dim=128,
    ),
    # Llama with biases of q, k and v
    Architecture(
        "Qwen2ForCausalLM",
        "qwen2",
        ("qwen2",),
        max_position_embeddings=32768,
        num_key_value_heads=32,
    ),
    Architecture(
        "MiniCPMForCausalLM", "minicpm", ("minicpm",), is_runnable=False, permutes_qk=True
    ),
)

# The matrices of a decoder layer, by their names in it, and the widths that are their out_features
# and in_features: hidden_size, intermediate_size, and the heads of queries and of keys and values
# times head_dim.
PROJECTIONS = {
    "self_attn.q_proj": ("queries", "hidden"),
    "self_attn.k_proj": ("keys", "hidden"),
    "self_attn.v_proj": ("keys", "hidden"),
    "self_attn.o_proj": ("hidden", "queries"),
    "mlp.gate_proj": ("intermediate", "hidden"),
    "mlp.up_proj": ("intermediate", "hidden"),
    "mlp.down_proj": ("hidden", "intermediate"),
}

_BY_GGUF_NAME = {name: a for a in ARCHITECTURES for name in a.gguf_names}


def of_config(config: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture of a config.json, None if it is unknown.

    The first class under `architectures` decides; where none is named, `model_type` does.
    """
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    if named is not None:
        return next((a for a in ARCHITECTURES if a.name == named), None)
    return next((a for a in ARCHITECTURES if a.model_type == config.get("model_type")), None)


def of_gguf(name: object) -> Architecture | None:
    """Return the architecture of a `general.architecture`, None if it is unknown."""
    return _BY_GGUF_NAME.get(name) if isinstance(name, str) else None
