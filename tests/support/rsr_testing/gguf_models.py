"""Small models of the architectures whose GGUF files llama.cpp judges.

Their rows are too short for blocks, so all weights are F32: llama.cpp then rounds no activations.
Rows of the usual length would be TQ2_0, whose inputs it quantizes to int8.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .embedding_models import EMBEDDING_FAMILIES, EmbeddingFamily
from .models import BYTE_LEVEL, FAMILIES, LLAMA3_ROPE, Family, shards

_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}


def _of(family: str, **changes: Any) -> Family:
    """Return a family with other settings; None removes one."""
    config = {**FAMILIES[family].config, **_SIZES, **changes}
    return dataclasses.replace(
        FAMILIES[family],
        config={key: value for key, value in config.items() if value is not None},
        linear=shards(1, "F32"),
        dtype="F32",
        tokens=BYTE_LEVEL,
        everything=False,
        gguf="TQ2_0",
    )


_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1 + i / 16 for i in range(8)],
    "long_factor": [2 + i / 4 for i in range(8)],
    "original_max_position_embeddings": 64,
}


GGUF_FAMILIES: dict[str, Family] = {
    "llama": _of("trilm", rope_scaling=LLAMA3_ROPE),
    "minicpm": _of("minicpm", rope_scaling=None),
    "minicpm-longrope": _of("minicpm"),  # short factors
    "minicpm-long": _of("minicpm", rope_scaling=_LONGROPE),  # long factors for any text
    "hunyuan-dense": _of("hunyuan", head_dim=16),
    "mistral": _of("mistral", quantization_config=None, sliding_window=256),
    "phi3": _of("phi3", sliding_window=None, original_max_position_embeddings=32),
    "smollm3": _of(  # the fourth layer does not rotate
        "smollm3", num_hidden_layers=4, layer_types=None, no_rope_layers=None
    ),
    "olmo2": _of("olmo2", tie_word_embeddings=False),
    "qwen35": _of(
        "qwen3.5",
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=2,
        layer_types=["linear_attention", "full_attention"],
    ),
    "qwen3moe": _of("qwen3-moe", head_dim=16, mlp_only_layers=[], moe_intermediate_size=40),
}


def _embedding() -> EmbeddingFamily:
    whole = EMBEDDING_FAMILIES["qwen3-embedding"]
    config = {**whole.family.config, "head_dim": 24, "intermediate_size": 80}
    floats = dataclasses.replace(whole.family, config=config, linear=shards(1, "F32"), dtype="F32")
    return dataclasses.replace(whole, family=floats)


GGUF_EMBEDDING = _embedding()  # its file is written with type TQ2_0, too
