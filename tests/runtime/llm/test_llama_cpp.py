"""Models from GGUF files give the logits and vectors that llama.cpp computed of the same files.

``rsr_testing.parity.golden_llama_cpp`` recorded them; llama.cpp is not needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import rsrc
from rsr_testing.embedding_models import TEXTS
from rsr_testing.gguf_models import GGUF_EMBEDDING, GGUF_FAMILIES
from rsr_testing.paths import GOLDEN

pytest.importorskip("tokenizers", reason="needs the extra llm")
pytest.importorskip("jinja2", reason="needs the extra llm")

from rsr_runtime import llm
from rsrc.export.decompile import decompile

TOLERANCE = 2e-4  # of the largest logit


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_logits(name: str, tmp_path: Path) -> None:
    compiled = GGUF_FAMILIES[name].build(tmp_path)
    digest = hashlib.sha256((tmp_path / "model" / "model.safetensors").read_bytes()).hexdigest()
    with (
        np.load(GOLDEN / "llama_cpp" / f"{name}.npz") as golden,
        llm.load(compiled, kv="float32") as model,
    ):
        assert str(golden["sha256"]) == digest, "run golden_llama_cpp"
        found = model.logits(golden["tokens"].tolist())
        rows, columns = np.indices(found.shape)
        kept = found[(rows + columns) % 3 == 0]
        assert np.abs(kept - golden["logits"]).max() <= TOLERANCE * float(golden["largest"])


def test_vectors(tmp_path: Path) -> None:
    """Texts as llama.cpp tokenizes them, pooled as the file says."""
    path = tmp_path / "m.gguf"
    decompile(GGUF_EMBEDDING.build(tmp_path), path, to="gguf", type="TQ2_0")
    rsrc.compile(path, tmp_path / "m.rsr")
    digest = hashlib.sha256((tmp_path / "model" / "model.safetensors").read_bytes()).hexdigest()
    with (
        np.load(GOLDEN / "llama_cpp" / "embedding.npz") as golden,
        llm.load(tmp_path / "m.rsr", kv="float32") as model,
    ):
        assert str(golden["sha256"]) == digest, "run golden_llama_cpp"
        vectors = golden["vectors"]
        assert np.abs(model.embed(TEXTS) - vectors).max() <= TOLERANCE * np.abs(vectors).max()
