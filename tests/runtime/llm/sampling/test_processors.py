"""Processors of scores compared with plain loops, and where a chain applies them."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime.llm import ModelError
from rsr_runtime.llm.sampling import Sampler, Sampling
from rsr_runtime.llm.sampling import processors as p
from rsr_runtime.llm.sampling.chain import chain_of

F32 = npt.NDArray[np.float32]
SIZE = 30
TOKENS = [4, 9, 4, 9, 2, 4, 9]


@pytest.fixture
def x() -> F32:
    return np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)


def forbidden(scores: F32) -> set[int]:
    return {int(i) for i in np.flatnonzero(scores == -math.inf)}


def processed(
    x: F32,
    tokens: list[int],
    prompt: tuple[int, ...] = (),
    ends: tuple[int, ...] = (0, 5),
    limit: int | None = None,
    **options: Any,
) -> F32:
    scores = x.copy()
    with np.errstate(over="ignore"):  # as a sampler does
        for process in chain_of(Sampling(**options), prompt, ends, limit):
            process(scores, tokens)
    return scores


def test_biases(x: F32) -> None:
    """Those of single tokens, and of tokens after others; the last of equal sequences counts."""
    biases = {(3,): 2.0, (4, 9, 7): 1.5, (9, 7): 0.25, (9, 4, 7): 8.0, (2, 8): 9.0, (1,) * 50: 1.0}
    wanted = x.copy()
    wanted[3] += 2
    wanted[7] += 1.75
    np.testing.assert_allclose(processed(x, TOKENS, sequence_bias=biases), wanted, rtol=1e-6)
    listed = [((3,), 50.0), *biases.items(), ((3,), 2.0)]
    np.testing.assert_allclose(processed(x, TOKENS, sequence_bias=listed), wanted, rtol=1e-6)


def test_bias_of_tokens(x: F32) -> None:
    found = processed(x, [], logit_bias={3: -100, 6: 2.5, 9: -math.inf})
    wanted = x.copy()
    wanted[[3, 6, 9]] += np.array([-100, 2.5, -math.inf], np.float32)
    np.testing.assert_array_equal(found, wanted)


def test_bad_words(x: F32) -> None:
    """An end token alone stays allowed."""
    words = [[0], [8], [4, 9, 1], [9, 5], [9, 9, 3], [2]]
    assert forbidden(processed(x, TOKENS, bad_words_ids=words)) == {8, 1, 5, 2}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 2**30])
@pytest.mark.parametrize("prompt", [(), (9, 2, 9, 4, 9, 2), tuple(TOKENS)])
def test_ngrams(x: F32, size: int, prompt: tuple[int, ...]) -> None:
    def after(text: list[int]) -> set[int]:
        before = TOKENS[len(TOKENS) + 1 - size :] if size <= len(TOKENS) else None
        grams = [text[i : i + size] for i in range(len(text) - size + 1)]
        return {gram[-1] for gram in grams if gram[:-1] == before}

    found = processed(x, TOKENS, prompt, no_repeat_ngram_size=size)
    assert forbidden(found) == after(TOKENS)
    found = processed(x, TOKENS, prompt, encoder_no_repeat_ngram_size=size)
    assert forbidden(found) == after(list(prompt))


def test_penalty_of_the_prompt(x: F32) -> None:
    """It is the inverse of that of the text so far."""
    found = processed(x, TOKENS, (4, 4, 6, 99), encoder_repetition_penalty=2.0)
    wanted = [v if i not in (4, 6) else v * 2 if v > 0 else v / 2 for i, v in enumerate(x)]
    np.testing.assert_array_equal(found, wanted)


def test_penalties_of_openai(x: F32) -> None:
    """Only tokens of the text count, not those of the prompt."""
    found = processed(x, TOKENS, (4, 9, 4), presence_penalty=0.5, frequency_penalty=-0.25)
    text = TOKENS[3:]
    wanted = [
        v - (0.5 * (i in text) - 0.25 * text.count(i)) for i, v in enumerate(x.astype(np.float64))
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"min_new_tokens": 3}, 5),
        ({"min_length": 6}, 6),
        ({"min_new_tokens": 0, "min_length": 6}, 0),
        ({}, 0),
    ],
)
def test_least_lengths(x: F32, options: dict[str, Any], least: int) -> None:
    for count in range(2, 9):
        found = processed(x, [1] * count, (1, 1), **options)
        assert forbidden(found) == ({0, 5} if count < least else set())


def test_forced_tokens(x: F32) -> None:
    options: dict[str, Any] = {"forced_bos_token_id": 8, "forced_eos_token_id": [5, 11]}
    for prompt in ((1,), (1, 1)):
        for count in range(len(prompt), 7):
            found = processed(x, [1] * count, prompt, limit=6, **options)
            forced = {8} if count == 1 else {5, 11} if count == 5 else None
            if forced is None:
                np.testing.assert_array_equal(found, x)
            else:
                assert forbidden(found) == {*range(SIZE)} - forced
                assert (found[[*forced]] == 0).all()
    np.testing.assert_array_equal(
        processed(x, [1], (1, 1), **options | {"forced_bos_token_id": None}), x
    )


def test_suppressed_tokens(x: F32) -> None:
    assert forbidden(processed(x, TOKENS, suppress_tokens=[1, 7, -1, 500])) == {1, 7}
    for count, begins in ((2, True), (3, False)):
        found = processed(x, [1] * count, (1, 1), begin_suppress_tokens=[1, 7])
        assert forbidden(found) == ({1, 7} if begins else set())


def test_ends_become_likelier(x: F32) -> None:
    options: dict[str, Any] = {"exponential_decay_length_penalty": (2, 1.5)}
    for count in range(3, 9):
        wanted = x.copy()
        n = count - 3 - 2
        if n > 0:
            for end in (0, 5):
                wanted[end] += abs(x[end]) * (1.5**n - 1)
        found = processed(x, [1] * count, (1, 1, 1), **options)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_ends_become_as_likely_as_can_be(x: F32) -> None:
    """Powers beyond the floats do not fail, and -inf stays."""
    x[0] = -math.inf
    found = processed(x, [1] * 5000, exponential_decay_length_penalty=(0, 2.0**30))
    assert found[0] == -math.inf
    assert 1e38 < found[5] < math.inf
    assert found.argmax() == 5


def test_logarithms_of_probabilities(x: F32) -> None:
    e = np.exp(x.astype(np.float64))
    found = processed(x, [], renormalize_logits=True)
    np.testing.assert_allclose(found, np.log(e / e.sum()), rtol=1e-5)


def test_scores_that_are_not_finite() -> None:
    x = np.array([math.nan, math.inf, -math.inf, 2], np.float32)
    p.remove_invalid(x)
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(x, np.array([0, largest, -largest, 2], np.float32))


def test_a_sampler_applies_them(x: F32) -> None:
    order = np.argsort(-x).tolist()
    given = x.copy()
    sampler = Sampler(Sampling(suppress_tokens=order[:2], no_repeat_ngram_size=1))
    assert sampler(x, [order[2]]) == order[3]
    drawn = Sampler(Sampling(1.0, seed=3, suppress_tokens=order[2:]))
    assert {drawn(x) for _ in range(100)} == set(order[:2])
    np.testing.assert_array_equal(x, given)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_forbidden(x: F32, temperature: float) -> None:
    sampler = Sampler(Sampling(temperature, suppress_tokens=range(SIZE)))
    with pytest.raises(ModelError, match="the settings of generation forbid all of them"):
        sampler(x)
    with pytest.raises(ModelError, match="weights or its input are damaged"):
        sampler(np.full(SIZE, math.nan, np.float32))
    sampler = Sampler(Sampling(temperature, repetition_penalty=1e-300), [0])
    with pytest.raises(ModelError, match="settings of generation make the logit of token 0 inf"):
        sampler(np.ones(SIZE, np.float32), [0])


def test_nothing_is_processed_where_nothing_is_set() -> None:
    """So that greedy text needs no copy of the logits."""
    assert chain_of(Sampling(), (1, 2), (0,), 9) == []
    assert chain_of(Sampling(0.7, 40, 0.9, 0.1, seed=3, typical_p=0.5), (1, 2), (0,), 9) == []


@pytest.mark.parametrize("penalty", [1e-320, 1e300])
def test_penalties_beyond_float32(x: F32, penalty: float) -> None:
    """They leave nothing to choose or a token, and no warning."""
    for name in ("repetition_penalty", "encoder_repetition_penalty"):
        options: dict[str, Any] = {name: penalty}
        sampler = Sampler(Sampling(**options), TOKENS)
        with suppress(ModelError):
            assert 0 <= sampler(x, TOKENS) < SIZE
