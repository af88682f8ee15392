"""The model architectures whose GGUF names, row order and settings are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One value of `general.architecture`, and what Hugging Face calls the same model."""

    name: str
    hf_class: str
    model_type: str
    hidden_act: str = "silu"
    permuted: bool = False  # rows of q and k: llama.cpp rotates neighbors, not halves of a head
    attn_sub_norm: str = "self_attn.attn_sub_norm"
    ffn_sub_norm: str = "mlp.ffn_sub_norm"
    extra: Mapping[str, Any] = field(default_factory=dict)  # further settings of config.json


_ALL = (
    Architecture("llama", "LlamaForCausalLM", "llama", permuted=True),
    Architecture("minicpm", "MiniCPMForCausalLM", "minicpm", permuted=True),
    Architecture("qwen2", "Qwen2ForCausalLM", "qwen2"),
    Architecture("qwen3", "Qwen3ForCausalLM", "qwen3"),
    # microsoft/bitnet-b1.58-2B-4T; bitnet-25 is what bitnet.cpp called it first.
    Architecture("bitnet-b1.58", "BitNetForCausalLM", "bitnet", "relu2"),
    Architecture("bitnet-25", "BitNetForCausalLM", "bitnet", "relu2"),
    # 1bitLLM/bitnet_b1_58: Llama with code of its own.
    Architecture(
        "bitnet",
        "BitnetForCausalLM",
        "llama",
        attn_sub_norm="self_attn.inner_attn_ln",
        ffn_sub_norm="mlp.ffn_layernorm",
        extra={"weight_bits": 1, "input_bits": 8},
    ),
)

ARCHITECTURES = {a.name: a for a in _ALL}


def of_config(config: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture of a config.json, by its class or else its model type."""
    classes = config.get("architectures")
    names = classes if isinstance(classes, list) else []
    for known in _ALL:
        if known.hf_class in names:
            return known
    if names:
        return None
    return next((a for a in _ALL if a.model_type == config.get("model_type")), None)
