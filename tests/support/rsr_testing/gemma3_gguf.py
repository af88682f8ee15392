"""GGUF files of Gemma 3, as llama.cpp's converter makes them: it stores norms as 1 + weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .gguf_files import architecture_metadata

Array = npt.NDArray[Any]

_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def converted(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> dict[str, Array]:
    """Return the tensors of a GGUF file in float32, by GGUF name; see `metadata`."""
    result = {}
    for name, w in tensors.items():
        found = _OTHERS.get(name)
        if found is None:
            _, _, layer, own = name.removesuffix(".weight").split(".", 3)
            found = f"blk.{layer}.{_LAYER[own]}.weight"
        shift = np.float32(name.endswith("norm.weight"))
        result[found] = np.ascontiguousarray(w + shift, np.float32)
    return result


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the architecture, for a config.json in transformers 4's spelling."""
    own = {
        "attention.sliding_window": config["sliding_window"],
        "rope.freq_base": float(config["rope_theta"]),
        "rope.freq_base_swa": float(config["rope_local_base_freq"]),
    }
    if (pattern := config["sliding_window_pattern"]) != 6:  # llama.cpp's default
        own["attention.sliding_window_pattern"] = pattern
    if (scaling := config["rope_scaling"]) is not None:
        own["rope.scaling.type"] = scaling["rope_type"]
        own["rope.scaling.factor"] = float(scaling["factor"])
    return architecture_metadata("gemma3", config, own)
