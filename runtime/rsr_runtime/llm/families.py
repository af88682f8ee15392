"""The architectures that can be run: one decoder, and what each does differently.

All are decoders of the Llama kind: RMS norms before attention and before a gated feed-forward
network, rotary position embeddings over halves of a head, grouped key and value heads. Names and
what an absent key stands for are those of transformers' classes, and of 1bitLLM's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ModelError
from .files import shown


@dataclass(frozen=True)
class Family:
    """One class of config.json's `architectures`."""

    architecture: str
    model_type: str
    attn_sub_norm: str | None = None  # a norm of what attention gives, before o_proj
    ffn_sub_norm: str | None = None  # a norm of what the gate lets through, before down_proj
    has_qk_norms: bool = False  # norms of every query and key head, before rotation
    int8_activations: bool = False  # linear layers take int8 activations, whatever the config says
    self_quantizing: bool = False  # so are float weights quantized, by the model itself
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    num_key_value_heads: int | None = None  # None: as many as there are heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads


FAMILIES = (
    # microsoft/bitnet-b1.58-2B-4T
    Family(
        "BitNetForCausalLM",
        "bitnet",
        attn_sub_norm="self_attn.attn_sub_norm",
        ffn_sub_norm="mlp.ffn_sub_norm",
        int8_activations=True,
        hidden_act="relu2",
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        num_key_value_heads=5,
    ),
    # 1bitLLM/bitnet_b1_58-*: "llama" with code of its own
    Family(
        "BitnetForCausalLM",
        "llama",
        attn_sub_norm="self_attn.inner_attn_ln",
        ffn_sub_norm="mlp.ffn_layernorm",
        int8_activations=True,
        self_quantizing=True,
    ),
    # HF1BitLLM, Falcon3 and Falcon-E 1.58bit, TriLM
    Family("LlamaForCausalLM", "llama"),
    # Ternary-Bonsai
    Family(
        "Qwen3ForCausalLM",
        "qwen3",
        has_qk_norms=True,
        max_position_embeddings=32768,
        num_key_value_heads=32,
        head_dim=128,
    ),
    # Llama with biases of q, k and v
    Family("Qwen2ForCausalLM", "qwen2", max_position_embeddings=32768, num_key_value_heads=32),
)


def find(config: Mapping[str, Any]) -> Family:
    """Return the family of a config.json, by its class or, where none is named, its model type.

    Raises:
        ModelError: it is not known.
    """
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    if named is not None:
        found = next((f for f in FAMILIES if f.architecture == named), None)
    else:
        # Of two with one type the plainer is meant: 1bitLLM's class is always named.
        of_type = [f for f in FAMILIES if f.model_type == config.get("model_type")]
        found = of_type[-1] if of_type else None
    if found is None:
        what = shown(named if named is not None else config.get("model_type"))
        known = ", ".join(f.architecture for f in FAMILIES)
        raise ModelError(
            f"config.json: architecture {what} cannot be run; known are {known}. "
            "Its matrices can be multiplied with: rsr_runtime.load"
        )
    return found
