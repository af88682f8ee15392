"""Convert between config.json of Hugging Face and the settings in GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import (
    ARCHITECTURES,
    first_class,
    nearest,
    of_config,
    of_gguf,
    without_head,
)
from rsr_formats.experts import experts_of
from rsr_formats.text import listed, shown

from ...common.errors import SourceError
from .activations import apply_activations
from .pooling import has_head
from .rope import LLAMA3, THETA, Factors, Rope, llama3_factors, rope_scaling
from .tokenizer_common import SPECIAL_TOKENS
from .unread import unread
from .value_heads import ValueHeads
from .values import number_of, whole_of

# Key of config.json: key of the metadata, after "<architecture>.".
_INTEGERS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
}
# The same of an architecture with experts.
_EXPERTS = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_FLOATS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_BIASES = {
    "attention_bias": ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"),
    "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down"),
}
_TOKENS = ("bos_token", "eos_token", "pad_token")
_REQUIRED = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")

_ORIGINAL = "original_max_position_embeddings"
_MAX_HEAD_DIM = 1 << 16
_MAX_LAYERS = 1 << 15  # a file has no more tensors
_INTERVAL = 4  # llama.cpp's default
_MIXERS = ("full_attention", "linear_attention")
_WINDOWS = ("full_attention", "sliding_attention")
_GEMMA_27B_LAYERS = 62
# The multipliers of the only model when GGUF had no keys for them.
_MINICPM_2B = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}


def hf_config(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, ...]],
    rope_tensors: Mapping[str, Factors] | None = None,
) -> dict[str, Any] | None:
    """Return the config.json of a GGUF model, None if its architecture is unknown.

    Sizes that are absent from the metadata, or have another type, are left out. Keys that may
    change the model, and that no setting stands for, are listed under "gguf_metadata".

    Args:
        metadata: numbers as int and float, arrays as sequences.
        tensors: shapes by GGUF name, (out_features, in_features) of matrices.
        rope_tensors: those of `rope.ROPE_TENSORS` that there are. A `rope_scaling` in the result
            replaces them.

    Raises:
        SourceError: a key has a value that it cannot have.
    """
    name = metadata.get("general.architecture")
    known = of_gguf(name)
    if known is None:
        return None
    if not has_head(metadata):
        known = without_head(known)
    prefix = f"{name}."
    config: dict[str, Any] = {
        "architectures": [known.name],
        "model_type": known.model_type,
        "hidden_act": known.hidden_act,
        **known.gguf_config,
    }
    for own, key in (_INTEGERS | (_EXPERTS if known.has_experts else {})).items():
        config[own] = whole_of(metadata.get(prefix + key))
    for own, key in _FLOATS.items():
        config[own] = number_of(metadata.get(prefix + key))
        if config[own] is None and prefix + key in metadata:
            raise SourceError(f"{prefix}{key} is not a finite number")
    drafts = whole_of(metadata.get(prefix + "nextn_predict_layers"))
    if drafts and (config["num_hidden_layers"] or 0) > drafts:
        config["num_hidden_layers"] -= drafts
        config["num_nextn_predict_layers"] = drafts
    if config["rope_theta"] is None:
        config["rope_theta"] = THETA
    embedding = tensors.get("token_embd.weight", ())
    if len(embedding) == 2:  # the metadata may count tokens without padding
        config["vocab_size"] = embedding[0]
    if config["num_key_value_heads"] is None:
        config["num_key_value_heads"] = config["num_attention_heads"]
    config["head_dim"] = head_dim = _head_dim(metadata, prefix, config)
    rotated = whole_of(metadata.get(prefix + "rope.dimension_count"))
    if head_dim and rotated is not None and rotated != head_dim:
        config["partial_rotary_factor"] = _share(rotated, head_dim)
    for token in _TOKENS:
        config[f"{token}_id"] = whole_of(metadata.get(SPECIAL_TOKENS[token]))
    for own, names in _BIASES.items():
        config[own] = any(f"blk.0.{name}.bias" in tensors for name in names) or None
    config["attention_bias"] = bool(config["attention_bias"])
    config["tie_word_embeddings"] = "output.weight" not in tensors
    if "sliding_window" in known.own_keys:  # 0: none
        config["sliding_window"] = (
            whole_of(metadata.get(prefix + "attention.sliding_window")) or None
        )
    if "sliding_window_pattern" in known.own_keys:
        config.update(_kinds_of_windows(metadata, prefix, config))
    if known.attention_factor is not None:
        config[known.attention_factor.key] = _attention_size(config)
    if _ORIGINAL in known.own_keys:
        config[_ORIGINAL] = whole_of(metadata.get(f"{prefix}rope.scaling.original_context_length"))
    rope = Rope(rotated or head_dim, config["rope_theta"], config["max_position_embeddings"])
    scaling = rope_scaling(metadata, prefix, rope, rope_tensors or {}, known.rope_keys)
    config["rope_scaling"] = scaling
    delta = ValueHeads.of_metadata(metadata, prefix)
    if delta is not None:
        config.update(delta.settings)
        config["layer_types"] = _layer_types(metadata, prefix, config["num_hidden_layers"] or 0)
    if known.model_type == "minicpm":
        config.update(_minicpm_config(metadata, prefix, config))
    apply_activations(config, metadata)
    config["gguf_metadata"] = unread(metadata, prefix, config) or None
    return {key: value for key, value in config.items() if value is not None}


def _share(rotated: int, head_dim: int) -> float:
    """Return the share of a head that makes int(head_dim * share) the rotated features."""
    share = rotated / head_dim
    return share if int(head_dim * share) == rotated else math.nextafter(share, math.inf)


def gguf_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `general.architecture` and the settings of a GGUF file for a config.json.

    RoPE scaling is left out (see `rsrc.export.gguf.rope`), and the absence of a tensor
    output.weight expresses tied embeddings.

    Args:
        config: config.json as transformers 4 or 5 writes it.

    Raises:
        SourceError: the architecture is unknown, or a setting is missing or not a number.
    """
    known = of_config(config)
    if known is None or not known.gguf_names:
        found = first_class(config) or config.get("model_type")
        raise SourceError(
            f"config.json: architecture {shown(found)}, for which GGUF has no names"
            + nearest(found, (a.name for a in ARCHITECTURES if a.gguf_names))
        )
    if "rope_local_base_freq" in known.own_keys:
        raise SourceError(
            f"config.json: architecture {known.name}, whose GGUF files are read, but not written"
        )
    name = known.gguf_names[0]
    prefix = f"{name}."
    missing = [name for name in _REQUIRED if whole_of(config.get(name)) is None]
    if missing:
        raise SourceError(f"config.json: expected an integer for {', '.join(missing)}")
    rope = _rope(config)
    result: dict[str, Any] = {"general.architecture": name}
    for own, key in _INTEGERS.items():
        if (value := whole_of(config.get(own))) is not None:
            result[prefix + key] = value
    for own, key in _FLOATS.items():
        if (number := number_of(rope.get(own, config.get(own)))) is not None:
            result[prefix + key] = number
    result.setdefault(prefix + _INTEGERS["num_key_value_heads"], int(config["num_attention_heads"]))
    head_dim = _hf_head_dim(config)
    result[prefix + "rope.dimension_count"] = head_dim
    result[prefix + "attention.key_length"] = head_dim
    result[prefix + "attention.value_length"] = head_dim
    for token in _TOKENS:
        found = config.get(f"{token}_id")
        found = whole_of(found[0] if isinstance(found, list) and found else found)
        if found is not None:
            result[SPECIAL_TOKENS[token]] = found
    if known.model_type == "minicpm":
        result.update(_minicpm_metadata(config, prefix))
    if known.has_experts:
        result.update(_expert_metadata(config, prefix))
    if known.delta_net is not None:
        heads = ValueHeads.of_config(config, known.delta_net)
        result.update({prefix + key: size for key, size in heads.metadata.items()})
        result.update(_mixer_metadata(known.layer_types(config), prefix, config))
    return result


