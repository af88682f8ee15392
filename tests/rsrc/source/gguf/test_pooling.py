"""Pooling in GGUF metadata."""

from __future__ import annotations

import pytest

from rsr_runtime.llm.pooling import Pooling, read_embedding_config
from rsrc.common.errors import SourceError
from rsrc.source.gguf.pooling import has_head, pooling_files


@pytest.mark.parametrize(("kind", "mode"), [(1, "mean"), (2, "cls"), (3, "lasttoken")])
def test_pooling_type(kind: int, mode: str) -> None:
    metadata = {"general.architecture": "qwen3", "qwen3.pooling_type": kind}
    found = read_embedding_config(pooling_files(metadata, 64, pytest.fail), 64)
    assert found is not None
    assert found.pooling == Pooling((mode,), normalizes=True)


@pytest.mark.parametrize("kind", [0, 4])
def test_others_embed_nothing(kind: object) -> None:
    metadata = {"general.architecture": "qwen3", "qwen3.pooling_type": kind}
    assert pooling_files(metadata, 64, pytest.fail) == {}
    assert pooling_files({"general.architecture": "qwen3"}, 64, pytest.fail) == {}
    metadata = {"general.architecture": ["x"], "x.pooling_type": 3}
    assert pooling_files(metadata, 64, pytest.fail) == {}


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (5, "5"),
        (-1, "-1"),
        (9, "9"),
        (None, "nothing"),
        ("3", "'3'"),
        ([3], "a list"),
        (True, "True"),
    ],
)
def test_a_value_that_says_nothing_is_noted(kind: object, shown: str) -> None:
    notes: list[str] = []
    metadata = {"general.architecture": "qwen3", "qwen3.pooling_type": kind}
    assert pooling_files(metadata, 64, notes.append) == {}
    assert notes == [
        f"qwen3.pooling_type is {shown}, expected 0 to 4: the model embeds texts only with a "
        "pooling that is asked for"
    ]


def test_a_head_unless_the_file_says_no() -> None:
    assert has_head({})
    assert not has_head({"rsr.has_head": False})
    with pytest.raises(SourceError, match=r"rsr\.has_head is 0, expected a boolean"):
        has_head({"rsr.has_head": 0})
