"""An engine: each job yields what it would yield alone, whatever is computed beside it."""

from __future__ import annotations

import gc
import os
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime import ClosedError, OptionError
from rsr_runtime.llm import (
    ContextFullError,
    Engine,
    Job,
    LanguageModel,
    ModelError,
    PromptError,
    QueueFullError,
    Sampling,
)
from rsr_runtime.llm.errors import CacheMemoryError
from rsr_runtime.llm.job import (
    Event,
    Failed,
    Finished,
    PromptScored,
    Started,
    TextFinished,
    TokenAdded,
)
from rsr_testing.loader import Loader
from rsr_testing.process import IN_A_CHILD, run_python

DRAWN = Sampling(temperature=1.0, top_p=0.95, seed=3)


def tokens_of(count: int, seed: int) -> list[int]:
    result: list[int] = np.random.default_rng(seed).integers(3, 200, count).tolist()
    return result


@pytest.fixture
def model(loaded: Loader) -> LanguageModel:
    model = loaded("bitnet-2b")
    model.config = replace(model.config, eos_token_ids=(1 << 30,))  # texts do not end early
    return model


@pytest.fixture
def engine(model: LanguageModel) -> Iterator[Engine]:
    with Engine(model, parallel=3, queue=40) as engine:
        yield engine


def text_of(events: list[Event]) -> tuple[str, list[int]]:
    """Return the text and tokens of a job with one text, whose events agree."""
    assert events[-1] == Finished()
    (ended,) = [event.generation for event in events if isinstance(event, TextFinished)]
    added = [event for event in events if isinstance(event, TokenAdded)]
    assert "".join(event.text for event in added) == ended.text
    assert [event.token for event in added] == ended.tokens
    return ended.text, ended.tokens


def alone(model: LanguageModel, job: Job) -> tuple[str, list[int]]:
    found = model.generate(job.prompt, max_tokens=job.max_tokens, sampling=job.sampling)
    return found.text, found.tokens