def _mixer_metadata(kinds: object, prefix: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return which layers have a gated delta net: an interval if there is one, else all.

    Args:
        kinds: what `Architecture.layer_types` returned.
        prefix: of the architecture's keys, with its dot.
        config: config.json.

    Raises:
        SourceError: there are other kinds of layers, or not as many as layers.
    """
    layers = int(config["num_hidden_layers"])
    if not isinstance(kinds, list) or not kinds or any(kind not in _MIXERS for kind in kinds):
        raise SourceError(f"config.json: layer_types is {shown(kinds)}, expected {listed(_MIXERS)}")
    if config.get("layer_types") is not None and len(kinds) != layers:
        raise SourceError(
            f"config.json: layer_types has {len(kinds)} entries, expected {layers}, one for each "
            "layer"
        )
    interval = kinds.index(_MIXERS[0]) + 1 if _MIXERS[0] in kinds else layers + 1
    if all((kind == _MIXERS[0]) == ((i + 1) % interval == 0) for i, kind in enumerate(kinds)):
        return {prefix + "full_attention_interval": interval}
    return {prefix + "attention.recurrent_layers": [kind == _MIXERS[1] for kind in kinds]}


def _expert_metadata(config: Mapping[str, Any], prefix: str) -> dict[str, int]:
    """Return the settings of experts.

    Raises:
        SourceError: a setting is invalid, or one that llama.cpp does not have.
    """
    try:
        experts = experts_of(config)
    except ValueError as error:
        raise SourceError(str(error)) from None
    assert experts is not None
    if not experts.norm_topk_prob:
        raise SourceError(
            "config.json: norm_topk_prob is not true, and llama.cpp always divides the weights of "
            "the chosen experts by their sum"
        )
    if not all(map(experts.are_in, range(min(int(config["num_hidden_layers"]), 1 << 16)))):
        raise SourceError(
            "config.json: layers without experts (decoder_sparse_step, mlp_only_layers), and in "
            "llama.cpp all layers have them"
        )
    return {prefix + key: getattr(experts, own) for own, key in _EXPERTS.items()}


def rope_factors(config: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
    """Return rope_freqs.weight, float32 (head_dim / 2,), or None without Llama 3's RoPE scaling.

    Raises:
        SourceError: a setting of the scaling is not a number, or out of range.
    """
    rope = _rope(config)
    if rope.get("rope_type", rope.get("type")) != "llama3":
        return None
    factor = number_of(rope.get("factor"))
    defaults = {**LLAMA3}
    if (positions := whole_of(config.get("max_position_embeddings"))) is not None:
        defaults["original_max_position_embeddings"] = positions
    low, high, original = (number_of(rope.get(name, defaults[name])) for name in LLAMA3)
    theta = number_of(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    head_dim = _hf_head_dim(config)
    if not (factor and original and theta and low is not None and high is not None):
        raise SourceError(
            "config.json: a setting of RoPE scaling 'llama3' is not a number, or is 0"
        )
    if theta < 0 or high <= low or head_dim > _MAX_HEAD_DIM:
        raise SourceError(
            f"config.json: unsupported RoPE scaling 'llama3' with rope_theta {theta}, "
            f"low_freq_factor {low}, high_freq_factor {high} and head_dim {head_dim}"
        )
    return llama3_factors(theta, head_dim, factor, low, high, original)


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the RoPE settings of config.json; transformers 5 keeps rope_theta among them."""
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(found := config.get(key), Mapping):
            return found
    return {}


def _hf_head_dim(config: Mapping[str, Any]) -> int:
    explicit = whole_of(config.get("head_dim"))
    return explicit or int(config["hidden_size"]) // max(1, int(config["num_attention_heads"]))


def _head_dim(metadata: Mapping[str, Any], prefix: str, config: Mapping[str, Any]) -> int | None:
    """Return the features of a head, of which RoPE may rotate fewer."""
    if (found := whole_of(metadata.get(prefix + "attention.key_length"))) is not None:
        return found
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden and heads:
        return int(hidden) // int(heads)
    return whole_of(metadata.get(prefix + "rope.dimension_count"))


def _kinds_of_windows(
    metadata: Mapping[str, Any], prefix: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return which layers have a window, and the base of their frequencies.

    What is absent from the metadata has the same default in llama.cpp and in transformers.
    """
    if config["sliding_window"] is None:
        return {"sliding_window_pattern": 1}  # none, which config.json cannot say otherwise
    key = prefix + "attention.sliding_window_pattern"
    found, layers = metadata.get(key), config["num_hidden_layers"] or 0
    result: dict[str, Any] = {
        "rope_local_base_freq": number_of(metadata.get(prefix + "rope.freq_base_swa"))
    }
    if isinstance(found, np.ndarray) and found.dtype.kind in "biu" and len(found) >= layers:
        result["layer_types"] = [_WINDOWS[bool(has_window)] for has_window in found[:layers]]
    elif found is not None:
        result["sliding_window_pattern"] = whole_of(found) or None
        if result["sliding_window_pattern"] is None:
            raise SourceError(
                f"{key} is {shown(str(found)[:40])}, expected a positive integer, or one value for "
                f"each of {layers} layers"
            )
    return result


def _attention_size(config: Mapping[str, Any]) -> int | None:
    """Return the size whose root divides attention scores, as llama.cpp: GGUF has no key for it."""
    if config["num_hidden_layers"] == _GEMMA_27B_LAYERS and config["num_attention_heads"]:
        return int(config["hidden_size"] or 0) // int(config["num_attention_heads"])
    head_dim: int | None = config["head_dim"]
    return head_dim


def _layer_types(metadata: Mapping[str, Any], prefix: str, layers: int) -> list[str]:
    """Return which layers have attention, and which a gated delta net."""
    recurrent = metadata.get(prefix + "attention.recurrent_layers")
    if recurrent is None:
        interval = whole_of(metadata.get(prefix + "full_attention_interval", _INTERVAL))
        if not interval:
            raise SourceError(f"{prefix}full_attention_interval is not a positive integer")
        return [_MIXERS[(i + 1) % interval != 0] for i in range(min(layers, _MAX_LAYERS))]
    if not isinstance(recurrent, np.ndarray) or recurrent.dtype != np.bool_:
        raise SourceError(f"{prefix}attention.recurrent_layers is not an array of booleans")
    if len(recurrent) < layers:
        raise SourceError(
            f"{prefix}attention.recurrent_layers has {len(recurrent)} values for {layers} layers"
        )
    return [_MIXERS[is_recurrent] for is_recurrent in recurrent[:layers].tolist()]


def _minicpm_config(
    metadata: Mapping[str, Any], prefix: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return MiniCPM's three multipliers, which GGUF stores as the resulting scales."""
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    found = {
        key: number_of(metadata.get(prefix + key))
        for key in ("embedding_scale", "residual_scale", "logit_scale")
        if prefix + key in metadata
    }
    if not found:  # older files, as llama.cpp reads them
        return {**_MINICPM_2B}
    residual, logit = found.get("residual_scale"), found.get("logit_scale")
    return {
        "scale_emb": found.get("embedding_scale"),
        "scale_depth": number_of(residual * math.sqrt(layers)) if residual and layers else None,
        "dim_model_base": round(hidden / logit) if logit and hidden else None,
    }


def _minicpm_metadata(config: Mapping[str, Any], prefix: str) -> dict[str, float]:
    emb, depth, base = (
        number_of(config.get(name)) for name in ("scale_emb", "scale_depth", "dim_model_base")
    )
    found = {
        "embedding_scale": emb,
        "residual_scale": depth and depth / math.sqrt(int(config["num_hidden_layers"])),
        "logit_scale": base and int(config["hidden_size"]) / base,
    }
    return {prefix + key: value for key, value in found.items() if value}
