"""A model whose layers sum up the tokens before them: sequences go back only to copies of states.

Whatever a cache held before, a text is the one that it would be alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_runtime import llm
from rsr_runtime.llm import Chat, Engine, Job, LanguageModel, Sampling, prefix_cache
from rsr_runtime.llm.decoder import BatchItem
from rsr_runtime.llm.errors import ModelError
from rsr_runtime.llm.job import TextFinished
from rsr_runtime.llm.layers.mlp import Mlp
from rsr_runtime.llm.layers.sublayer import FloatArray, Pass
from rsr_runtime.llm.session import Session
from rsr_runtime.llm.speculation import PassTimes
from rsr_testing.engines import run
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader
from rsr_testing.models import FAMILIES

EXACT, FLOATS = "qwen3.5-bitnet", "qwen3.5"
TOLERANCE = 2e-4  # of the largest logit, as between this runtime and transformers


def tokens_of(count: int, seed: int) -> list[int]:
    result: list[int] = np.random.default_rng(seed).integers(3, 250, count).tolist()
    return result


def cut(tokens: list[int], rng: np.random.Generator, most: int) -> Iterator[list[int]]:
    """Yield consecutive parts of random lengths."""
    start = 0
    while start < len(tokens):
        stop = start + int(rng.integers(1, most + 1))
        yield tokens[start:stop]
        start = stop


def alone(model: LanguageModel, tokens: list[int]) -> npt.NDArray[np.float32]:
    """Return the logits after a sequence that is read at once, into an empty cache."""
    return model.new_session().follow(tokens)


@pytest.mark.parametrize("name", [EXACT, FLOATS])
def test_a_prompt_in_parts_is_the_prompt_at_once(
    name: str, loaded: Loader, rng: np.random.Generator
) -> None:
    model, tokens = loaded(name, context=250), tokens_of(200, 1)
    expected = model.logits(tokens)
    for most in (1, 4, 60):
        session = model.new_session()
        found: list[FloatArray] = []
        for part in cut(tokens, rng, most):
            with model._decoder.turn():
                item = BatchItem(part, session.cache, len(session.tokens))
                hidden = model._decoder.hidden([item])
                session.append(part)
                rows = (model._decoder.logits(row[None])[0].copy() for row in hidden)
                found += rows
        if name == EXACT:
            np.testing.assert_array_equal(found, expected)
        else:
            error = np.abs(np.stack(found) - expected).max()
            assert error <= TOLERANCE * np.abs(expected).max()


def test_a_session_goes_from_any_sequence_to_any_other(
    loaded: Loader, rng: np.random.Generator
) -> None:
    """Some go on, some branch off, at places where the state was copied and where not."""
    model = loaded(EXACT, context=400)
    session, tokens, repeated = model.new_session(), tokens_of(120, 2), 0
    for seed in range(25):
        kept = int(rng.integers(len(tokens) + 1))
        added = tokens_of(int(rng.choice([1, 2, 9, 40, 120])), 100 + seed)
        tokens = [*tokens[:kept], *added][:390]
        before = session.cache.length
        found = session.follow(tokens)
        np.testing.assert_array_equal(found, alone(model, tokens))
        repeated += before
    assert session.cache.length == len(session.tokens) == len(tokens)


def read_again(session: Session, tokens: list[int]) -> int:
    """Follow tokens; return how many of them were computed."""
    computed = []
    session.follow(tokens, lambda have, _: computed.append(have))
    return len(tokens) - computed[0]


def test_what_is_read_again(loaded: Loader) -> None:
    """A prompt's end is copied, and so is the place where texts were found to branch off."""
    model = loaded(EXACT, context=400)
    session, system = model.new_session(), tokens_of(100, 3)
    prompt = system + tokens_of(60, 4)
    assert read_again(session, prompt) == 160
    assert read_again(session, [*prompt, 5]) == 1  # it goes on
    assert read_again(session, prompt) == 16  # again: from the copy before the end
    assert read_again(session, prompt[:-2] + tokens_of(40, 5)) == 54  # its end replaced
    assert read_again(session, system + tokens_of(70, 6)) == 170  # nothing was kept there ...
    assert read_again(session, system + tokens_of(70, 7)) == 70  # ... but now it is
    assert read_again(session, tokens_of(50, 8)) == 50


