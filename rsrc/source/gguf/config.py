"""Convert between config.json of Hugging Face and the settings in GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import ARCHITECTURES, of_config, of_gguf
from rsr_formats.numerics import llama3_kept

from ...common.errors import SourceError
from .tokenizer_common import SPECIAL_TOKENS

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
_FLOATS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_TOKENS = ("bos_token", "eos_token", "pad_token")
_REQUIRED = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")

_MAX_HEAD_DIM = 1 << 16

# Settings of all Llama 3 models. GGUF stores only the factors that follow from them, so a file's
# factors are compared with these.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def hf_config(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, ...]],
    factors: npt.NDArray[np.float32] | None = None,
) -> dict[str, Any] | None:
    """Return the config.json of a GGUF model, None if its architecture is unknown.

    Settings that are absent from the metadata, or have another type, are left out.

    Args:
        metadata: numbers as int and float, arrays as sequences.
        tensors: shapes by GGUF name, (out_features, in_features) of matrices.
        factors: the tensor rope_freqs.weight, if there is one; float32 (head_dim / 2,).
    """
    name = metadata.get("general.architecture")
    known = of_gguf(name)
    if known is None:
        return None
    prefix = f"{name}."
    config: dict[str, Any] = {
        "architectures": [known.name],
        "model_type": known.model_type,
        "hidden_act": known.hidden_act,
        **known.gguf_config,
    }
    for own, key in _INTEGERS.items():
        config[own] = _integer(metadata.get(prefix + key))
    for own, key in _FLOATS.items():
        config[own] = _float(metadata.get(prefix + key))
    embedding = tensors.get("token_embd.weight", ())
    if len(embedding) == 2:  # the metadata may count tokens without padding
        config["vocab_size"] = embedding[0]
    if config["num_key_value_heads"] is None:
        config["num_key_value_heads"] = config["num_attention_heads"]
    config["head_dim"] = _head_dim(metadata, prefix, config)
    for token in _TOKENS:
        config[f"{token}_id"] = _integer(metadata.get(SPECIAL_TOKENS[token]))
    config["attention_bias"] = "blk.0.attn_q.bias" in tensors
    config["tie_word_embeddings"] = "output.weight" not in tensors
    config["rope_scaling"] = _rope_scaling(metadata, prefix, config, factors)
    if known.model_type == "minicpm":
        config.update(_minicpm_config(metadata, prefix, config))
    return {key: value for key, value in config.items() if value is not None}


def gguf_metadata(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """Return `general.architecture` and the settings of a GGUF file for a config.json.

    Two settings are expressed by tensors instead: tied embeddings (no output.weight), and Llama 3's
    RoPE scaling (rope_freqs.weight, see `rope_factors`).

    Args:
        config: config.json as transformers 4 or 5 writes it.

    Raises:
        SourceError: the architecture is unknown, or a setting is missing or not a number.
    """
    known = of_config(config)
    if known is None or not known.gguf_names:
        found = config.get("architectures") or config.get("model_type")
        raise SourceError(
            f"config.json: architecture {str(found)[:80]!r}, GGUF names are known only for "
            + ", ".join(sorted(a.name for a in ARCHITECTURES if a.gguf_names))
        )
    name = known.gguf_names[0]
    prefix = f"{name}."
    missing = [name for name in _REQUIRED if _integer(config.get(name)) is None]
    if missing:
        raise SourceError(f"config.json: expected an integer for {', '.join(missing)}")
    rope = _rope(config)
    result: dict[str, int | float | str] = {"general.architecture": name}
    for own, key in _INTEGERS.items():
        if (value := _integer(config.get(own))) is not None:
            result[prefix + key] = value
    for own, key in _FLOATS.items():
        if (number := _float(rope.get(own, config.get(own)))) is not None:
            result[prefix + key] = number
    result.setdefault(prefix + _INTEGERS["num_key_value_heads"], int(config["num_attention_heads"]))
    head_dim = _hf_head_dim(config)
    result[prefix + "rope.dimension_count"] = head_dim
    result[prefix + "attention.key_length"] = head_dim
    result[prefix + "attention.value_length"] = head_dim
    kind, factor = rope.get("rope_type", rope.get("type")), _float(rope.get("factor"))
    if kind in ("linear", "yarn") and factor is not None:
        result[prefix + "rope.scaling.type"] = str(kind)
        result[prefix + "rope.scaling.factor"] = factor
        original = _integer(rope.get("original_max_position_embeddings"))
        if original is not None:
            result[prefix + "rope.scaling.original_context_length"] = original
    for token in _TOKENS:
        found = config.get(f"{token}_id")
        found = _integer(found[0] if isinstance(found, list) and found else found)
        if found is not None:
            result[SPECIAL_TOKENS[token]] = found
    if known.model_type == "minicpm":
        result.update(_minicpm_metadata(config, prefix))
    return result


def rope_factors(config: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
    """Return rope_freqs.weight, float32 (head_dim / 2,), or None without Llama 3's RoPE scaling.

    Each frequency is divided by its factor: 1 for short wavelengths, `factor` for long ones, and a
    blend between them (transformers, modeling_rope_utils.py).

    Raises:
        SourceError: a setting of the scaling is not a number, or out of range.
    """
    rope = _rope(config)
    if rope.get("rope_type", rope.get("type")) != "llama3":
        return None
    factor = _float(rope.get("factor"))
    low, high, original = (_float(rope.get(name, _LLAMA3[name])) for name in _LLAMA3)
    theta = _float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
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
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    kept = llama3_kept(wavelengths, low, high, original)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the RoPE settings of config.json; transformers 5 keeps rope_theta among them."""
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(found := config.get(key), Mapping):
            return found
    return {}


