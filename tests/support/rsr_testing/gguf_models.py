"""Small models of the architectures whose GGUF files llama.cpp judges.

Their rows are too short for blocks, so all weights are F32: llama.cpp then rounds no activations.
Rows of the usual length would be TQ2_0, whose inputs it quantizes to int8.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
import numpy.typing as npt

import rsrc
from rsrc.export.gguf.metadata import add_metadata
from rsrc.source.gguf.config import gguf_metadata
from rsrc.source.gguf.names import gguf_name
from rsrc.source.gguf.tokenizer_metadata import tokenizer_metadata

from . import gemma3_gguf
from .models import BYTE_LEVEL, FAMILIES, LLAMA3_ROPE, Family, shards

Array = npt.NDArray[Any]

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


class _Converter(Protocol):
    """Makes a GGUF file of tensors and a config.json of transformers."""

    def converted(
        self, tensors: Mapping[str, Array], config: Mapping[str, Any], /
    ) -> dict[str, Array]:
        """Return the tensors by GGUF name."""

    def metadata(self, config: Mapping[str, Any], /) -> dict[str, Any]:
        """Return the keys of the architecture."""


@dataclass(frozen=True)
class _Converted(Family):
    """A model of which rsrc reads GGUF files, but writes none."""

    converter: _Converter = gemma3_gguf

    def build(self, folder: Path) -> Path:
        """Write the model directory and a GGUF file of it; return the .rsr file of the latter."""
        self.save(folder / "model")
        floats = {name: t.values.astype(np.float32) for name, t in self.tensors().items()}
        settings = json.loads(self.tokens.files()["tokenizer_config.json"])
        metadata = self.converter.metadata(self.settings)
        metadata |= tokenizer_metadata(self.tokens.document, settings, self.tokens.size, print)
        writer = gguf.GGUFWriter(folder / "model.gguf", metadata.pop("general.architecture"))
        add_metadata(writer, metadata)
        for name, values in self.converter.converted(floats, self.settings).items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        rsrc.compile(folder / "model.gguf", folder / "model.rsr")
        return folder / "model.rsr"


def _converted(name: str, family: str, converter: _Converter, **changes: Any) -> Family:
    base = FAMILIES[family]
    config = {**base.config, **changes}
    return _Converted(
        f"llama.cpp, {name}", config, shards(1, "F32"), "F32", BYTE_LEVEL, seed=base.seed,
        converter=converter,
    )  # fmt: skip


@dataclass(frozen=True)
class _Pooling:
    """An architecture whose files rsrc writes, with the key of one that embeds texts."""

    kind: int  # of llama.cpp's llama_pooling_type

    def converted(
        self, tensors: Mapping[str, Array], config: Mapping[str, Any]
    ) -> dict[str, Array]:
        """Return the tensors by GGUF name."""
        name = gguf_metadata(config)["general.architecture"]
        return {gguf_name(own, str(name)): w for own, w in tensors.items()}

    def metadata(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of the architecture."""
        found = gguf_metadata(config)
        return {**found, f"{found['general.architecture']}.pooling_type": self.kind}


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
    "gemma3": _converted(
        "gemma3",
        "gemma3",
        gemma3_gguf,
        query_pre_attn_scalar=48,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    "qwen3moe": _of("qwen3-moe", head_dim=16, mlp_only_layers=[], moe_intermediate_size=40),
}

# Those that embed texts.
GGUF_EMBEDDINGS: dict[str, Family] = {
    "qwen3-embedding": _converted(
        "qwen3, pooling of the last token", "bonsai", _Pooling(3), hidden_size=64, head_dim=32
    ),
    "qwen3-mean": _converted("qwen3, mean pooling", "bonsai", _Pooling(1), head_dim=32),
}
