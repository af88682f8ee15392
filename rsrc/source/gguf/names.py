"""Convert tensor names, and the row order of q and k, between GGUF and Hugging Face.

RoPE in llama.cpp rotates neighboring pairs, in transformers the two halves of a head. Therefore
llama.cpp's converter permutes the rows of q and k for some architectures (LlamaModel.permute).
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import ARCHITECTURES, Architecture, QkNorms, of_gguf

Rows = npt.NDArray[np.intp]

_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LINEAR = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# The router, and the tensors of all experts (source/stacks.py)
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_SUFFIXES = ("weight", "bias", "scale", "input_scale")
_FUSED = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
_NUMBER = r"(0|[1-9][0-9]*)"
_GGUF_LAYER = re.compile(rf"blk\.{_NUMBER}\.([a-z0-9_.]+)")
_HF_LAYER = re.compile(rf"model\.layers\.{_NUMBER}\.([A-Za-z0-9_.]+)")
_GGUF_QK = re.compile(rf"blk\.{_NUMBER}\.attn_([qk])\.(weight|bias)")
_GGUF_LINEAR = re.compile(
    rf"output\.weight|blk\.{_NUMBER}\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down))\.weight"
)


def hf_name(name: str, architecture: str) -> str:
    """Return the Hugging Face name of a GGUF tensor, `name` itself if there is none."""
    known = of_gguf(architecture)
    if known is None:
        return name
    if layer := _GGUF_LAYER.fullmatch(name):
        found = _in_layer(layer[2], known)
        return name if found is None else f"model.layers.{layer[1]}.{found}"
    stem, _, suffix = name.rpartition(".")
    return f"{_MODEL[stem]}.{suffix}" if stem in _MODEL else name


def _in_layer(name: str, known: Architecture) -> str | None:
    """Return the Hugging Face name of a tensor within a layer."""
    if name in known.gguf_layer:  # it has no suffix, or another one
        return known.gguf_layer[name]
    stem, _, suffix = name.rpartition(".")
    found = _layer_stems(known).get(stem) if suffix in _SUFFIXES else None
    return None if found is None else f"{found}.{suffix}"


def is_linear(name: str) -> bool:
    """Return whether a GGUF name is that of a linear layer's weight."""
    return _GGUF_LINEAR.fullmatch(name) is not None


def gguf_name(name: str, architecture: str) -> str:
    """Return the GGUF name of a Hugging Face tensor, `name` itself if there is none.

    Both spellings of attn_sub_norm and ffn_sub_norm are recognized for every architecture.
    """
    own = of_gguf(architecture)
    if own is None:
        return name
    if layer := _HF_LAYER.fullmatch(name):
        found = (_in_gguf_layer(layer[2], known) for known in (own, *ARCHITECTURES))
        return next((f"blk.{layer[1]}.{stem}" for stem in found if stem is not None), name)
    stem, _, suffix = name.rpartition(".")
    return next((f"{own}.{suffix}" for own, hf in _MODEL.items() if hf == stem), name)


def _in_gguf_layer(name: str, known: Architecture) -> str | None:
    """Return the GGUF name of a tensor within a layer."""
    names = {hf: gguf for gguf, hf in reversed(_layer_stems(known).items())}
    if name in names:  # it has no suffix, or another one
        return names[name]
    stem, _, suffix = name.rpartition(".")
    return f"{names[stem]}.{suffix}" if stem in names and suffix in _SUFFIXES else None


def permuted_heads(name: str, architecture: str, heads: int, kv_heads: int) -> int | None:
    """Return over how many heads the rows of a GGUF tensor are permuted, None if they are not.

    Args:
        name: the GGUF name; only q and k weights and biases are permuted.
        architecture: `general.architecture`.
        heads: number of query heads.
        kv_heads: number of key and value heads.
    """
    known = of_gguf(architecture)
    found = _GGUF_QK.fullmatch(name)
    if known is None or not known.permutes_qk or not found:
        return None
    return heads if found[2] == "q" else kv_heads


def gguf_rows(rows: int, heads: int) -> Rows:
    """Return the row permutation with gguf = hf[gguf_rows(rows, heads)].

    Args:
        rows: out_features, a multiple of 2 * heads.
        heads: what `permuted_heads` returned.
    """
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def hf_rows(rows: int, heads: int) -> Rows:
    """Return the row permutation with hf = gguf[hf_rows(rows, heads)]; arguments as above."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _layer_stems(known: Architecture) -> dict[str, str]:
    """Return the modules of a layer by their names in GGUF; an export writes the first of two."""
    norms, of_heads = known.norms, known.qk_norms or QkNorms()
    found = {
        **_LINEAR,
        **(_EXPERTS if known.has_experts else {}),
        **{_FUSED[name]: name for name in known.fused},
        "attn_norm": norms.before_mixer,
        "post_attention_norm": norms.after_mixer,
        "ffn_norm": norms.before_mlp,
        "post_ffw_norm": norms.after_mlp,
        "attn_q_norm": of_heads.queries,
        "attn_k_norm": of_heads.keys,
        "attn_sub_norm": known.attn_sub_norm or "self_attn.attn_sub_norm",
        "ffn_sub_norm": known.ffn_sub_norm or "mlp.ffn_sub_norm",
    }
    named = {stem: name for stem, name in found.items() if name is not None}
    return {**known.gguf_layer, **named}
