"""How states become a vector, and the files that say so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime import OptionError
from rsr_runtime.llm import ModelError
from rsr_runtime.llm.pooling import (
    MODES,
    Pooler,
    Pooling,
    asked_pooling,
    normalized,
    read_embedding_config,
)

FloatArray = npt.NDArray[np.float32]
KINDS = ["Transformer", "Pooling", "Normalize"]
LASTTOKEN = {"pooling_mode": "lasttoken"}


def modules(kinds: list[str]) -> list[dict[str, Any]]:
    return [
        {"idx": i, "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def files(
    modules_: object, pooling: object, own: object = None, limit: object = None
) -> dict[str, bytes]:
    found = {
        "modules.json": modules_,
        "1_Pooling.config.json": pooling,
        "config_sentence_transformers.json": own,
        "sentence_bert_config.json": limit,
    }
    return {name: json.dumps(value).encode() for name, value in found.items() if value is not None}


def states_of(count: int, seed: int = 1) -> FloatArray:
    found: FloatArray = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return found


def expected(mode: str, states: FloatArray, skipped: int) -> npt.NDArray[np.float64]:
    """Pool by sentence-transformers' definition, in float64."""
    x = states[skipped:].astype(np.float64)
    weights = np.arange(skipped + 1, len(states) + 1)[:, None]
    found: dict[str, npt.NDArray[np.float64]] = {
        "cls": x[0],
        "max": x.max(axis=0),
        "mean": x.sum(axis=0) / len(x),
        "mean_sqrt_len_tokens": x.sum(axis=0) / np.sqrt(len(x)),
        "weightedmean": (weights * x).sum(axis=0) / weights.sum(),
        "lasttoken": x[-1],
    }
    return found[mode]


@pytest.mark.parametrize("skipped", [0, 3])
@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str, skipped: int) -> None:
    states = states_of(20)
    pooler = Pooler(Pooling((mode,), includes_prompt=skipped == 0), 3)
    pooler.add(states)
    np.testing.assert_allclose(pooler.vector(), expected(mode, states, skipped), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_parts_change_no_bit(mode: str) -> None:
    states = states_of(700)
    whole, cut = (Pooler(Pooling((mode, "mean"), includes_prompt=False), 5) for _ in range(2))
    whole.add(states)
    for part in np.split(states, [1, 2, 4, 6, 300]):
        buffer = part.copy()
        cut.add(buffer)
        buffer[:] = np.nan  # it is overwritten after each pass
    assert whole.vector().tobytes() == cut.vector().tobytes()
    assert whole.vector().shape == (12,)


def test_normalized() -> None:
    vectors = np.array([[3, 4], [0, 0], [1e-20, 0]], np.float32)
    expected = np.array([[0.6, 0.8], [0, 0], [1e-8, 0]], np.float32)
    np.testing.assert_allclose(normalized(vectors), expected, rtol=1e-6)


def test_files_of_sentence_transformers() -> None:
    own = {"prompts": {"query": "Q: ", "document": None}, "default_prompt_name": "query"}
    found = read_embedding_config(files(modules(KINDS), LASTTOKEN, own, {"max_seq_length": 9}), 6)
    assert found is not None
    assert found.pooling == Pooling(("lasttoken",), normalizes=True)
    assert not found.pooling.needs_all
    assert (found.prompts, found.default_prompt) == ({"query": "Q: ", "document": ""}, "query")
    assert found.max_tokens == 9
    assert read_embedding_config({}, 6) is None


@pytest.mark.parametrize(
    ("pooling", "modes", "includes_prompt"),
    [
        ({}, ("mean",), True),
        ({"pooling_mode_cls_token": False}, ("mean",), True),
        (
            {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True},
            ("mean", "lasttoken"),
            True,
        ),
        ({"pooling_mode": ["max", "cls"], "include_prompt": False}, ("max", "cls"), False),
        ({"pooling_mode": "mean", "embedding_dimension": 6}, ("mean",), True),
    ],
)
def test_spellings_of_modes(
    pooling: dict[str, Any], modes: tuple[str, ...], includes_prompt: bool
) -> None:
    found = read_embedding_config(files(modules(KINDS[:2]), pooling), 6)
    assert found is not None
    assert found.pooling == Pooling(modes, includes_prompt, normalizes=False)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (files([], {}), "modules.json: the modules are none, expected Transformer, Pooling and"),
        (files(modules([*KINDS[:2], "Dense"]), {}), "are Transformer, Pooling, Dense, expected"),
        (files([{"path": ""}], {}), "found an object, expected a module with type and path"),
        (files([3], {}), "found 3, expected a module with type and path"),
        (files({}, {}), "modules.json: expected a JSON list, found an object"),
        (files(modules(KINDS), None), "Pooling in '1_Pooling', expected '' and '1_Pooling', whose"),
        (files(modules(KINDS), {"pooling_mode": "most"}), "pooling_mode is a list, known are cls"),
        (files(modules(KINDS), {"pooling_mode": [3]}), "pooling_mode is a list, known are cls"),
        (files(modules(KINDS), {"pooling_mode_new": True}), "pooling_mode_new is not supported"),
        (files(modules(KINDS), {"word_embedding_dimension": 7}), "is 7, but the model's states"),
        (files(modules(KINDS), {}, {"prompts": []}), None),
        (files(modules(KINDS), {}, {"prompts": [1]}), "prompts is a list, expected an object"),
        (files(modules(KINDS), {}, {"prompts": {"a": 1}}), "prompts has values that are not"),
        (files(modules(KINDS), {}, {"default_prompt_name": "a"}), "is 'a', which prompts does"),
        (files(modules(KINDS), {}, None, {"max_seq_length": 0}), "max_seq_length is 0, expected"),
        (files(modules(KINDS), {}, None, {"do_lower_case": True}), "do_lower_case is true, which"),
    ],
)
def test_refused(made: dict[str, bytes], message: str | None) -> None:
    if message is None:
        assert read_embedding_config(made, 6) is not None
        return
    with pytest.raises(ModelError, match=message):
        read_embedding_config(made, 6)


def test_an_option_replaces_the_mode_alone() -> None:
    config = read_embedding_config(
        files(modules(KINDS), {"pooling_mode": "cls", "include_prompt": False}), 6
    )
    assert asked_pooling("mean", config) == Pooling(("mean",), False, True)
    assert asked_pooling("mean", None) == Pooling(("mean",))
    assert asked_pooling(None, None) is None
    with pytest.raises(OptionError, match="pooling: found 'most', expected one of cls, max"):
        asked_pooling("most", None)
