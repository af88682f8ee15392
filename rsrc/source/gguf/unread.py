"""List the GGUF metadata for which config.json has no setting, so that it does not pass unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rsr_formats.keys import HARMLESS, USED
from rsr_formats.keys.gguf import of_key

from .rope import ALPHA
from .values import number_of, whole_of

_MAX_KEYS = 200
_MAX_TEXT = 80  # characters of a value

# Whole numbers; an array of different ones, for the layers, is none.
_SIZES = (
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "nextn_predict_layers",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "rope.dimension_count",
)
_MIXERS = ("full_attention_interval", "attention.recurrent_layers")  # make layer_types
# How layers with a window differ from others.
_WINDOWS = (
    "attention.sliding_window_pattern",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "rope.dimension_count_swa",
    "rope.freq_base_swa",
)
# Settings of config.json by the key that they are made from; None says that the value is unusable.
_MINICPM = {
    "embedding_scale": "scale_emb",
    "residual_scale": "scale_depth",
    "logit_scale": "dim_model_base",
}
# The same of an architecture with experts.
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_norm": "norm_topk_prob",
}


def unread(
    metadata: Mapping[str, Any], prefix: str, config: Mapping[str, Any]
) -> dict[str, str | int | float | bool]:
    """Return the keys that are unknown, not supported, or have a value that cannot be used.

    Args:
        metadata: of the file.
        prefix: of the architecture's keys, with its dot.
        config: the settings made from the metadata; None stands for an unusable value.

    Returns:
        Values by whole key, short: of arrays the number of elements.
    """
    found: dict[str, str | int | float | bool] = {}
    for key, value in metadata.items():
        known = of_key(key, prefix.removesuffix("."))
        name = key.removeprefix(prefix)
        if known is not None and (known.kind == HARMLESS or _is_in(config, name, value)):
            continue
        is_token = key.startswith("tokenizer.") and key.endswith("_token_id")
        is_usable = name not in _SIZES and not (is_token and number_of(value) is None)
        if known is not None and known.kind == USED and is_usable:
            continue
        shown = _shown(value)
        if known is None or known.kind == USED or known.has_effect(shown):
            found[key] = shown
            if len(found) == _MAX_KEYS:
                break
    return found


def _is_in(config: Mapping[str, Any], name: str, value: Any) -> bool:
    """Return whether the settings agree with a key, so that nothing of it is lost."""
    if name in _SIZES:
        return whole_of(value) is not None
    if config.get("model_type") == "minicpm" and name in _MINICPM:
        return config.get(_MINICPM[name]) is not None
    if name in _EXPERTS and "norm_topk_prob" in config:  # an architecture with experts
        found = config.get(_EXPERTS[name])
        return type(found) is type(value) and bool(found == value)
    if name in _MIXERS and "linear_num_value_heads" in config:
        return config.get("layer_types") is not None
    head_dim = config.get("head_dim")
    if name == "attention.value_length":
        return head_dim is not None and whole_of(value) == head_dim
    if name == ALPHA:
        rope = config.get("rope_scaling")
        return isinstance(rope, dict) and rope.get("alpha") == number_of(value)
    if name == "attention.scale":
        number = number_of(value)
        return bool(head_dim and number and np.isclose(number, head_dim**-0.5, rtol=1e-6))
    if name in _WINDOWS:
        return config.get("sliding_window") is None or _is_known_window(config, name, value)
    if name == "attention.sliding_window":
        window, positions = whole_of(value), config.get("max_position_embeddings")
        if window is not None and window == config.get("sliding_window"):
            return True
        return window is not None and positions is not None and window >= positions
    return False


def _is_known_window(config: Mapping[str, Any], name: str, value: Any) -> bool:
    """Return whether a key of layers with a window says what the settings do."""
    if name == "attention.sliding_window_pattern":
        return "sliding_window_pattern" in config or "layer_types" in config
    if name == "rope.freq_base_swa":
        base = config.get("rope_local_base_freq")
        return base is not None and base == number_of(value)
    head_dim = config.get("head_dim")
    return head_dim is not None and whole_of(value) == head_dim


def _shown(value: Any) -> str | int | float | bool:
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}..."
    if isinstance(value, float) and not np.isfinite(value):  # JSON has no such number
        return str(value)
    if isinstance(value, bool | int | float):
        return value
    return f"{len(value):,} values"