class Held:
    """A constraint that allows all tokens, and stops the engine's thread until it is released."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        self.begun.set()
        assert self.released.wait(30)

    def accept(self, token: int) -> None:
        pass


# --- exactness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kv", ["float16", "int8"])
def test_a_text_is_what_it_is_alone(kv: Any, seed: int, loaded: Loader) -> None:
    """Beside others that come and are canceled at random, and beside the model itself."""
    model, rng = loaded("bitnet-2b", kv=kv), random.Random(seed)
    begin = tokens_of(40, 1)
    jobs = [
        Job(
            begin[: rng.choice((0, 0, 20, 40))] + tokens_of(rng.randint(1, 90), rng.randint(0, 3)),
            max_tokens=rng.randint(1, 25),
            sampling=Sampling(temperature=rng.choice((0.0, 1.2)), seed=rng.randint(0, 99)),
            speculate=rng.choice(("off", "ngram")),
        )
        for _ in range(24)
    ]
    expected = [alone(loaded("bitnet-2b", kv=kv), job) for job in jobs]
    wrong: list[int] = []

    own_engine = Engine(model, parallel=3)

    def client(own: list[int]) -> None:
        for i in own:
            stream = own_engine.submit(jobs[i])
            if i % 5 == 0:
                events = [event for _, event in zip(range(i % 7), stream, strict=False)]
                stream.cancel()
                if not isinstance([*events, *stream][-1], Finished):
                    wrong.append(i)
            elif text_of(list(stream)) != expected[i]:
                wrong.append(i)

    def neighbor() -> None:
        wrong.extend(i for i in range(0, 24, 5) if alone(model, jobs[i]) != expected[i])

    with own_engine:
        order = rng.sample(range(24), 24)
        works: list[Callable[[], None]] = [neighbor]
        works += [lambda own=order[first::5]: client(own) for first in range(5)]  # type: ignore[misc]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = own_engine.stats()
    assert wrong == []
    assert (stats.running, stats.waiting) == (0, 0)


def test_other_models_yield_their_texts_within_rounding(loaded: Loader) -> None:
    job = Job(tokens_of(20, 1), max_tokens=6, logprobs=0)
    model = loaded("bonsai")
    with Engine(model) as engine:
        streams = [engine.submit(job), *(engine.submit(Job(tokens_of(9, 2))) for _ in range(3))]
        added = [event for event in streams[0] if isinstance(event, TokenAdded)]
    logits = model.logits([*job.prompt, *(event.token for event in added)])[19:-1]
    for row, event in zip(logits, added, strict=True):
        assert event.logprob is not None
        assert event.logprob.logprob == pytest.approx(log_softmax(row)[event.token], abs=1e-4)


# --- events -------------------------------------------------------------------------------------


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def test_events_of_a_job_with_everything(model: LanguageModel, engine: Engine) -> None:
    prompt = tokens_of(70, 1)
    list(engine.submit(Job(prompt, max_tokens=2)))  # cached, but scores need all logits
    job = Job(prompt, max_tokens=3, sampling=DRAWN, texts=2, logprobs=3, prompt_logprobs=1)
    started, scored, *rest, finished = engine.submit(job)
    assert isinstance(started, Started)
    assert (started.prompt_tokens, started.cached_tokens) == (70, 0)
    assert isinstance(scored, PromptScored)
    assert scored.logprobs[0] is None
    expected = [log_softmax(row) for row in model.logits(prompt)]
    assert len(scored.logprobs) == 70
    for token, row, found in zip(prompt[1:], expected, scored.logprobs[1:], strict=False):
        assert found is not None
        assert (found.token, found.top[0][0]) == (token, int(row.argmax()))
        assert found.logprob == pytest.approx(row[token], abs=1e-5)
    assert finished == Finished()
    for index in range(2):
        own = [e for e in rest if isinstance(e, TokenAdded) and e.text_index == index]
        seeded = replace(DRAWN, seed=3 + index)
        tokens = model.generate(prompt, max_tokens=3, sampling=seeded).tokens
        assert [event.token for event in own] == tokens
        logits = model.logits([*prompt, *tokens])[69:-1]
        for event, row in zip(own, map(log_softmax, logits), strict=True):
            assert event.logprob is not None
            assert event.logprob.logprob == pytest.approx(row[event.token], abs=1e-5)
            assert [token for token, _ in event.logprob.top] == list(np.argsort(-row)[:3])
    ended = [event for event in rest if isinstance(event, TextFinished)]
    assert sorted(event.text_index for event in ended) == [0, 1]
    assert {event.generation.finish_reason for event in ended} == {"length"}


def test_a_prompt_that_is_only_read(engine: Engine, model: LanguageModel) -> None:
    full = tokens_of(model.context, 1)
    events = list(engine.submit(Job(full, max_tokens=0, prompt_logprobs=0)))
    assert [type(event) for event in events] == [Started, PromptScored, TextFinished, Finished]
    assert events[2].generation.tokens == []  # type: ignore[union-attr]
    with pytest.raises(ContextFullError):
        engine.submit(Job(full))


def test_a_function_takes_the_events(engine: Engine) -> None:
    events: list[Event] = []
    done = threading.Event()

    def take(event: Event) -> None:
        events.append(event)
        if isinstance(event, Finished):
            done.set()

    stream = engine.submit(Job(tokens_of(9, 1), max_tokens=4), take)
    assert done.wait(30)
    assert text_of(events) == text_of(list(engine.submit(Job(tokens_of(9, 1), max_tokens=4))))
    assert list(stream) == []


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_function_that_fails_cancels_its_job_alone(
    kind: type[BaseException], engine: Engine
) -> None:
    def fail(event: Event) -> None:
        raise kind

    engine.submit(Job(tokens_of(9, 1)), fail)
    text_of(list(engine.submit(Job(tokens_of(9, 1), max_tokens=4))))
    assert engine.stats().running == 0


def test_special_tokens_that_are_shown(model: LanguageModel, monkeypatch: Any) -> None:
    ids = model.tokenizer.encode("so<|eot_id|> it is", special=False)
    end = model.tokenizer.token_id("<|eot_id|>")
    assert end is not None
    assert end in ids
    for shown, expected in (({end}, "so<|eot_id|> it is"), (set[int](), "so it is")):
        said = iter(ids)
        monkeypatch.setattr("rsr_runtime.llm.generate.Sampler.__call__", lambda *_: next(said))  # noqa: B023
        with Engine(model) as engine:
            job = Job([5, 6], max_tokens=len(ids), shown_special=frozenset(shown))
            assert text_of(list(engine.submit(job)))[0] == expected


class Only:
    """A constraint that allows one token, and then fails."""

    def __init__(self, token: int, then: BaseException | None = None) -> None:
        self.token, self.then = token, then
        self.accepted: list[int] = []

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        if self.then is not None and self.accepted:
            raise self.then
        logits[np.arange(len(logits)) != self.token] = -np.inf

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_a_constraint(model: LanguageModel, engine: Engine) -> None:
    made: list[Only] = []
    job = Job(
        tokens_of(9, 1), max_tokens=3, texts=2, sampling=DRAWN, logprobs=1,
        constraint=lambda: made.append(Only(77)) or made[-1],  # type: ignore[func-returns-value]
    )  # fmt: skip
    added = [event for event in engine.submit(job) if isinstance(event, TokenAdded)]
    assert {event.token for event in added} == {77}
    assert [one.accepted for one in made] == [[77] * 3] * 2
    first = log_softmax(model.next_logits(tokens_of(9, 1)))
    assert added[0].logprob is not None  # of the logits before the constraint
    assert added[0].logprob.logprob == pytest.approx(first[77], abs=1e-5)
    assert added[0].logprob.top[0][0] == first.argmax()


def test_a_constraint_that_fails_ends_its_job_alone(engine: Engine) -> None:
    error = RuntimeError("no such grammar")
    failing = engine.submit(Job(tokens_of(9, 1), constraint=lambda: Only(77, error)))
    other = engine.submit(Job(tokens_of(9, 1), max_tokens=5))
    assert list(failing)[-1] == Failed(error)
    text_of(list(other))


def test_a_pass_that_fails_after_a_text_ended(
    model: LanguageModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsr_runtime.llm.batch.LOGIT_ROWS", 1)
    error, calls = RuntimeError("no logits"), 0
    logits = model._decoder.logits

    def failing(hidden: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return logits(hidden)

    monkeypatch.setattr(model._decoder, "logits", failing)
    assert list(engine.submit(Job([5], max_tokens=1, texts=2)))[-1] == Failed(error)
    text_of(list(engine.submit(Job([5], max_tokens=1))))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_jobs_are_refused_once_the_thread_has_ended(engine: Engine) -> None:
    assert engine.is_alive
    streams = [
        engine.submit(Job(tokens_of(9, 2), max_tokens=200)),
        engine.submit(Job(tokens_of(9, 1), constraint=lambda: Only(77, SystemExit()))),
    ]
    for stream in streams:
        *_, failed = stream
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ClosedError)
    with pytest.raises(ClosedError):
        engine.submit(Job([5]))
    streams[0]._worker._thread.join(30)
    assert not engine.is_alive


def test_a_job_without_memory_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise error

    held, error = Held(), CacheMemoryError("not enough memory")
    running = engine.submit(Job(tokens_of(9, 1), max_tokens=5, constraint=lambda: held))
    assert held.begun.wait(30)
    monkeypatch.setattr("rsr_runtime.llm.model.KVCache", no_memory)
    failing = engine.submit(Job(tokens_of(9, 2), texts=3))
    held.released.set()
    assert list(failing) == [Failed(error)]
    text_of(list(running))
    text_of(list(engine.submit(Job(tokens_of(9, 2), max_tokens=2))))  # in the idle session
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


# --- cancel and queue ---------------------------------------------------------------------------


def test_cancel_in_the_queue_and_between_tokens(model: LanguageModel) -> None:
    held = Held()
    with Engine(model, parallel=1, queue=3) as engine:
        running = engine.submit(Job(tokens_of(9, 1), max_tokens=200, constraint=lambda: held))
        assert held.begun.wait(30)
        waiting = [engine.submit(Job(tokens_of(9, i), max_tokens=2)) for i in range(3)]
        with pytest.raises(QueueFullError, match="3 requests wait already") as caught:
            engine.submit(Job(tokens_of(9, 1)))
        assert caught.value.retry_after >= 1
        assert (engine.stats().running, engine.stats().waiting) == (1, 3)
        waiting[1].cancel()
        running.cancel()
        running.cancel()
        held.released.set()
        assert list(waiting[1]) == [Finished(canceled=True)]
        *_, ended, finished = running
        assert isinstance(ended, TextFinished)
        assert ended.generation.finish_reason == "interrupted"
        assert len(ended.generation.tokens) == 1  # no pass after the cancel
        assert finished == Finished(canceled=True)
        for stream in (waiting[0], waiting[2]):
            text_of(list(stream))
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)
        waiting[0].cancel()  # too late: no effect


def test_cancel_while_a_prompt_is_read(model: LanguageModel, monkeypatch: Any) -> None:
    monkeypatch.setattr("rsr_runtime.llm.batch.MAX_ROWS", 8)
    computed: list[int] = []
    hidden = model._decoder.hidden

    def canceling(batch: Any) -> Any:
        computed.append(sum(len(item.tokens) for item in batch))
        if len(computed) == 2:
            stream.cancel()
        return hidden(batch)

    monkeypatch.setattr(model._decoder, "hidden", canceling)
    with Engine(model) as engine:
        stream = engine.submit(Job(tokens_of(100, 1)))
        *_, finished = stream
    assert finished == Finished(canceled=True)
    assert computed == [8, 8]


# --- what is computed ---------------------------------------------------------------------------


def cached_of(engine: Engine, prompt: list[int], max_tokens: int = 4, texts: int = 1) -> int:
    """Run a job; return how many tokens of its prompt were cached."""
    events = list(engine.submit(Job(prompt, max_tokens=max_tokens, texts=texts)))
    assert isinstance(events[0], Started)
    return events[0].cached_tokens


def test_only_what_is_new_is_computed(model: LanguageModel, monkeypatch: Any) -> None:
    computed: list[int] = []
    hidden = model._decoder.hidden

    def counting(batch: Any) -> Any:
        computed.append(sum(len(item.tokens) for item in batch))
        return hidden(batch)

    monkeypatch.setattr(model._decoder, "hidden", counting)

    def rows() -> int:
        total = sum(computed)
        computed.clear()
        return total

    with Engine(model, parallel=2) as engine:
        system, other = tokens_of(50, 1), tokens_of(30, 9)
        first = system + tokens_of(10, 2)
        answer = text_of(list(engine.submit(Job(first, max_tokens=4))))[1]
        assert rows() == 60 + 3
        assert cached_of(engine, first) == 59  # regenerated
        assert rows() == 1 + 3
        turn = first + answer + tokens_of(5, 3)
        assert cached_of(engine, turn) == 63  # the next turn; the last token was never computed
        assert rows() == 6 + 3
        assert cached_of(engine, system + tokens_of(7, 4)) == 50  # the shared system prompt
        assert rows() == 7 + 3
        assert cached_of(engine, [*turn, 5]) == 69 + 3 - 3  # the conversation kept its session
        rows()
        assert cached_of(engine, other, texts=3) == 0
        assert rows() == 30 + 2 + 3 * 3
        assert cached_of(engine, other[:20]) == 19
        # Several that come at once share what the first computes.
        held = Held()
        blocker = engine.submit(Job([5], max_tokens=1, constraint=lambda: held))
        assert held.begun.wait(30)
        rows()
        new = tokens_of(60, 7)
        streams = [engine.submit(Job(new + tokens_of(3, 10 + i), max_tokens=1)) for i in range(2)]
        held.released.set()
        for stream in (blocker, *streams):
            text_of(list(stream))
        assert rows() == 60 + 3 + 3


def test_the_least_recently_used_session_goes_first(model: LanguageModel) -> None:
    with Engine(model, parallel=1) as engine:  # five sessions
        prompts = [tokens_of(40, i) for i in range(6)]
        for prompt in prompts[:5]:
            assert cached_of(engine, prompt) == 0
        assert cached_of(engine, prompts[0]) == 39
        assert cached_of(engine, prompts[5]) == 0
        assert cached_of(engine, prompts[0]) == 39
        assert cached_of(engine, prompts[1]) == 0


def test_a_prompt_that_shares_nothing_takes_a_free_session(model: LanguageModel) -> None:
    with Engine(model, parallel=1) as engine:  # five sessions
        prompt = tokens_of(40, 1)
        cached_of(engine, prompt)
        list(engine.submit(Job(tokens_of(9, 2), max_tokens=0, prompt_logprobs=0)))
        assert cached_of(engine, [5]) == 0
        assert cached_of(engine, prompt) == 39


def test_passes_are_recorded_anew_only_for_other_sessions(model: LanguageModel) -> None:
    recorded: list[int] = []
    record = model._decoder._record

    def counting(lengths: Any) -> Any:
        recorded.append(len(lengths))
        return record(lengths)

    model._decoder._record = counting  # type: ignore[method-assign]
    with Engine(model, parallel=4) as engine:
        for _ in range(2):
            recorded.clear()
            streams = [engine.submit(Job(tokens_of(9, i), max_tokens=60)) for i in range(4)]
            for stream in streams:
                text_of(list(stream))
    assert len(recorded) <= 8  # prompts, and each set of sessions as texts begin and end


# --- refusals, close and processes --------------------------------------------------------------


def test_wrong_jobs_are_refused_before_any_work(engine: Engine, model: LanguageModel) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"prompt": []}, PromptError, "the prompt is empty"),
        ({"prompt": [1 << 30]}, PromptError, "found token"),
        ({"prompt": [5] * 256}, ContextFullError, "256 tokens"),
        ({"max_tokens": -1}, OptionError, "max_tokens"),
        ({"texts": 0}, OptionError, "texts"),
        ({"logprobs": -1}, OptionError, "logprobs"),
        ({"prompt_logprobs": -1}, OptionError, "prompt_logprobs"),
        ({"stop": [""]}, PromptError, "stop"),
        ({"sampling": 5}, OptionError, "sampling"),
    ]
    for given, kind, words in wrong:
        with pytest.raises(kind, match=words):
            engine.submit(Job(**{"prompt": [5], **given}))
    assert engine.stats() == replace(engine.stats(), running=0, waiting=0, prompt_tokens=0)
    with pytest.raises(OptionError, match="parallel"):
        Engine(model, parallel=0)
    with pytest.raises(OptionError, match="queue"):
        Engine(model, queue=0)
    for what in (engine, engine.submit(Job([5], max_tokens=1))):
        with pytest.raises(ModelError, match="cannot be pickled"):
            pickle.dumps(what)


def test_logits_that_are_not_finite_end_their_job(model: LanguageModel) -> None:
    norm = model.weights.norm * np.float32(np.nan)
    model._decoder._weights = replace(model.weights, norm=norm)
    with Engine(model) as engine:
        *_, failed = engine.submit(Job([5], max_tokens=3))
    assert isinstance(failed, Failed)
    assert "no token can be chosen" in str(failed.error)


def test_close_lets_jobs_finish_for_a_while(model: LanguageModel) -> None:
    engine = Engine(model, parallel=1)
    streams = [engine.submit(Job(tokens_of(9, i), max_tokens=10)) for i in range(3)]
    engine.close(30)
    for stream in streams:
        text_of(list(stream))
    with pytest.raises(ClosedError, match="the engine was closed"):
        engine.submit(Job([5]))
    held = Held()
    engine = Engine(model, parallel=1)
    streams = [engine.submit(Job(tokens_of(9, i), constraint=lambda: held)) for i in range(2)]
    assert held.begun.wait(30)
    threading.Timer(0.1, held.released.set).start()
    engine.close()
    for stream in streams:
        *_, failed = stream
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ClosedError)


def test_closing_the_model_ends_all_jobs(model: LanguageModel) -> None:
    with Engine(model, parallel=1) as engine:
        streams = [engine.submit(Job(tokens_of(9, i), max_tokens=200)) for i in range(3)]
        next(streams[0])
        model.close()
        for stream in streams:
            *_, failed = stream
            assert isinstance(failed, Failed)
            assert isinstance(failed.error, ClosedError)
        with pytest.raises(ClosedError, match="the model was closed"):
            engine.submit(Job([5]))


def test_an_engine_lives_as_long_as_its_jobs(model: LanguageModel) -> None:
    stream = Engine(model).submit(Job(tokens_of(9, 1), max_tokens=20))
    gc.collect()
    text_of(list(stream))
    thread = stream._worker._thread
    del stream
    end = time.monotonic() + 30
    while thread.is_alive() and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork needs a POSIX system")
def test_a_forked_child_has_an_engine_without_jobs(loaded: Loader) -> None:
    code = (
        IN_A_CHILD
        + """
import threading
from rsr_runtime import llm
model = llm.load(sys.argv[1])
engine = llm.Engine(model, parallel=2)
def text(prompt="To be or not"):
    return list(engine.submit(llm.Job(prompt, max_tokens=6)))[-2].generation.tokens
expected = text()
endless = [engine.submit(llm.Job("To be", max_tokens=240), lambda event: None) for _ in range(3)]
def refused():
    stream = engine.submit(llm.Job("To be", max_tokens=200))
    def in_the_child():
        stream.cancel()
        try:
            next(stream)
        except llm.errors.RsrError:
            return True
    return in_the_child
for _ in range(4):
    time.sleep(0.003)
    in_a_child(lambda: text() == expected, 20)
in_a_child(refused(), 20)
engine.close()
print("done")
"""
    )
    path = loaded._models.path("bitnet-2b")
    done = run_python(code, path, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
