"""Vectors compared with sentence-transformers, live: longer texts, all modes, other settings.

tests/runtime/llm/test_embedding.py compares with recorded vectors.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_runtime import llm
from rsr_runtime.llm.pooling import MODES
from rsr_testing import models
from rsr_testing.embedding_models import EMBEDDING_FAMILIES, PROMPTS, TEXTS
from rsr_testing.parity import embeddings
from rsr_testing.parity.judge import torch_and_transformers

torch_and_transformers()
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

LONG = " ".join([models.TEXT] * 4)  # more tokens than a pass, and than any window


def assert_agree(folder: Path, compiled: Path, texts: list[str], **options: Any) -> None:
    wanted = embeddings.encoded(embeddings.load(folder), texts, **options)
    with llm.load(compiled, kv="float32") as model:
        found = model.embed(texts, **options)
    error = np.abs(found - wanted).max(axis=1)
    assert (error <= embeddings.TOLERANCE * np.abs(wanted).max(axis=1)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"query_pre_attn_scalar": None, "head_dim": 32},
        {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "sliding_window_pattern": None, "sliding_window": 40, "hidden_size": 96,
            "rope_theta": None, "rope_local_base_freq": None,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
    ],
    ids=["as published", "a head as wide as the scale", "transformers 5"],
)  # fmt: skip
def test_gemma(changes: dict[str, Any], tmp_path: Path) -> None:
    _agrees("gemma3", {"max_position_embeddings": 4096, **changes}, tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str, tmp_path: Path) -> None:
    pooling = {"pooling_mode": mode, "include_prompt": False}
    _agrees("qwen3-mean", {"max_position_embeddings": 4096}, tmp_path, pooling, prompt="Find: ")


def test_prompts_by_name(tmp_path: Path) -> None:
    for name in PROMPTS:
        _agrees("qwen3-embedding", {"max_position_embeddings": 4096}, tmp_path / name,
                prompt_name=name)  # fmt: skip


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("most", [250, None])
@pytest.mark.filterwarnings("ignore::rsr_runtime.llm.TruncatedTextWarning")
def test_long_texts_are_cut(most: int | None, side: str, tmp_path: Path) -> None:
    """To max_seq_length, else to model_max_length of the tokenizer."""
    known = EMBEDDING_FAMILIES["qwen3-embedding"]
    folder = tmp_path / "model"
    known.save(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"truncation_side": side, "model_max_length": 31}
    path.write_text(json.dumps(settings))
    if most is None:
        (folder / "sentence_bert_config.json").write_text("{}")
    rsrc.compile(folder, tmp_path / "m.rsr")
    assert_agree(folder, tmp_path / "m.rsr", ["a", LONG, models.TEXT], prompt_name="query")


def _agrees(
    name: str,
    changes: dict[str, Any],
    folder: Path,
    pooling: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    known = EMBEDDING_FAMILIES[name]
    config = {**known.family.config, **changes}
    config = {key: value for key, value in config.items() if value is not None}
    family = dataclasses.replace(known.family, config=config)
    found = dataclasses.replace(
        known, family=family, pooling=known.pooling if pooling is None else pooling, most=2048
    )
    compiled = found.build(folder)
    assert_agree(folder / "model", compiled, [*TEXTS, LONG], **options)
