"""Where memory is scarce: a smaller context, a word about it, and texts that end with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from rsr_formats import pages
from rsr_formats.pages import AvailableMemory
from rsr_runtime.llm import Engine, Job, LanguageModel, ScarceMemoryWarning, kv_cache, scarce_memory
from rsr_runtime.llm.errors import CacheMemoryError
from rsr_runtime.llm.job import Event, Failed, Finished
from rsr_testing import loader
from rsr_testing.loader import Loader

Available = Callable[[int | Callable[[], int]], None]
FAMILY = "bitnet-2b"


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> Available:
    """A function that sets the bytes that are available, or what returns them."""

    def set_bytes(nbytes: int | Callable[[], int]) -> None:
        def found() -> AvailableMemory:
            return AvailableMemory(nbytes if isinstance(nbytes, int) else max(0, nbytes()))

        for module in ("scarce_memory", "kv_cache", "model", "layers.attention"):
            name = f"rsr_runtime.llm.{module}.available_memory"
            monkeypatch.setattr(name, found)

    return set_bytes


def position_bytes(model: LanguageModel) -> int:
    return model.new_session().cache.position_bytes


def weights_of(model: LanguageModel) -> int:
    return sum(layer.weight.nbytes for layer in model.weights.linear)


def test_the_context_takes_half_of_what_the_weights_leave(
    loaded: Loader, available: Available, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scarce_memory, "_LEAST_CONTEXT", 128)
    whole = loaded(FAMILY)
    most, mapped, nbytes = whole.context, weights_of(whole), position_bytes(whole)
    assert most == 256
    needed = mapped + 2 * most * nbytes
    available(needed)
    assert loaded(FAMILY).context == most
    available(needed - 2)
    with pytest.warns(
        ScarceMemoryWarning,
        match=r"128 positions instead of 256, .* take .* because .* are available: kv int8 takes",
    ) as warned:
        assert loaded(FAMILY).context == most // 2
    assert warned[0].filename == loader.__file__
    assert loaded(FAMILY, context=most).context == most  # asked for
    assert loaded(FAMILY, kv="int8").context == most
    available(mapped)
    with pytest.warns(ScarceMemoryWarning, match="128 positions"):
        assert loaded(FAMILY).context == 128  # an eighth of the memory holds less: the least


@pytest.mark.filterwarnings("ignore:the context has")
@pytest.mark.parametrize(
    ("most", "context"), [(4096, 256), (4000, 256), (300, 256), (256, 256), (100, 100)]
)
def test_a_context_has_256_positions_at_least(
    most: int, context: int, available: Available
) -> None:
    available(0)
    assert scarce_memory.default_context(most, 1, 0, "float16") == context


def test_the_advice_is_not_what_was_done(available: Available) -> None:
    available(0)
    with pytest.warns(ScarceMemoryWarning) as warned:
        scarce_memory.default_context(4096, 1, 0, "int8")
    assert "kv int8" not in str(warned[0].message)


def test_weights_that_memory_cannot_hold(loaded: Loader, available: Available) -> None:
    """They leave a quarter of the memory to the context, and are read anyway."""
    mapped = weights_of(loaded(FAMILY))
    available(mapped)
    loaded(FAMILY, context=64)
    available(mapped - 1)
    with pytest.warns(
        ScarceMemoryWarning, match=r"the weights have .* but .* available: .* is slow; free memory"
    ) as warned:
        model = loaded(FAMILY, context=64)
    assert warned[0].filename == loader.__file__
    assert len(model.generate([5, 6], max_tokens=3).tokens) == 3


def test_a_system_that_does_not_say(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_PROC", Path("/nowhere"))
    model = loaded(FAMILY)
    assert model.context == 256
    assert len(model.generate([5, 6], max_tokens=3).tokens) == 3


def room(model: LanguageModel, positions: int) -> int:
    """Return the memory that a cache needs to grow by so many positions, with the reserve."""
    return (positions + model.context) * position_bytes(model)


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is asked for position by position."""
    monkeypatch.setattr(kv_cache, "_PIECE", 1)


@pytest.mark.usefixtures("fine")
def test_positions_beyond_memory_are_refused_before_they_are_written(
    loaded: Loader, available: Available
) -> None:
    model = loaded(FAMILY)
    expected = model.next_logits([5] * 39)
    available(room(model, 39))
    needs = (
        r"keys and values of 40 positions need .* more, and other work .*, but .* are available: "
        "choose a shorter text, or kv int8"
    )
    session = model.new_session()
    with pytest.raises(CacheMemoryError, match=needs):
        session.follow([5] * 40)
    assert session.tokens == []
    np.testing.assert_array_equal(session.follow([5] * 39), expected)
    available(2 * 32 * position_bytes(model))  # a cache of 32 positions, and as much beside it
    with pytest.raises(CacheMemoryError, match="of 33 positions"):
        model.embed([[5] * 33], pooling="mean")
    assert model.embed([[5] * 32], pooling="mean").shape == (1, model.config.hidden_size)


@pytest.fixture
def engine(loaded: Loader, available: Available) -> Iterator[Engine]:
    """Memory for 150 positions of all sessions."""
    model = loaded(FAMILY)
    model.config = replace(model.config, eos_token_ids=(1 << 30,))  # texts do not end early
    total, nbytes = room(model, 150), position_bytes(model)
    with Engine(model, parallel=2) as engine:
        sessions = engine._worker()._batch
        available(lambda: total - nbytes * sum(len(one.tokens) for one in sessions.sessions))
        yield engine


def result(engine: Engine, *jobs: Job) -> list[list[Event]]:
    return [list(stream) for stream in [engine.submit(job) for job in jobs]]


@pytest.mark.usefixtures("fine")
@pytest.mark.parametrize("speculate", ["off", "ngram"])
def test_idle_sessions_make_room(engine: Engine, speculate: Literal["off", "ngram"]) -> None:
    for token in (5, 6, 7):
        job = Job([token] * 60, max_tokens=20, speculate=speculate)
        ((*_, last),) = result(engine, job)
        assert last == Finished()
    ((*_, last),) = result(engine, Job([8] * 140, max_tokens=60, speculate=speculate))
    assert isinstance(last, Failed)
    assert isinstance(last.error, CacheMemoryError)
    ((*_, last),) = result(engine, Job([9] * 60, max_tokens=20, speculate=speculate))
    assert last == Finished()


@pytest.mark.usefixtures("fine")
def test_a_text_beyond_memory_ends_alone(engine: Engine) -> None:
    """Two texts do not fit: one is ended, and the other goes on."""
    found = result(engine, *(Job([token] * 50, max_tokens=50) for token in (5, 6)))
    lasts = [events[-1] for events in found]
    assert sum(last == Finished() for last in lasts) == 1
    (failed,) = [last for last in lasts if isinstance(last, Failed)]
    assert isinstance(failed.error, CacheMemoryError)
