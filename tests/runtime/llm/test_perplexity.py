"""Perplexity, compared with NumPy in float64 from the logits of each window."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rsr_runtime import OptionError
from rsr_runtime.llm import ModelError, Perplexity, PromptError
from rsr_runtime.llm.perplexity import _log_likelihood
from rsr_testing.loader import Loader

if TYPE_CHECKING:
    from rsr_runtime.llm import LanguageModel

TEXT = "The weights of a trained network never change, so sort the rows of each block once. " * 3


def expected(model: LanguageModel, tokens: list[int], window: int) -> float:
    """Return exp of the mean of -log softmax; every token but the first is predicted once."""
    losses = []
    for start in range(0, len(tokens) - 1, window):
        part = tokens[start : start + window]
        targets = tokens[start + 1 : start + 1 + window]
        logits = model.logits(part[: len(targets)]).astype(np.float64)
        normalizer = np.log(np.exp(logits).sum(axis=1))
        losses += (normalizer - logits[np.arange(len(targets)), targets]).tolist()
    assert len(losses) == len(tokens) - 1
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("window", [1, 2, 16, 31, 32, 33, 95, 96, 256])
@pytest.mark.parametrize("name", ["bitnet-2b", "bonsai"])
def test_against_numpy(name: str, window: int, loaded: Loader) -> None:
    model = loaded(name)
    tokens = model.tokenizer.encode(TEXT)
    assert 97 < len(tokens) < 256
    found = model.perplexity(TEXT, window)
    assert (found.tokens, found.window) == (len(tokens) - 1, window)
    assert found.value == pytest.approx(expected(model, tokens, window), rel=1e-5)


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
def test_the_border_of_a_window(extra: int, loaded: Loader) -> None:
    """A last window of one token, or none."""
    model = loaded("bitnet-2b")
    tokens = model.tokenizer.encode(TEXT)
    window = len(tokens) - 1 - extra
    assert model.perplexity(TEXT, window).value == pytest.approx(
        expected(model, tokens, window), rel=1e-5
    )


def test_without_a_window(loaded: Loader) -> None:
    assert loaded("bitnet-2b").perplexity(TEXT).window == 256  # the context, below 512
    assert loaded("bitnet-2b", context=64).perplexity(TEXT).window == 64


def test_equal_logits() -> None:
    """Equal logits give every token of the vocabulary the same probability."""
    logits = np.full((5, 300), 7.0, np.float32)
    found = _log_likelihood(logits, np.array([0, 1, 299, 7, 7]))
    assert found == pytest.approx(-5 * math.log(300), rel=1e-6)


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0.0], [1e30, -1e30], [-1e30, -1e30]], np.float32)
    found = _log_likelihood(logits.copy(), np.array([1, 0, 1]))
    assert found == pytest.approx(-1e4 - math.log(2), rel=1e-6)


def test_a_very_wrong_model_has_infinite_perplexity(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    norm = model.weights.norm * np.float32(1e6)
    model._decoder._weights = replace(model.weights, norm=norm)
    assert model.perplexity(TEXT).value == math.inf


def test_logits_that_are_not_finite(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    norm = model.weights.norm * np.float32(np.nan)
    model._decoder._weights = replace(model.weights, norm=norm)
    with pytest.raises(ModelError, match="logits are NaN or infinite"):
        model.perplexity(TEXT)


def test_progress(loaded: Loader) -> None:
    calls: list[tuple[int, int]] = []
    model = loaded("bitnet-2b")
    found = model.perplexity(TEXT, 40, lambda done, total: calls.append((done, total)))
    last = found.tokens
    assert calls == [(done, last) for done in (*range(40, last, 40), last)]


def test_it_does_not_change_later_results(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    before = model.generate("The rows", max_tokens=9)
    model.perplexity(TEXT, 16)
    assert model.generate("The rows", max_tokens=9).tokens == before.tokens
    assert model.perplexity(TEXT, 16) == Perplexity(
        loaded("bitnet-2b").perplexity(TEXT, 16).value, len(model.encode(TEXT)) - 1, 16
    )


def test_other_windows_and_texts_are_refused(loaded: Loader) -> None:
    model = loaded("bitnet-2b", context=32)
    for window in (0, -1, 33, 2.5):
        with pytest.raises(OptionError, match=f"window: found {window}, expected 1 to 32"):
            model.perplexity(TEXT, window)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="the text has 1 token, expected at least 2"):
        model.perplexity("")
    with pytest.raises(PromptError, match="half a surrogate pair"):
        model.perplexity("\ud800")


def test_a_token_beyond_the_vocabulary(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    unknown = model.tokenizer._inner.add_tokens(["beyond"])
    assert unknown == 1
    with pytest.raises(
        PromptError, match="found token 304, expected a token below the model's vocab_size, 304"
    ):
        model.perplexity("The beyond")
