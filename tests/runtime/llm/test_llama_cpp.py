"""Models from GGUF files give the logits and vectors that llama.cpp computed of the same files.

``rsr_testing.parity.golden_llama_cpp`` recorded them; llama.cpp is not needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_testing.gguf_models import GGUF_EMBEDDINGS, GGUF_FAMILIES
from rsr_testing.models import Family
from rsr_testing.paths import GOLDEN

pytest.importorskip("tokenizers", reason="needs the extra llm")
pytest.importorskip("jinja2", reason="needs the extra llm")

from rsr_runtime import llm

TOLERANCE = 2e-4  # of the largest logit
GELU_TOLERANCE = 1e-3  # llama.cpp's GELU is a table of float16 numbers


@contextmanager
def judged(
    family: Family, name: str, folder: Path
) -> Iterator[tuple[Mapping[str, Any], llm.LanguageModel, float]]:
    """The golden data, the model made of the same weights, and how far the two may differ."""
    compiled = family.build(folder)
    digest = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    with (
        np.load(GOLDEN / "llama_cpp" / f"{name}.npz") as golden,
        llm.load(compiled, kv="float32") as model,
    ):
        assert str(golden["sha256"]) == digest, "run golden_llama_cpp"
        has_gelu = model.config.hidden_act.startswith("gelu")
        yield golden, model, GELU_TOLERANCE if has_gelu else TOLERANCE


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_logits(name: str, tmp_path: Path) -> None:
    with judged(GGUF_FAMILIES[name], name, tmp_path) as (golden, model, tolerance):
        found = model.logits(golden["tokens"].tolist())
        rows, columns = np.indices(found.shape)
        kept = found[(rows + columns) % 3 == 0]
        assert np.abs(kept - golden["logits"]).max() <= tolerance * float(golden["largest"])


@pytest.mark.parametrize("name", GGUF_EMBEDDINGS)
def test_vectors(name: str, tmp_path: Path) -> None:
    with judged(GGUF_EMBEDDINGS[name], name, tmp_path) as (golden, model, tolerance):
        tokens = golden["tokens"].tolist()
        found = model.embed([tokens[:n] for n in (1, 20, 72)], normalize=False)
        error = np.abs(found - golden["vectors"]).max(axis=1)
        assert (error <= tolerance * np.abs(golden["vectors"]).max(axis=1)).all()
        np.testing.assert_allclose(np.linalg.norm(model.embed([tokens]), axis=1), 1, rtol=1e-5)


def test_gemma3_is_the_model_that_transformers_judges(tmp_path: Path) -> None:
    """Its GGUF file holds the weights, windows and frequencies of the model directory."""
    found = []
    compiled = GGUF_FAMILIES["gemma3"].build(tmp_path)
    rsrc.compile(tmp_path / "model", tmp_path / "other.rsr")
    for path in (compiled, tmp_path / "other.rsr"):
        with llm.load(path, kv="float32") as model:
            found.append(model.logits(list(range(72))).copy())
    assert np.abs(found[0] - found[1]).max() <= 1e-5 * np.abs(found[0]).max()