def _hf_head_dim(config: Mapping[str, Any]) -> int:
    explicit = _integer(config.get("head_dim"))
    return explicit or int(config["hidden_size"]) // max(1, int(config["num_attention_heads"]))


def _head_dim(metadata: Mapping[str, Any], prefix: str, config: Mapping[str, Any]) -> int | None:
    for key in ("attention.key_length", "rope.dimension_count"):
        if (found := _integer(metadata.get(prefix + key))) is not None:
            return found
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return hidden // heads if hidden and heads else None


def _rope_scaling(
    metadata: Mapping[str, Any],
    prefix: str,
    config: Mapping[str, Any],
    factors: npt.NDArray[np.float32] | None,
) -> dict[str, Any] | None:
    if factors is not None:
        largest = _float(factors.max(initial=1))
        if largest in (None, 1.0) or config["head_dim"] not in (
            2 * len(factors),
            2 * len(factors) - 1,
        ):
            return None
        scaling = {"rope_type": "llama3", "factor": largest, **_LLAMA3}
        try:
            expected = rope_factors({**config, "rope_scaling": scaling})
        except SourceError:  # no factors for this theta
            return None
        same = expected is not None and np.allclose(expected, factors, rtol=1e-5, atol=0)
        return scaling if same else None
    kind = metadata.get(prefix + "rope.scaling.type")
    factor = _float(metadata.get(prefix + "rope.scaling.factor"))
    if not isinstance(kind, str) or kind not in ("linear", "yarn") or factor in (None, 1.0):
        return None
    scaling = {"rope_type": kind, "factor": factor}
    original = _integer(metadata.get(prefix + "rope.scaling.original_context_length"))
    if original is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling


def _minicpm_config(
    metadata: Mapping[str, Any], prefix: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return MiniCPM's three multipliers, which GGUF stores as the resulting scales."""
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    residual = _float(metadata.get(prefix + "residual_scale"))
    logit = _float(metadata.get(prefix + "logit_scale"))
    return {
        "scale_emb": _float(metadata.get(prefix + "embedding_scale")),
        "scale_depth": _float(residual * math.sqrt(layers)) if residual and layers else None,
        "dim_model_base": round(hidden / logit) if logit and hidden else None,
    }


def _minicpm_metadata(config: Mapping[str, Any], prefix: str) -> dict[str, float]:
    emb, depth, base = (
        _float(config.get(name)) for name in ("scale_emb", "scale_depth", "dim_model_base")
    )
    found = {
        "embedding_scale": emb,
        "residual_scale": depth and depth / math.sqrt(int(config["num_hidden_layers"])),
        "logit_scale": base and int(config["hidden_size"]) / base,
    }
    return {prefix + key: value for key, value in found.items() if value}


def _integer(value: Any) -> int | None:
    """Return an integer >= 0, or the one that an array repeats for every layer; else None."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value):
        value = value[0] if (value == value[0]).all() else None
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        return int(value)
    return None


def _float(value: Any) -> float | None:
    """Return a finite number in the shortest decimal form that rounds to its float32, or None."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        return None
    with np.errstate(over="ignore"):
        number = np.float32(value)
    return float(str(number)) if np.isfinite(number) else None
