"""Pooling in GGUF metadata."""

from __future__ import annotations

import pytest

from rsr_runtime.llm.pooling import Pooling, read_embedding_config
from rsrc.common.errors import SourceError
from rsrc.source.gguf.pooling import has_head, pooling_files


@pytest.mark.parametrize(("kind", "mode"), [(1, "mean"), (2, "cls"), (3, "lasttoken")])
def test_pooling_type(kind: int, mode: str) -> None:
    metadata = {"general.architecture": "qwen3", "qwen3.pooling_type": kind}
    found = read_embedding_config(pooling_files(metadata, 64), 64)
    assert found is not None
    assert found.pooling == Pooling((mode,), normalizes=True)


@pytest.mark.parametrize("kind", [0, 4, None, "3", [3], -1, True])
def test_others_embed_nothing(kind: object) -> None:
    assert pooling_files({"general.architecture": "qwen3", "qwen3.pooling_type": kind}, 64) == {}
    assert pooling_files({"general.architecture": ["x"], "x.pooling_type": 3}, 64) == {}


def test_a_head_unless_the_file_says_no() -> None:
    assert has_head({})
    assert not has_head({"rsr.has_head": False})
    with pytest.raises(SourceError, match=r"rsr\.has_head is 0, expected a boolean"):
        has_head({"rsr.has_head": 0})
