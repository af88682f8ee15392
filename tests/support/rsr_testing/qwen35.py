"""GGUF files of architecture qwen35, as llama.cpp's converter makes them of transformers' qwen3_5.

The converter tiles the value heads, stores norms as 1 + weight and -exp(A_log), and drops the empty
dimension of the convolution. Prism ML's rotated bases leave the columns of ssm_out as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .gguf_files import architecture_metadata

Array = npt.NDArray[Any]
Stored = tuple[Sequence[int], int, bytes]

F32 = 0
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """Return the GGUF name of a tensor of transformers."""
    if name in _OTHERS:
        return _OTHERS[name]
    _, _, layer, own = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[own]}"


def converted(
    tensors: Mapping[str, Array], config: Mapping[str, Any], rotated: Sequence[str] = ()
) -> dict[str, Array]:
    """Return the tensors of a GGUF file in float32, by GGUF name.

    Args:
        tensors: of transformers, in float32.
        config: config.json.
        rotated: names of tensors in a rotated basis.
    """
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    dv = config["linear_value_head_dim"]
    before = 2 * keys * config["linear_key_head_dim"]

    def tiled(w: Array, start: int, size: int) -> Array:
        heads = w[start:].reshape(keys, values // keys, size, *w.shape[1:]).swapaxes(0, 1)
        return np.concatenate([w[:start], heads.reshape(w[start:].shape)])

    result = {}
    for name, tensor in tensors.items():
        w, own = tensor, gguf_name(name).split(".", 2)[-1]
        if own in ("attn_qkv.weight", "ssm_conv1d.weight"):
            w = tiled(w, before, dv)
        elif own == "attn_gate.weight":
            w = tiled(w, 0, dv)
        elif own in ("ssm_alpha.weight", "ssm_beta.weight", "ssm_dt.bias", "ssm_a"):
            w = tiled(w, 0, 1)
        elif own == "ssm_out.weight" and name not in rotated:
            w = tiled(w.T, 0, dv).T
        if own == "ssm_a":
            w = -np.exp(w)
        elif own == "ssm_conv1d.weight":
            w = w.squeeze(1)
        elif name.endswith("norm.weight") and own != "ssm_norm.weight":
            w = w + np.float32(1)
        result[gguf_name(name)] = np.ascontiguousarray(w, np.float32)
    return result


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the architecture."""
    rope = config["rope_parameters"]
    values = config["linear_num_value_heads"]
    own = {
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": int(config["head_dim"] * rope["partial_rotary_factor"]),
        "rope.dimension_sections": [*rope["mrope_section"], 0],
        "full_attention_interval": 1 + config["layer_types"].index("full_attention"),
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": values,
        "ssm.inner_size": values * config["linear_value_head_dim"],
    }
    return architecture_metadata("qwen35", config, own)


# --- blocks -------------------------------------------------------------------------------------


def plain(w: Array) -> Stored:
    """Store floats."""
    return w.shape, F32, w.astype("<f4").tobytes()


def q2_0(w: Array, width: int = 64, number: int = 42) -> Stored:
    """Store ternary values as Q2_0: a scale, then four codes in each byte."""
    scale, codes = _codes(w, width)
    packed = codes.reshape(len(codes), -1, 4) << np.array([0, 2, 4, 6], np.uint8)
    blocks = np.concatenate([scale, packed.sum(axis=2, dtype=np.uint8)], axis=1)
    return w.shape, number, blocks.tobytes()


def pq2_0(w: Array) -> Stored:
    """Store ternary values as PQ2_0, Q2_0 with 128 weights in a block."""
    return q2_0(w, 128, 142)


def ptq1_0(w: Array) -> Stored:
    """Store ternary values as PTQ1_0: base-3 digits in planes, then a scale."""
    scale, codes = _codes(w, 128)
    parts, first = [], 0
    for width, planes in ((16, 5), (8, 5), (2, 4)):
        trits = codes[:, first : first + width * planes].reshape(len(codes), planes, width)
        powers = 3 ** np.arange(4, 4 - planes, -1)
        numbers = (trits * powers[:, None]).sum(axis=1)
        parts.append(-(-numbers * 256 // 243))
        first += width * planes
    blocks = np.concatenate([np.concatenate(parts, axis=1).astype(np.uint8), scale], axis=1)
    return w.shape, 143, blocks.tobytes()


def _codes(w: Array, width: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the float16 scale of each block as bytes, and its codes."""
    blocks = w.reshape(-1, width)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    codes = np.rint(blocks / np.where(scale == 0, 1, scale)) + 1
    assert ((codes - 1) * scale == blocks).all()
    return scale.astype("<f2").view(np.uint8), codes.astype(np.uint8)
