"""Log-likelihoods of continuations, compared with NumPy in float64 from the logits of each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rsr_runtime.llm import ModelError, PromptError
from rsr_runtime.llm.decoder import BatchItem, FloatArray
from rsr_testing.loader import Loader

if TYPE_CHECKING:
    from rsr_runtime.llm import LanguageModel

Request = tuple[list[int], list[int]]


def questions(rng: np.random.Generator, shared: int, own: int, count: int) -> list[Request]:
    """Return four answers to each question; all questions follow the same examples."""

    def tokens(count: int) -> list[int]:
        found: list[int] = rng.integers(3, 200, count).tolist()
        return found

    examples = tokens(shared)
    contexts = [examples + tokens(own) for _ in range(count)]
    return [(context, tokens(6)) for context in contexts for _ in range(4)]


def expected(model: LanguageModel, context: list[int], tokens: list[int]) -> tuple[float, bool]:
    rows = model.logits([*context, *tokens[:-1]])[len(context) - 1 :].astype(np.float64)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    chosen = rows[np.arange(len(tokens)), tokens]
    return float(chosen.sum()), bool((rows.argmax(axis=1) == tokens).all())


# Windows of attention, and layers whose states cannot be truncated, must share beginnings, too.
@pytest.mark.parametrize("name", ["bitnet-2b", "bonsai-windows", "qwen3.5-bitnet", "qwen3.5"])
def test_against_numpy(name: str, loaded: Loader, rng: np.random.Generator) -> None:
    model = loaded(name, context=100, kv="float32")
    requests = questions(rng, 30, 20, 8) + questions(rng, 0, 1, 2)
    context, tokens = requests[0]
    best = int(model.next_logits(context).argmax())
    requests += [
        (context, tokens[:1]),  # its row is one of the longer continuation's
        (context + tokens[:2], tokens[2:]),  # the same input, cut elsewhere
        (context, [best]),
        (context, [best, *tokens]),
        *[(context, [token]) for token in range(3, 12)],  # one input
        (list(range(3, 93)), list(range(3, 14))),  # as long as the context allows
        (context, tokens),  # again
    ]
    order = rng.permutation(len(requests))
    done: list[tuple[int, int]] = []
    found = model.log_likelihoods(
        [requests[i] for i in order], progress=lambda count, total: done.append((count, total))
    )
    for place, one in zip(order, found, strict=True):
        value, is_greedy = expected(model, *requests[place])
        assert one.value == pytest.approx(value, abs=1e-4)
        assert one.is_greedy == is_greedy
    assert found[order.tolist().index(requests.index((context, [best])))].is_greedy
    assert done[-1] == (len(requests), len(requests))
    assert done == sorted(done)


@pytest.mark.parametrize(
    ("name", "most"), [("bitnet-2b", 1.1), ("qwen3.5-bitnet", 1.6)]
)  # one keeps two copies of the states of a sequence
@pytest.mark.parametrize(("shared", "own"), [(0, 30), (90, 30), (0, 90)])
def test_what_requests_share_is_computed_once(
    name: str,
    most: float,
    shared: int,
    own: int,
    loaded: Loader,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More requests than fit in a batch, so that later ones find what earlier ones left."""
    model, requests = loaded(name), questions(rng, shared, own, 30)
    sequences = [(*context, *tokens[:-1]) for context, tokens in requests]
    different = {one[:count] for one in sequences for count in range(1, len(one) + 1)}
    rows, hidden = [], model._decoder.hidden

    def counted(items: list[BatchItem]) -> object:
        rows.append(sum(len(item.tokens) for item in items))
        return hidden(items)

    monkeypatch.setattr(model._decoder, "hidden", counted)
    model.log_likelihoods(requests)
    assert len(different) <= sum(rows) <= most * len(different)
    assert sum(rows) < 0.5 * sum(map(len, sequences))


def test_a_large_vocabulary_is_never_laid_out(
    loaded: Loader, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of logits are reduced in slices, whatever the number of tokens that are scored."""
    model, rows = loaded("bitnet-2b"), []
    logits = model._decoder.logits

    def counted(hidden: FloatArray) -> object:
        rows.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(model._decoder, "logits", counted)
    model.log_likelihoods([([5], rng.integers(3, 200, 150).tolist()) for _ in range(2)])
    assert sum(rows) == 300
    assert max(rows) == 32


def test_a_model_of_little_memory_computes_one_after_the_other(
    loaded: Loader, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, requests = loaded("bitnet-2b"), questions(rng, 10, 10, 3)
    found = model.log_likelihoods(requests)
    monkeypatch.setattr("rsr_runtime.llm.model._BATCH_BYTES", 1)
    assert model.log_likelihoods(requests) == found  # to the bit, as activations are int8


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (([], [5]), "request 1 has an empty context"),
        (([5], []), "request 1 has an empty continuation"),
        (([5], [70000]), "token 70000"),
        (([5] * 60, [5] * 42), "the prompt has 101 tokens"),
    ],
)
def test_requests_that_cannot_be_scored(request_: Request, words: str, loaded: Loader) -> None:
    with pytest.raises(PromptError, match=words):
        loaded("bitnet-2b", context=100).log_likelihoods([([5], [6]), request_])


def test_no_requests(loaded: Loader) -> None:
    assert loaded("bitnet-2b").log_likelihoods([]) == []


def test_logits_that_are_not_finite(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    norm = model.weights.norm * np.float32(np.nan)
    model._decoder._weights = replace(model.weights, norm=norm)
    with pytest.raises(ModelError, match="logits are NaN or infinite"):
        model.log_likelihoods([([5], [6])])