def test_a_cache_goes_back_to_copies_and_snapshots(loaded: Loader) -> None:
    model, tokens = loaded(EXACT, context=100), tokens_of(60, 18)
    expected = alone(model, [*tokens[:20], 9])
    session, other = model.new_session(), model.new_session()
    cache = session.cache
    cache.plan(10)
    cache.plan(20)
    assert cache.until_planned(99) == 10
    session.follow(tokens[:25])
    assert cache.positions == [10, 20, 25]
    assert [cache.kept(n) for n in (99, 25, 24, 20, 19, 9)] == [25, 25, 20, 20, 10, 0]
    snapshot = cache.snapshot()
    session.follow(tokens[:31])
    other.cache.copy_prefix(cache, 20)
    other.tokens += tokens[:20]
    np.testing.assert_array_equal(other.follow([*tokens[:20], 9]), expected)
    cache.restore(snapshot)
    assert (cache.length, cache.kept(25)) == (25, 25)
    assert cache.truncate(22) == 20
    with pytest.raises(ModelError, match="positions were truncated"):
        cache.restore(snapshot)
    session.tokens = tokens[:20]
    np.testing.assert_array_equal(session.follow([*tokens[:20], 9]), expected)
    assert cache.truncate(0) == 0
    assert not any(array.any() for array in cache.summed(0))


def test_copies_after_a_snapshot_are_gone_when_it_is_restored(loaded: Loader) -> None:
    model, tokens = loaded(EXACT, context=100), tokens_of(60, 18)
    session = model.new_session()
    cache = session.cache
    session.follow(tokens[:25])
    snapshot = cache.snapshot()
    cache.plan(30)
    session.follow(tokens[:33])
    cache.plan(40)
    assert 30 in (cache.positions or ())
    cache.restore(snapshot)
    assert (cache.positions or ())[-1] == 25
    assert cache.until_planned(60) == 60
    session.tokens = tokens[:25]
    session.follow([*tokens[:25], *tokens_of(20, 19)])
    assert cache.kept(44) == 25
    cache.begin(1)  # a pass that does not end
    with pytest.raises(ModelError, match=r"interrupted, so there is no state .* call truncate"):
        cache.snapshot()


class InterruptedPassError(Exception):
    """Stands for Ctrl-C."""


