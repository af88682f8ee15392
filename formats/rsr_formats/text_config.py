"""The settings of the decoder within a multimodal model's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .architectures import of_config

# Settings that the whole config.json may have for its decoder. Those of its `text_config` come
# first, except that the whole model says how it is stored and whether its head is tied.
_DEFAULTS = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype")
_OF_WHOLE = ("quantization_config", "quantization", "tie_word_embeddings", "transformers_version")


def text_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json that the decoder of a model would have by itself.

    Args:
        config: the object in config.json.

    Returns:
        The settings under `text_config`, with the name of the decoder's class; `config` itself if
        there are none, or if their `model_type` is unknown.
    """
    found = config.get("text_config")
    if not isinstance(found, Mapping):
        return config
    known = of_config({key: value for key, value in found.items() if key != "architectures"})
    if known is None:
        return config
    outer = {key: config[key] for key in (*_DEFAULTS, *_OF_WHOLE) if config.get(key) is not None}
    # A null says something where nothing else does: sliding_window, that there is no window.
    text = {key: value for key, value in found.items() if value is not None or key not in outer}
    whole = {key: outer[key] for key in _OF_WHOLE if key in outer}
    return {**outer, **text, **whole, "architectures": [known.name]}
