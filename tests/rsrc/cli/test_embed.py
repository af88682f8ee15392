"""rsrc embed: vectors on stdout, as JSON and in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsr_runtime import llm
from rsr_testing.commands import Run
from rsr_testing.embedding_models import EMBEDDING_FAMILIES, TEXTS


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return EMBEDDING_FAMILIES["qwen3-embedding"].build(tmp_path_factory.mktemp("encoder"))


def test_a_line_for_each_text(run: Run, encoder: Path) -> None:
    lines = run("embed", str(encoder), *TEXTS).stdout.splitlines()
    with llm.load(encoder) as model:
        np.testing.assert_array_equal([json.loads(line) for line in lines], model.embed(TEXTS))