def test_an_interrupted_pass_is_not_part_of_the_state(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some layers have seen tokens that others have not; the session reads them again."""
    model, tokens = loaded(EXACT, context=700), tokens_of(600, 9)
    expected = alone(model, [*tokens, 7])
    record, session = Mlp.record, model.new_session()
    layers: list[Mlp] = []
    session.follow(tokens[:40])

    def stop() -> None:
        raise InterruptedPassError

    def interrupted(self: Mlp, current: Pass) -> FloatArray:
        delta = record(self, current)
        layers.append(self)
        if len(layers) == 1:  # of two
            current.program.call(0, stop)
        return delta

    for until in (42, 600):  # a short pass, and the second one of a prompt
        with monkeypatch.context() as patch:
            layers.clear()
            model._decoder._forget_all()
            patch.setattr(Mlp, "record", interrupted)
            with pytest.raises(InterruptedPassError):
                session.follow(tokens[:until])
        model._decoder._forget_all()
        assert session.tokens == tokens[:40]
        assert session.missing(tokens[:41]) == 1
    np.testing.assert_array_equal(session.follow([*tokens, 7]), expected)


PROMPT = "Ann met Bob, ab ab ab. Ann met Bob at 10:15, ab ab; Bob met Ann at 10:15. Ann met"


def test_speculation_writes_the_same_text(loaded: Loader) -> None:
    """A draft that is not accepted is taken back; what was accepted of it is computed again."""
    plain, model = loaded(EXACT, context=200), loaded(EXACT, context=200)
    model._pass_times = PassTimes(0.01)
    drafted = accepted = 0
    for seed in range(20):
        sampling = Sampling(temperature=0.3 * (seed % 3), repetition_penalty=0.7, seed=seed)
        options: dict[str, Any] = {"max_tokens": 40, "sampling": sampling}
        expected = plain.generate(PROMPT[seed:], **options)
        found = model.generate(PROMPT[seed:], **options, speculate="ngram")
        assert found.tokens == expected.tokens
        drafted, accepted = drafted + found.drafted_tokens, accepted + found.accepted_tokens
    assert 20 < accepted < drafted - 5


def test_the_text_part_of_a_conditional_class(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    """As published: settings under text_config, names with language_model, and a vision tower."""
    family, folder = FAMILIES[FLOATS], tmp_path / "model"
    tensors = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in family.tensors().items()
    }
    tensors["model.visual.blocks.0.attn.qkv.weight"] = tensors["lm_head.weight"]
    text = {key: value for key, value in family.settings.items() if key != "architectures"}
    config = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": text,
        "vision_config": {"model_type": "qwen3_5", "depth": 1},
        "tie_word_embeddings": False,
        "image_token_id": 7,
    }
    family.save(folder, tensors)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rsrc.compile(folder, tmp_path / "model.rsr")
    tokens = tokens_of(30, 30)
    with llm.load(tmp_path / "model.rsr") as model, llm.load(language_models.path(FLOATS)) as plain:
        np.testing.assert_array_equal(model.logits(tokens), plain.logits(tokens))


def test_an_engine_shares_what_was_copied(loaded: Loader) -> None:
    model, system = loaded(EXACT, context=300), tokens_of(90, 10)
    prompts = [system + tokens_of(40, seed) for seed in (11, 12, 13)]
    prompts.append(prompts[0])
    expected = [model.generate(prompt, max_tokens=6).tokens for prompt in prompts]
    found = run(model, None, *prompts)
    assert found[1::2] == expected
    assert found[0::2] == [0, 0, 90, 114]
    with Engine(model, parallel=4) as engine:  # side by side
        jobs = [engine.submit(Job(prompt, max_tokens=6, texts=2)) for prompt in prompts]
        for job, tokens in zip(jobs, expected, strict=True):
            texts = [e.generation.tokens for e in job if isinstance(e, TextFinished)]
            assert texts == [tokens, tokens]


def test_a_new_engine_takes_up_the_copies_on_disk(loaded: Loader, tmp_path: Path) -> None:
    system = tokens_of(90, 14)
    first, second = (system + tokens_of(70, seed) for seed in (15, 16))
    expected = [loaded(EXACT).generate(prompt, max_tokens=6).tokens for prompt in (first, second)]
    assert run(loaded(EXACT), tmp_path, first)[:2] == [0, expected[0]]
    assert run(loaded(EXACT), tmp_path, first, second) == [144, expected[0], 0, expected[1]]
    third = system + tokens_of(70, 17)
    wanted = loaded(EXACT).generate(third, max_tokens=6).tokens
    assert run(loaded(EXACT), tmp_path, third, second) == [90, wanted, 144, expected[1]]
    for path in tmp_path.iterdir():  # a state that is damaged is not taken up
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    assert run(loaded(EXACT), tmp_path, first) == [0, expected[0]]


class Shortened:
    """A file that ends while the last array is read, after its digest was checked."""

    def __init__(self, file: BinaryIO, arrays: int) -> None:
        self._file = file
        self._left = arrays

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def readinto(self, buffer: memoryview) -> int:
        self._left -= 1
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        return count if self._left else count - 1


def test_a_state_that_is_read_in_part_is_not_kept(
    loaded: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens, opened = loaded(EXACT), tokens_of(80, 14), prefix_cache._opened
    run(model, tmp_path, tokens)
    session = model.new_session()
    arrays = [*session.cache.prefix(64), *session.cache.summed(0)]

    @contextmanager
    def shortened(path: Path) -> Iterator[Any]:
        with opened(path) as file:
            yield Shortened(file, len(arrays)) if is_short else file

    is_short = False
    monkeypatch.setattr(prefix_cache, "_opened", shortened)
    (path,) = tmp_path.iterdir()
    key = path.read_bytes()[8:40]
    for is_short in (True, False):
        cache = prefix_cache.PrefixCache(tmp_path, {(): key}, model.context)
        cache.restore(session, tokens, 0)
        assert bool(session.tokens) != is_short
        assert any(array.any() for array in session.cache.summed(len(session.tokens))) != is_short


def test_several_texts_side_by_side(loaded: Loader) -> None:
    model = loaded(EXACT, context=200)
    prompts = [tokens_of(n, 20 + n) for n in (3, 50, 90)]
    expected = [model.generate(prompt, max_tokens=12).tokens for prompt in prompts]
    assert [one.tokens for one in model.generate_all(prompts, max_tokens=12)] == expected


def test_a_conversation_that_goes_back(loaded: Loader) -> None:
    model, fresh = loaded(EXACT, context=600), loaded(EXACT, context=600)
    chat = Chat(model, system="You are brief, and answer what you are asked.")
    sampling = Sampling(temperature=0.7, seed=3)
    options: dict[str, Any] = {"max_tokens": 20, "sampling": sampling}

    def expected() -> str:
        other = Chat(fresh)
        other.restore(chat.messages[:-2])
        return "".join(other.say(chat.messages[-2]["content"], **options))

    said = "".join(chat.say("Who wrote the sonnets of Shakespeare?", **options))
    assert said == expected()
    assert "".join(chat.again(**options)) == said
    assert "".join(chat.say("And the plays?", **options)) == expected()
    chat.undo()
    assert "".join(chat.say("Who wrote the plays?", **options)) == expected()


def test_the_state_has_one_size_for_any_context(loaded: Loader) -> None:
    """Only layers with attention grow; a token reads the whole state wherever it is."""
    short, long = loaded(EXACT, context=32), loaded(EXACT, context=256)
    state = 3 * 256 + 4 * 32 * 32  # rows of the convolution; heads
    grown = short.bytes_per_token(32) - short.bytes_per_token(0)
    assert grown == 2 * 32 * 64 * 2
    assert long.bytes_per_token(256) - long.bytes_per_token(0) == 8 * grown
    weights = sum(array.nbytes for layer in short.weights.linear for array in layer.arrays)
    assert short.bytes_per_token(0) == weights + 4 * state
