"""Speculation: the same text in fewer passes, drafts that pay, and how they are found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime import OptionError, llm
from rsr_runtime.llm import Engine, Generation, Job, LanguageModel, Sampling
from rsr_runtime.llm.job import TextFinished, TokenAdded
from rsr_runtime.llm.session import Session
from rsr_runtime.llm.speculation import ROWS, NgramDraft, PassTimes, longest_match
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader

# Names, numbers and "ab" occur several times.
PROMPT = "Ann met Bob, ab ab ab. Ann met Bob at 10:15, ab ab; Bob met Ann at 10:15. Ann met"
EAGER = 0.01  # of a pass: what a further row costs, so that nearly every guess is worth a draft


def eager(model: LanguageModel) -> LanguageModel:
    model._pass_times = PassTimes(EAGER)
    return model


def result_of(result: Generation) -> tuple[str, list[int], str]:
    """Return the parts that depend neither on the clock nor on drafts."""
    return result.text, result.tokens, result.finish_reason


def any_sampling(rng: np.random.Generator) -> Sampling:
    """Return settings under which texts often repeat themselves, at random."""
    return Sampling(
        temperature=float(rng.choice([0, 0.2, 0.7])),
        top_k=int(rng.choice([0, 2, 40])),
        top_p=float(rng.choice([1, 0.9])),
        min_p=float(rng.choice([0, 0.05])),
        repetition_penalty=float(rng.choice([1, 0.6, 1.1])),
        seed=int(rng.integers(1000)),
        presence_penalty=float(rng.choice([0, -1, 0.5])),
        frequency_penalty=float(rng.choice([0, -0.5, 0.2])),
        no_repeat_ngram_size=int(rng.choice([0, 0, 5])),
        min_new_tokens=int(rng.integers(10)),
        forced_eos_token_id=[[], [5]][rng.integers(2)],
    )


# --- the same text ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bitnet-2b", "1bitllm", "falcon3"])
def test_a_bitnet_writes_the_same_text(name: str, loaded: Loader, rng: np.random.Generator) -> None:
    """For any settings, stop strings and lengths, from empty, used and abandoned caches."""
    plain, model = loaded(name, context=120), eager(loaded(name, context=120))
    drafted = accepted = 0
    for _ in range(24):
        start = int(rng.integers(len(PROMPT) - 1))
        options: dict[str, Any] = {
            "sampling": any_sampling(rng),
            "max_tokens": [None, 60, int(rng.integers(1, 20))][rng.integers(3)],
            "stop": [(), ("10:1", "ab")][rng.integers(2)],
        }
        expected = plain.generate(PROMPT[start:], **options)
        if rng.integers(2):  # leaves a draft in the cache
            stream = model.stream(PROMPT[start:], **options, speculate="ngram")
            next(stream, None)
            stream.close()
        found = model.generate(PROMPT[start:], **options, speculate="ngram")
        assert result_of(found) == result_of(expected)
        assert found.accepted_tokens <= min(found.drafted_tokens, len(found.tokens))
        drafted, accepted = drafted + found.drafted_tokens, accepted + found.accepted_tokens
    assert 40 < accepted < drafted - 40


def test_several_texts_in_turns(loaded: Loader) -> None:
    model = eager(loaded("bitnet-2b"))
    prompts = [PROMPT, PROMPT[8:], "ab ab ab"]
    sampling = Sampling(temperature=0.5, repetition_penalty=0.7, seed=3)
    options: dict[str, Any] = {"max_tokens": 30, "sampling": sampling}
    alone = [model.generate(prompt, **options) for prompt in prompts]
    streams = [model.stream(prompt, **options, speculate="ngram") for prompt in prompts]
    while any([next(stream, None) for stream in streams]):  # noqa: C419  a list: each is asked
        pass
    assert [result_of(stream.result) for stream in streams] == [result_of(one) for one in alone]
    assert all(stream.result.accepted_tokens for stream in streams)


def test_a_text_that_grows_beyond_the_original_context(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    """A pass takes one RoPE: no draft reaches from the short factors to the long ones."""
    scaling = {
        "rope_type": "longrope", "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 8, "long_factor": np.linspace(2, 9, 8).tolist(),
    }  # fmt: skip
    path = language_models.variant("bitnet-2b", tmp_path, config={"rope_scaling": scaling})
    with llm.load(path, context=64) as model:
        for start in range(10, 32):
            prompt = [7, 8, 9, 10] * 8
            plain = model.generate(prompt[:start], max_tokens=30)
            found = eager(model).generate(prompt[:start], max_tokens=30, speculate="ngram")
            assert result_of(found) == result_of(plain)
            assert found.accepted_tokens


def test_an_interrupted_draft(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before, in and after a pass over a draft: the text goes on as if nothing were."""
    plain = loaded("bitnet-2b").generate(PROMPT, max_tokens=40)
    model = eager(loaded("bitnet-2b"))
    hidden, passes = model._decoder.hidden, 0

    def interrupted(batch: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes % 3 == 0:
            raise KeyboardInterrupt
        found = hidden(batch)
        if passes % 3 == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(model._decoder, "hidden", interrupted)
    stream = model.stream(PROMPT, max_tokens=40, speculate="ngram")
    interrupts, pieces = 0, []
    while stream.result.finish_reason == "interrupted":
        try:
            pieces += list(stream)
        except KeyboardInterrupt:
            interrupts += 1
    assert stream.result.text == plain.text
    assert stream.result.tokens == plain.tokens
    assert stream.result.accepted_tokens
    assert interrupts > 8


def test_each_pass_gives_one_token_more_than_were_accepted(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = eager(loaded("bitnet-2b")), []
    verify = Session.verify

    def counting(self: Session, tokens: list[int], draft: list[int]) -> Any:
        found = verify(self, tokens, draft)
        rows.append(len(found))
        return found

    monkeypatch.setattr(Session, "verify", counting)
    found = model.generate([5, 6, 7] * 8, max_tokens=50, speculate="ngram")
    assert set(rows) <= set(ROWS)
    assert found.drafted_tokens == sum(rows) - len(rows)
    # The prompt gave a token; the last pass may have given more than was asked for.
    assert 0 <= 1 + len(rows) + found.accepted_tokens - len(found.tokens) <= 1


@pytest.mark.parametrize("tokens", range(2, 12))
def test_an_engine_drafts_while_a_text_is_alone(loaded: Loader, tokens: int) -> None:
    """Another text comes after so many tokens, often when a part of a draft was accepted."""
    model, prompt = eager(loaded("bitnet-2b")), [5, 6, 7] * 8
    expected = model.generate(prompt, max_tokens=40)
    results = []
    with Engine(model) as engine:
        stream = engine.submit(Job(prompt, max_tokens=40, speculate="ngram"))
        added = (event for event in stream if isinstance(event, TokenAdded))
        beside = [
            engine.submit(Job(prompt[:20], max_tokens=3, speculate="ngram"))
            for _ in islice(added, tokens, tokens + 1)
        ]
        for events in (stream, *beside):
            results += [one.generation for one in events if isinstance(one, TextFinished)]
    assert result_of(results[0]) == result_of(expected)
    assert result_of(results[1]) == result_of(model.generate(prompt[:20], max_tokens=3))
    assert results[0].drafted_tokens >= results[0].accepted_tokens > 0


def test_passes_over_drafts_are_not_recorded_anew(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recorded = eager(loaded("bitnet-2b")), []
    record = model._decoder._record

    def counting(lengths: list[Any]) -> Any:
        recorded.append(lengths[0][0])
        return record(lengths)

    monkeypatch.setattr(model._decoder, "_record", counting)
    for _ in range(3):
        model.generate(PROMPT, max_tokens=50, speculate="ngram")
    steps = [rows for rows in recorded if rows <= ROWS[-1]]
    assert len(steps) == len(set(steps)) > 2


def test_float32_activations_do_not_follow_the_clock(loaded: Loader) -> None:
    """Where rows of a pass change the last bits of logits, times must not choose their number."""
    for name, measures in (("bitnet-2b", True), ("trilm", False)):
        times = loaded(name)._pass_times
        before = times.relative()
        for rows in ROWS[:2] * 2:
            times.add(rows, 1.0 + rows)
        assert (times.relative() != before) == measures


@pytest.mark.parametrize("value", ["on", None, True, "NGRAM"])
def test_other_values(value: Any, loaded: Loader) -> None:
    with pytest.raises(OptionError, match=r"speculate: found .*, expected 'ngram' or 'off'"):
        loaded("bitnet-2b").stream(PROMPT, speculate=value)


# --- drafts -------------------------------------------------------------------------------------


def forced(
    cost: Sequence[float], odds: float, rng: np.random.Generator, tokens: int = 400
) -> float:
    """Return tokens per pass of one row, for a text of which `odds` of all guesses are right.

    Args:
        cost: time of a pass for each of `ROWS`.
        odds: the probability that a token is the one that was guessed.
        rng: of the text and of the times, which are up to 10 % longer, and some 3 times as long.
        tokens: of the text.
    """
    text = np.concatenate([rng.integers(0, 500, 64), np.empty(tokens + 1, np.int64)])
    times, taken, now = PassTimes(), 0.0, 64
    drafting = NgramDraft(times)
    while now < 64 + tokens:
        draft = drafting.draft(text[:now], 64 + tokens - now)
        seconds = cost[ROWS.index(1 + len(draft))]
        taken += seconds
        times.add(
            1 + len(draft), seconds * rng.uniform(1, 1.1) * rng.choice([1, 3], p=[0.98, 0.02])
        )
        for guess in [*draft, None]:
            text[now] = next_token(text[:now], odds, rng)
            now += 1
            if guess != text[now - 1]:
                break
    return tokens / taken


def next_token(text: npt.NDArray[np.int64], odds: float, rng: np.random.Generator) -> int:
    source, _ = longest_match(text)
    others = text[text != text[source]]
    return int(text[source] if rng.random() < odds else rng.choice(others))


# Bought by reading weights once: an eighth of a pass for a row, then more; or nothing at all.
CHEAP = (1, 1.13, 1.35, 1.6, 1.75, 2.0, 2.25, 3.0, 3.5)
DEAR = ROWS


@pytest.mark.parametrize(
    ("cost", "odds", "least"),
    [
        (CHEAP, 0, 0.97), (CHEAP, 0.1, 0.96), (CHEAP, 0.3, 1.0), (CHEAP, 0.7, 1.45),
        (CHEAP, 0.9, 2.0), (CHEAP, 1, 3.0), (DEAR, 0, 0.97), (DEAR, 0.9, 0.9),
    ],
)  # fmt: skip
def test_drafts_pay(
    cost: Sequence[float], odds: float, least: float, rng: np.random.Generator
) -> None:
    """The best possible at 0.7 is 1.63, at 0.9 2.5, at 1 4.5."""
    assert np.mean([forced(cost, odds, rng) for _ in range(6)]) > least


def test_a_text_that_begins_to_repeat_itself(rng: np.random.Generator) -> None:
    """After a long time without a right guess, drafts are long again within 16 tokens."""
    times = PassTimes(0.3)
    drafting = NgramDraft(times)
    text = rng.integers(0, 40, 700)
    lengths = [len(drafting.draft(text[:now], 100)) for now in range(100, 400)]
    assert np.mean(lengths) < 0.2
    text[400:] = text[50:350]
    lengths = [len(drafting.draft(text[:now], 100)) for now in range(400, 500)]
    assert lengths[16] >= 5
    assert lengths[-1] == ROWS[-1] - 1


def test_a_time_that_was_disturbed_is_forgotten() -> None:
    """The first pass of 2 rows that counts took ten times as long as the others."""
    times = PassTimes()
    for _ in range(3):
        times.add(1, 1.0)
    for seconds in (5.0, 10.0):
        times.add(2, seconds)
    assert times.relative()[1] > 9
    for _ in range(8):
        times.add(2, 1.2)
    assert times.relative()[1] == pytest.approx(1.2, rel=0.05)


# --- matches ------------------------------------------------------------------------------------


def brute_force(tokens: list[int]) -> tuple[int, int]:
    """Return the longest match by its definition."""
    best = (0, 0)
    for end in range(1, len(tokens)):
        length = 0
        while length < min(end, 32) and tokens[end - 1 - length] == tokens[-1 - length]:
            length += 1
        if length and length >= best[1]:
            best = (end, length)
    return best


@pytest.mark.parametrize("alphabet", [1, 2, 3, 8])
def test_the_longest_match(alphabet: int, rng: np.random.Generator) -> None:
    for length in (1, 2, 3, 10, 80):
        for _ in range(5):
            tokens = rng.integers(0, alphabet, length)
            assert longest_match(tokens) == brute_force(tokens.tolist())


def test_a_match_that_reaches_the_end_is_continued_periodically() -> None:
    drafting = NgramDraft(PassTimes(0.0))
    assert drafting.draft(np.array([9, 1, 2, 3, 1, 2, 3]), 7) == [1, 2, 3, 1, 2, 3, 1]
    assert drafting.draft(np.array([4, 4]), 3) == [4, 4, 4]
    assert drafting.draft(np.array([4, 4]), 0) == []
    assert drafting.draft(np.array([1, 2, 3]), 100) == []
    assert drafting.draft(np.array([1]), 100) == []
