"""One language model and many threads: each gets what it would get alone."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import signal
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pytest

from rsr_runtime import ClosedError
from rsr_runtime.llm import BusyError, Chat, LanguageModel, ModelError, Sampling
from rsr_runtime.llm.turns import Turns
from rsr_testing.loader import Loader
from rsr_testing.process import IN_A_CHILD, run_python

TEXT = "the weights of a trained network are three numbers, and nothing more than that"


def prompt_of(number: int) -> str:
    """Return one of several prompts, some of which begin alike."""
    return TEXT[: 12 + 5 * (number % 4)] + TEXT[number % 50 : 50]


def tokens_of(count: int, seed: int) -> list[int]:
    result: list[int] = np.random.default_rng(seed).integers(3, 200, count).tolist()
    return result


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Return work(0), work(1), ..., each from a thread of its own, all at the same time."""
    start = threading.Barrier(count)

    def begin(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


@contextmanager
def computed(model: LanguageModel) -> Iterator[Counter[str]]:
    """Count the tokens that the decoder computes, and the passes that it records."""
    decoder, counts = model._decoder, Counter[str]()
    hidden, record = decoder.hidden, decoder._record

    def counting_hidden(batch: Any) -> Any:
        counts["tokens"] += sum(len(item.tokens) for item in batch)
        return hidden(batch)

    def counting_record(lengths: Any) -> Any:
        counts["recorded"] += 1
        return record(lengths)

    decoder.hidden, decoder._record = counting_hidden, counting_record  # type: ignore[method-assign]
    yield counts
    del decoder.hidden, decoder._record


# --- every call ---------------------------------------------------------------------------------


def a_generation(model: LanguageModel, number: int) -> Any:
    sampling = Sampling(temperature=0.8, seed=number) if number % 2 else Sampling()
    found = model.generate(prompt_of(number), max_tokens=8, sampling=sampling)
    return found.text, found.tokens, found.finish_reason


def a_stream(model: LanguageModel, number: int) -> Any:
    return list(model.stream(prompt_of(number), max_tokens=9, sampling=Sampling(seed=1)))


def a_chat(model: LanguageModel, number: int) -> Any:
    chat = Chat(model, "Be brief.")
    for text in (prompt_of(number)[:20], "And then?"):
        for _ in chat.say(text, max_tokens=4):
            pass
    return chat.messages


def several(model: LanguageModel, number: int) -> Any:
    prompts = [prompt_of(number + i) for i in range(1 + number % 3)]
    return [found.tokens for found in model.generate_all(prompts, max_tokens=6)]


def next_logits(model: LanguageModel, number: int) -> Any:
    tokens = tokens_of(20, number % 5)
    return [model.next_logits(tokens[:end]).tobytes() for end in (7, 12, 20)]


def all_logits(model: LanguageModel, number: int) -> Any:
    return model.logits(tokens_of(40, number)).tobytes()


def a_perplexity(model: LanguageModel, number: int) -> Any:
    return model.perplexity(prompt_of(number) * 2, window=16).value


CALLS = (a_generation, a_stream, a_chat, several, next_logits, all_logits, a_perplexity)


def test_200_results_in_8_threads_are_those_of_one(loaded: Loader) -> None:
    """Also what is read on first use: tokenizer, chat template, buffers."""
    jobs = [(CALLS[i % len(CALLS)], i // len(CALLS)) for i in range(200)]
    alone = loaded("bitnet-2b")
    expected = [call(alone, number) for call, number in jobs]
    shared = loaded("bitnet-2b")
    order = list(range(len(jobs)))
    random.Random(5).shuffle(order)

    def work(thread: int) -> list[tuple[int, bool]]:
        own = order[thread::8]
        return [(i, jobs[i][0](shared, jobs[i][1]) == expected[i]) for i in own]

    found = list(chain(*in_threads(8, work)))
    assert len(found) == 200
    assert [f"{jobs[i][0].__name__} {jobs[i][1]}" for i, equal in found if not equal] == []
    assert len(shared._sessions._idle) <= 4


@pytest.mark.parametrize("name", ["bonsai", "llama3-1.58"])
def test_texts_of_models_with_float_activations(name: str, loaded: Loader) -> None:
    expected = [a_stream(loaded(name), number) for number in range(4)]
    shared = loaded(name)
    assert in_threads(4, lambda number: a_stream(shared, number)) == expected


# --- streams ------------------------------------------------------------------------------------


def in_turns(streams: list[Iterator[str]]) -> list[str]:
    """Read a piece of each stream after the other; return the texts."""
    texts = [""] * len(streams)
    while pieces := [next(stream, None) for stream in streams]:
        if not any(pieces):
            break
        texts = [text + (piece or "") for text, piece in zip(texts, pieces, strict=True)]
    return texts


def test_streams_in_turns_compute_nothing_twice(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    prompts = [prompt_of(i) for i in range(3)]
    expected = [loaded("bitnet-2b").generate(prompt, max_tokens=20) for prompt in prompts]
    with computed(model) as counts:
        texts = in_turns([model.stream(prompt, max_tokens=20) for prompt in prompts])
    assert texts == [found.text for found in expected]
    # The last token of a text is not computed. A prompt and a step are recorded for each text.
    assert counts["tokens"] == sum(one.prompt_tokens + len(one.tokens) - 1 for one in expected)
    assert counts["recorded"] <= 2 * len(prompts) + 1
    # Their caches serve the texts that come next.
    with computed(model) as counts:
        model.next_logits([*model.encode(prompts[1]), *expected[1].tokens, 5])
    assert counts["tokens"] == 2


def test_a_stream_that_ends_early_gives_its_cache_back(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    tokens = tokens_of(60, 1)

    def computed_by_the_next() -> int:
        with computed(model) as counts:
            model.next_logits(tokens)
        return counts["tokens"]

    streams = [model.stream(tokens, max_tokens=5) for _ in range(2)]
    next(streams[0])
    assert computed_by_the_next() == 60  # the stream keeps its own
    model.next_logits(tokens_of(9, 2))
    next(streams[1])
    streams[0].close()
    assert computed_by_the_next() == 1
    assert list(streams[0]) == []
    assert streams[0].result.finish_reason == "interrupted"
    model.next_logits(tokens_of(9, 2))
    del streams
    gc.collect()
    assert computed_by_the_next() == 1


def test_prompts_side_by_side_share_their_beginning(loaded: Loader) -> None:
    """It is computed once, and the texts are those of each prompt alone."""
    model = loaded("bitnet-2b")
    beginning = tokens_of(30, 1)
    prompts = [beginning + tokens_of(4, 2), beginning, beginning + tokens_of(7, 3), tokens_of(5, 4)]
    alone = [model.generate(prompt, max_tokens=6).tokens for prompt in prompts]
    with computed(model) as counts:
        texts = model.generate_all(prompts, max_tokens=6)
    assert [text.tokens for text in texts] == alone
    prompts_alone, steps = 30 + 4 + 1 + 7 + 5, 5 * 4  # the last token of the second is computed
    assert counts["tokens"] == prompts_alone + steps


def test_a_sequence_may_change_while_a_pool_looks_at_it(loaded: Loader) -> None:
    """Another thread may take a sequence between the look at it and the choice."""
    session = loaded("bitnet-2b").new_session()
    session.follow([256, 5, 6, 7])

    class Tokens(list[int]):
        def __getitem__(self, where: Any) -> Any:
            session.tokens.clear()
            return super().__getitem__(where)

    assert session.common(Tokens([256, 5, 9, 7, 8])) == 2


def test_several_threads_may_read_one_stream(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    expected = list(model.stream(prompt_of(0), max_tokens=40))
    stream = model.stream(prompt_of(0), max_tokens=40)
    pieces = in_threads(4, lambda _: list(stream))
    assert sorted(chain(*pieces)) == sorted(expected)
    assert stream.result.text == "".join(expected)


def test_a_conversation_has_one_answer_at_a_time(loaded: Loader) -> None:
    chat = Chat(loaded("bitnet-2b"))
    answer = chat.say("To be", max_tokens=9)
    next(answer)
    for other in (chat.say("or not"), chat.again()):
        with pytest.raises(BusyError, match="not read to its end"):
            next(other)
    answer.close()
    assert [message["content"] for message in chat.messages[:1]] == ["To be"]

    def work(number: int) -> int:
        try:
            return len(list(chat.say(f"or not {number}", max_tokens=4)))
        except BusyError:
            return 0

    answered = sum(pieces > 0 for pieces in in_threads(4, work))
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * (1 + answered)
    assert answered > 0


# --- turns --------------------------------------------------------------------------------------


def test_threads_alternate() -> None:
    """A thread that asks again at once does not keep the others from their turn."""
    turns, taken, until = Turns("it"), Counter[int](), time.monotonic() + 0.5

    def work(number: int) -> None:
        while time.monotonic() < until:
            with turns.turn():
                time.sleep(0.0005)  # as native code does, it lets other threads run
                taken[number] += 1

    in_threads(3, work)
    assert sum(taken.values()) > 30
    assert min(taken.values()) > sum(taken.values()) / 5


def test_a_callback_within_a_pass_is_refused(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("bitnet-2b")
    expected = model.generate(prompt_of(0), max_tokens=5).text
    hidden = model._decoder.hidden
    stream = model.stream(prompt_of(0), max_tokens=5)

    def calling(batch: Any) -> Any:
        for call in (lambda: model.next_logits([5]), lambda: next(stream)):
            with pytest.raises(BusyError, match="let it set a flag"):
                call()
        return hidden(batch)

    with monkeypatch.context() as patch:
        patch.setattr(model._decoder, "hidden", calling)
        assert "".join(stream) == expected
    assert model.generate(prompt_of(0), max_tokens=5).text == expected


@pytest.mark.parametrize("call", CALLS)
def test_closing_ends_the_calls_of_other_threads(call: Any, loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    file = weakref.ref(model._model._handle.file())
    done = Counter[int]()

    def work(number: int) -> None:
        if number == 3:
            while sum(done.values()) < 4:
                time.sleep(0.001)
            model.close()
            return

        def again_and_again() -> None:
            while True:
                call(model, number)
                done[number] += 1

        with pytest.raises(ClosedError, match="the model was closed"):
            again_and_again()

    in_threads(4, work)
    gc.collect()
    assert file() is None
    assert model._template is None or model._template._worker is None


def test_closing_a_stream_within_a_pass(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The piece that is being read is the last."""
    model = loaded("bitnet-2b")
    stream = model.stream(tokens_of(9, 1), max_tokens=5)
    hidden = model._decoder.hidden

    def closing(batch: Any) -> Any:
        stream.close()
        return hidden(batch)

    first = next(stream)
    with monkeypatch.context() as patch:
        patch.setattr(model._decoder, "hidden", closing)
        assert first + "".join(stream) == stream.result.text
    assert (len(stream.result.tokens), stream.result.finish_reason) == (2, "interrupted")
    with computed(model) as counts:
        model.next_logits(tokens_of(9, 1))
    assert counts["tokens"] == 1  # its cache was free


def test_closing_within_a_pass(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler may: the pass ends, and what it needed is released then."""
    model = loaded("bitnet-2b")
    file = weakref.ref(model._model._handle.file())
    run = model._decoder._recorded

    def closing(lengths: Any) -> Any:
        model.close()
        return run(lengths)

    monkeypatch.setattr(model._decoder, "_recorded", closing)
    with pytest.raises(ClosedError):
        model.generate(tokens_of(5, 1))
    monkeypatch.undo()
    gc.collect()
    assert file() is None


# --- interrupts ---------------------------------------------------------------------------------


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread, as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(os.name != "posix", reason="timers of POSIX")
def test_an_interrupt_ends_a_long_prompt(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = loaded("bitnet-2b"), tokens_of(40, 1)
    expected = loaded("bitnet-2b").next_logits(tokens)
    model.next_logits(tokens[:21])
    record = model._decoder._record
    x = np.ones((512, 4096), np.float32)

    def slow(lengths: Any) -> Any:
        recorded = record(lengths)
        for _ in range(20_000):  # takes a minute or more
            recorded.program.normalize(0, x, None, None, 1e-5, x, None, None)
        return recorded

    with monkeypatch.context() as patch:
        patch.setattr(model._decoder, "_record", slow)
        for call in (lambda: model.next_logits(tokens), lambda: model.generate(tokens)):
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt), interrupted_after(0.2):
                call()
            assert time.monotonic() - start < 10  # a busy machine takes longer than 0.2
    model._decoder._forget_all()  # the slow pass
    np.testing.assert_array_equal(model.next_logits(tokens), expected)


@pytest.mark.skipif(os.name != "posix", reason="timers of POSIX")
def test_interrupts_at_any_moment_leave_a_model_that_others_can_use(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    expected = a_generation(model, 0)
    stop = threading.Event()
    wrong = Counter[bool]()

    def work() -> None:
        while not stop.is_set():
            wrong[a_generation(model, 0) != expected] += 1

    other = threading.Thread(target=work)
    other.start()
    rng, interrupts, until = random.Random(3), 0, time.monotonic() + 30
    while interrupts < 40 and time.monotonic() < until:  # many come after the end of a text
        try:
            with interrupted_after(rng.uniform(0.0001, 0.006)):
                a_generation(model, 2)
        except KeyboardInterrupt:
            interrupts += 1
    stop.set()
    other.join(30)
    assert not other.is_alive()
    assert interrupts == 40
    assert set(wrong) == {False}
    assert a_generation(model, 0) == expected


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork needs a POSIX system")
def test_a_forked_child_can_use_the_model_at_once(loaded: Loader) -> None:
    code = (
        IN_A_CHILD
        + """
import threading
from rsr_runtime import llm
model = llm.load(sys.argv[1])
def text():
    return model.generate("To be or not", max_tokens=6).text
expected = text()
stop = False
def work():
    while not stop:
        text()
busy = [threading.Thread(target=work) for _ in range(3)]
for thread in busy:
    thread.start()
for _ in range(6):
    time.sleep(0.003)
    in_a_child(lambda: text() == expected, 20)
stop = True
for thread in busy:
    thread.join()
print("done")
"""
    )
    path = loaded._models.path("bitnet-2b")
    done = run_python(code, path, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_reprs(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    stream = model.stream([256, 5, 6], max_tokens=2)
    assert repr(stream) == ("<rsr_runtime.llm.Stream: unfinished, 0 tokens after a prompt of 3>")
    list(stream)
    assert repr(stream) == "<rsr_runtime.llm.Stream: length, 2 tokens after a prompt of 3>"
    assert repr(Chat(model, "Be brief.")) == f"<rsr_runtime.llm.Chat: 1 message, {model!r}>"
    session = model.new_session()
    session.follow([256, 5, 6])
    assert repr(session) == "<Session: 3 of 256 positions>"


def test_a_text_in_progress_cannot_be_pickled(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    for what in (model.stream("To be"), model.new_session()):
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(ModelError, match="cannot be pickled: pickle"):
                call(what)


def test_a_model_and_its_chat_are_pickled_by_the_path(loaded: Loader) -> None:
    model = loaded("bitnet-2b", context=100, kv="float32", activations="float32")
    chat = Chat(model, "Be brief.")
    expected = "".join(chat.say("To be", max_tokens=4))
    code = """
import pickle, sys
model, chat = pickle.loads(bytes.fromhex(sys.argv[1]))
print(model, chat.messages[1:])
chat.reset()
print("".join(chat.say("To be", max_tokens=4)), end="")
"""
    data = pickle.dumps((model, chat))
    assert len(data) < 2000
    done = run_python(code, data.hex(), PYTHONIOENCODING="utf-8")
    assert done.stderr == ""
    assert done.stdout == f"{model!r} {chat.messages[1:]}\n{expected}"
    model.close()
    for what in (model, chat):
        with pytest.raises(ClosedError):
            pickle.dumps(what)
