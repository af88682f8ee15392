"""The runtime computes what transformers computed for models of every family.

``rsr_testing.models`` makes the checkpoints from seeds, ``rsr_testing.parity.golden_llm`` made the
data. Neither torch nor transformers is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_testing import models
from rsr_testing.paths import GOLDEN

pytest.importorskip("tokenizers", reason="needs the extra llm")
pytest.importorskip("jinja2", reason="needs the extra llm")

from rsr_runtime import llm

TOLERANCE = 2e-4  # of the largest logit; rsr_testing/parity/compare.py says why


class Golden:
    """A loaded model, and the results of transformers."""

    def __init__(self, name: str, folder: Path) -> None:
        self.family: Any = models.FAMILIES[name]
        self.model = llm.load(self.family.build(folder), kv="float32")
        self.checkpoint = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes())
        with np.load(GOLDEN / "llm" / f"{name}.npz") as data:
            self.data = dict(data)
        self.text = str(self.data["text"])
        self.tokens: list[int] = self.data["tokens"].tolist()


@pytest.fixture(scope="module", params=models.FAMILIES)
def golden(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Golden]:
    found = Golden(request.param, tmp_path_factory.mktemp(request.param))
    with found.model:
        yield found


def test_the_checkpoint_is_the_one_that_was_judged(golden: Golden) -> None:
    assert golden.checkpoint.hexdigest() == str(golden.data["sha256"]), "run golden_llm"
    assert golden.model.tokenizer.encode(golden.text)[: len(golden.tokens)] == golden.tokens


def test_logits(golden: Golden) -> None:
    found = golden.model.logits(golden.tokens)
    assert found.dtype == np.float32
    rows, columns = np.indices(found.shape)
    kept = found[(rows + columns) % 3 == 0]  # another third at each position
    largest = float(golden.data["largest"])
    assert np.abs(kept - golden.data["logits"]).max() <= TOLERANCE * largest
    assert np.abs(found).max() == pytest.approx(largest, rel=TOLERANCE)


def test_greedy_text(golden: Golden) -> None:
    wanted = golden.data["continuation"].tolist()
    greedy = llm.Sampling(temperature=0.0)
    prompt = golden.data["prompt"].tolist()
    found = golden.model.generate(prompt, max_tokens=len(wanted), sampling=greedy)
    assert found.tokens == wanted
    assert found.finish_reason == "length"


def test_perplexity(golden: Golden) -> None:
    found = golden.model.perplexity(golden.text)
    assert found.tokens == len(golden.model.tokenizer.encode(golden.text)) - 1
    assert found.value == pytest.approx(float(golden.data["perplexity"]), rel=1e-3)
