"""A config.json beside a GGUF file that says something else than the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsr_testing.gguf_files import GgufKit
from rsrc.source.gguf.beside import contradiction
from rsrc.source.open import open_checkpoint

MADE = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
SAME = {**MADE, "eos_token_id": [2, 3], "tie_word_embeddings": True, "head_dim": 16}
SCALED = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}


@pytest.mark.parametrize(
    ("made", "given", "names"),
    [
        ({}, {}, None),
        ({}, {"rope_theta": 500000, "rms_norm_eps": 9.999999747378752e-06}, None),
        ({}, {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5}}, None),
        ({}, {"rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ({}, {"hidden_size": "64", "architectures": ["X"]}, "architectures, hidden_size"),
        (SCALED, {}, "rope_scaling"),
        (SCALED, {"rope_parameters": {"type": "yarn"}}, None),
        ({"partial_rotary_factor": 0.5}, {}, "partial_rotary_factor"),
        ({"gguf_metadata": {"llama.attention.scale": 0.5}}, {}, "llama.attention.scale"),
    ],
)
def test_what_differs_is_named(
    made: dict[str, Any], given: dict[str, Any], names: str | None
) -> None:
    found = contradiction({**MADE, **made}, {**SAME, **given})
    assert (found and found.rpartition(" in ")[2]) == names


def test_the_directory_is_opened_with_a_note(gguf_kit: GgufKit, tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", "llama.attention.scale": 0.5}
    gguf_kit.save(tmp_path / "m.gguf", metadata, {"output_norm.weight": ([2], 0, bytes(8))})
    (tmp_path / "config.json").write_text(json.dumps({"rope_theta": 7}))
    assert open_checkpoint(tmp_path).notes[-1] == (
        "config.json applies, and the GGUF metadata differ from it in rope_theta, "
        "llama.attention.scale"
    )
