"""Generated text: when it ends, its pieces, and that it depends on prompt and seed alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_runtime import OptionError
from rsr_runtime.llm import Generation, ModelError, PromptError, Sampling
from rsr_runtime.llm.sampling import Sampler
from rsr_testing.loader import Loader

if TYPE_CHECKING:
    from rsr_runtime.llm import LanguageModel

PROMPT = "The weights of a trained network"
DRAWN = Sampling(temperature=0.9, top_k=40, seed=7)


@pytest.fixture
def model(loaded: Loader) -> LanguageModel:
    """A model without an end token, so that its texts have full length."""
    found = loaded("bitnet-2b")
    found.config = dataclasses.replace(found.config, eos_token_ids=(1 << 30,))
    return found


def ending_with(model: LanguageModel, *tokens: int) -> LanguageModel:
    model.config = dataclasses.replace(model.config, eos_token_ids=tokens)
    return model


def result_of(result: Generation) -> tuple[str, list[int], str]:
    """Return the parts that do not depend on the clock."""
    return result.text, result.tokens, result.finish_reason


# --- when a text ends -----------------------------------------------------------------------------


def test_as_many_tokens_as_asked_for(model: LanguageModel) -> None:
    for count in (1, 2, 17):
        found = model.generate(PROMPT, max_tokens=count)
        assert (len(found.tokens), found.finish_reason) == (count, "length")
        assert found.prompt_tokens == len(model.encode(PROMPT))


def test_until_the_context_is_full(loaded: Loader) -> None:
    prompt = [256, 5, 6, 7]
    for context in (5, 16, 33):
        model = ending_with(loaded("bitnet-2b", context=context), 1 << 30)
        found = model.generate(prompt)
        assert (len(found.tokens), found.finish_reason) == (context - 4, "context")
        # What was asked for counts first.
        assert model.generate(prompt, max_tokens=context - 4).finish_reason == "length"
        assert model.generate(prompt, max_tokens=context).finish_reason == "context"


def test_an_end_token(model: LanguageModel) -> None:
    """It is the last of the tokens, but not part of the text."""
    whole = model.generate(PROMPT, max_tokens=30, sampling=DRAWN)
    for end in (whole.tokens[0], whole.tokens[12], whole.tokens[29]):
        first = whole.tokens.index(end)
        found = ending_with(model, 1 << 30, end).generate(PROMPT, max_tokens=30, sampling=DRAWN)
        assert found.tokens == whole.tokens[: first + 1]
        assert found.finish_reason == "stop"
        assert found.text == model.tokenizer.decode(whole.tokens[:first])


def test_the_tokenizer_s_end_where_the_model_names_none(model: LanguageModel) -> None:
    end = model.tokenizer.eos_id
    assert end is not None
    ending_with(model)
    model._decoder.logits = favor(model, end, after=4)  # type: ignore[method-assign]
    found = model.generate(PROMPT)
    assert (len(found.tokens), found.tokens[-1], found.finish_reason) == (4, end, "stop")


def favor(model: LanguageModel, token: int, after: int) -> Any:
    """Return a function of logits that favor `token` from call number `after` on."""
    logits, calls = model._decoder.logits, 0

    def changed(hidden: Any) -> Any:
        nonlocal calls
        calls += 1
        found = logits(hidden)
        if calls >= after:
            found[:, token] = 1e6
        return found

    return changed


# --- stop strings -------------------------------------------------------------------------------


def test_stop_strings_across_the_borders_of_tokens(model: LanguageModel) -> None:
    """Strings of three characters of a text, each found where it first occurs."""
    whole = model.generate(PROMPT, max_tokens=40, sampling=DRAWN).text
    starts = [i for i in range(len(whole) - 3) if "\ufffd" not in whole[i : i + 3]]
    assert len(starts) > 8
    for i in starts[:12]:
        stop = whole[i : i + 3]
        pieces = list(model.stream(PROMPT, max_tokens=40, sampling=DRAWN, stop=[stop]))
        found = model.generate(PROMPT, max_tokens=40, sampling=DRAWN, stop=["unseen", stop])
        assert found.text == whole[: whole.index(stop)] == "".join(pieces)
        assert found.finish_reason == "stop"
        assert stop in model.tokenizer.decode(found.tokens)
        assert stop not in model.tokenizer.decode(found.tokens[:-1])


def test_the_beginning_of_a_stop_string_at_the_end_is_text(model: LanguageModel) -> None:
    whole = model.generate(PROMPT, max_tokens=20)
    stop = whole.text[-2:] + "never"
    found = model.generate(PROMPT, max_tokens=20, stop=[stop])
    assert result_of(found) == result_of(whole)
    assert found.finish_reason == "length"


def test_a_stop_string_may_be_one_string(model: LanguageModel) -> None:
    whole = model.generate(PROMPT, max_tokens=20, sampling=DRAWN).text
    assert model.generate(PROMPT, max_tokens=20, sampling=DRAWN, stop="zzzz").text == whole


def test_a_stop_string_that_the_last_bytes_make(model: LanguageModel) -> None:
    """Half a character is held back and becomes a replacement character at the end."""
    half = model.tokenizer.encode("é", special=False)[0]
    model._decoder.logits = favor(model, half, after=1)  # type: ignore[method-assign]
    assert result_of(model.generate(PROMPT, max_tokens=1)) == ("\ufffd", [half], "length")
    found = model.generate(PROMPT, max_tokens=1, stop=["\ufffd"])
    assert result_of(found) == ("", [half], "stop")


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_is_the_text_in_pieces(model: LanguageModel) -> None:
    whole = model.generate(PROMPT, max_tokens=40, sampling=DRAWN)
    stream = model.stream(PROMPT, max_tokens=40, sampling=DRAWN)
    assert result_of(stream.result) == ("", [], "interrupted")
    pieces = []
    for piece in stream:
        assert piece
        pieces.append(piece)
        assert stream.result.text == "".join(pieces)
    assert "".join(pieces) == whole.text == model.tokenizer.decode(whole.tokens)
    assert len(pieces) > 10
    assert result_of(stream.result) == result_of(whole)
    assert list(stream) == []


def test_an_interrupted_stream_and_another_one(model: LanguageModel, loaded: Loader) -> None:
    stream = model.stream(PROMPT, max_tokens=30, sampling=DRAWN)
    some = next(stream) + next(stream)
    assert stream.result.finish_reason == "interrupted"
    assert stream.result.text == some
    for prompt in (PROMPT, "in the end", PROMPT[:12]):
        fresh = ending_with(loaded("bitnet-2b"), 1 << 30)
        found = model.generate(prompt, max_tokens=20, sampling=DRAWN)
        assert result_of(found) == result_of(fresh.generate(prompt, max_tokens=20, sampling=DRAWN))
    # The first can go on.
    whole = model.generate(PROMPT, max_tokens=30, sampling=DRAWN)
    assert some + "".join(stream) == whole.text
    assert result_of(stream.result) == result_of(whole)


def test_streams_in_turns(model: LanguageModel) -> None:
    prompts = [PROMPT, "Sort the rows", "in the end it's 1, 2, 3"]
    alone = [model.generate(p, max_tokens=12, sampling=DRAWN) for p in prompts]
    streams = [model.stream(p, max_tokens=12, sampling=DRAWN) for p in prompts]
    while any([next(s, None) for s in streams]):  # noqa: C419  a list: each is asked
        pass
    assert [result_of(s.result) for s in streams] == [result_of(a) for a in alone]


def test_times(model: LanguageModel) -> None:
    found = model.generate(PROMPT, max_tokens=9)
    assert found.prompt_seconds > 0
    assert found.seconds > 0
    assert found.tokens_per_second == pytest.approx(8 / found.seconds)
    assert model.generate(PROMPT, max_tokens=1).tokens_per_second == 0


# --- the same text ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bitnet-2b", "1bitllm", "falcon3"])
def test_a_seed_is_a_text(name: str, loaded: Loader, restore: None) -> None:
    """On one thread and two, as a stream, and beside others."""
    prompts = [PROMPT, "the rows", "an end in the end"]
    sampling = Sampling(temperature=1.2, top_p=0.95, min_p=0.001, repetition_penalty=1.1, seed=3)
    options: dict[str, Any] = {"max_tokens": 25, "sampling": sampling, "stop": ["zz"]}
    found = []
    for count in (1, 2):
        rsr.set_num_threads(count)
        model = loaded(name)
        found.append([result_of(model.generate(p, **options)) for p in prompts])
        found.append([result_of(r) for r in model.generate_all(prompts, **options)])
        found.append([result_of(r) for r in model.generate_all(prompts[::-1], **options)][::-1])
    assert all(texts == found[0] for texts in found[1:])
    other = {**options, "sampling": dataclasses.replace(sampling, seed=4)}
    assert result_of(model.generate(PROMPT, **other)) != found[0][0]


def test_without_a_seed_texts_differ(model: LanguageModel) -> None:
    sampling = Sampling(temperature=1.5)
    texts = {model.generate(PROMPT, max_tokens=20, sampling=sampling).text for _ in range(4)}
    assert len(texts) > 1


def test_greedy_is_the_largest_logit(model: LanguageModel) -> None:
    found = model.generate(PROMPT, max_tokens=8, sampling=Sampling())
    tokens = model.encode(PROMPT)
    for token in found.tokens:
        assert token == int(np.argmax(model.next_logits(tokens)))
        tokens.append(token)


def test_texts_side_by_side_end_independently(model: LanguageModel) -> None:
    prompts = [PROMPT, "the rows", "an end"]
    whole = [model.generate(p, max_tokens=20, sampling=DRAWN) for p in prompts]
    ending_with(model, whole[0].tokens[3], whole[1].tokens[9])
    alone = [model.generate(p, max_tokens=20, sampling=DRAWN) for p in prompts]
    found = model.generate_all(prompts, max_tokens=20, sampling=DRAWN)
    assert [result_of(r) for r in found] == [result_of(r) for r in alone]
    assert len({len(r.tokens) for r in found}) > 1
    assert [r.prompt_tokens for r in found] == [r.prompt_tokens for r in alone]
    assert model.generate_all([]) == []


def test_sampling_options_of_the_model(loaded: Loader, language_models: Any, tmp_path: Any) -> None:
    """generation_config.json gives the sampling options by default."""
    from rsr_runtime import llm

    path = language_models.variant(
        "bitnet-2b",
        tmp_path,
        {"generation_config.json": b'{"do_sample": true, "temperature": 0.6, "top_p": 0.9}'},
    )
    with llm.load(path) as model:
        assert model.sampling == Sampling(temperature=0.6, top_k=50, top_p=0.9)
        assert len({model.generate(PROMPT, max_tokens=12).text for _ in range(6)}) > 1
    assert loaded("bitnet-2b").sampling == Sampling()


# --- refusals ---------------------------------------------------------------------------------


def test_an_empty_prompt(model: LanguageModel) -> None:
    prompts: tuple[Any, ...] = "", [], (), np.empty(0, np.int64)
    for prompt in prompts:
        for call in (model.generate, model.stream, model.encode, model.logits):
            with pytest.raises(PromptError, match="the prompt is empty"):
                call(prompt)
        with pytest.raises(PromptError, match="the prompt is empty"):
            model.generate_all([PROMPT, prompt])


def test_a_prompt_without_room(loaded: Loader) -> None:
    model = loaded("bitnet-2b", context=20)
    assert len(model.encode(list(range(19)))) == 19
    for count in (20, 21):
        with pytest.raises(PromptError) as caught:
            model.stream(list(range(count)))
        assert str(caught.value) == (
            f"the prompt has {count} tokens and leaves no room in a context of 20: "
            "load with a larger context (the model's limit is 256)"
        )
    with pytest.raises(PromptError, match="256 tokens and leaves no room .* of 256: shorten it"):  # noqa: RUF043
        loaded("bitnet-2b").encode([1] * 256)


@pytest.mark.parametrize("token", [-1, 304, 1 << 40])
def test_tokens_out_of_range(model: LanguageModel, token: int) -> None:
    for call in (model.generate, model.encode, model.next_logits, model.logits):
        with pytest.raises(
            PromptError,
            match=f"found token {token}, expected a token below the model's vocab_size, 304",
        ):
            call([5, token, 6])


@pytest.mark.parametrize("prompt", [None, 5, 2.5, [1.5], ["a"], [None], [[1]], b"bytes", {"a": 1}])
def test_other_types_of_prompts_are_refused(model: LanguageModel, prompt: Any) -> None:
    with pytest.raises(
        PromptError, match=r"found a prompt of type .*, expected a string or integer tokens"
    ):
        model.encode(prompt)


def test_tokens_may_be_numpy_s(model: LanguageModel) -> None:
    for prompt in (np.array([5, 6, 7]), np.array([5, 6, 7], np.uint8), (5, 6, 7), range(5, 8)):
        found = model.encode(prompt)
        assert found == [5, 6, 7]
        assert all(type(token) is int for token in found)


@pytest.mark.parametrize("count", [0, -1, 2.5, "3"])
def test_an_invalid_max_tokens_is_refused(model: LanguageModel, count: Any) -> None:
    for call in (model.generate, lambda p, **o: model.generate_all([p], **o)):
        with pytest.raises(
            OptionError, match=f"max_tokens: found {count!r}, expected an integer, 1 or more"
        ):
            call(PROMPT, max_tokens=count)
    assert len(model.generate(PROMPT, max_tokens=np.int64(2)).tokens) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("context", [0, -1, 257, 2.5, "16"])
def test_an_invalid_context_is_refused(loaded: Loader, context: Any) -> None:
    with pytest.raises(OptionError, match=f"context: found {context!r}, expected 1 to 256"):
        loaded("bitnet-2b", context=context)


def test_invalid_stop_strings_are_refused(model: LanguageModel) -> None:
    for stop in ([""], "", [5]):
        with pytest.raises(PromptError, match="expected non-empty text"):
            model.stream(PROMPT, stop=stop)  # type: ignore[arg-type]


def test_logits_that_are_not_finite(model: LanguageModel) -> None:
    norm = model.weights.norm * np.float32(np.nan)
    model._decoder._weights = dataclasses.replace(model.weights, norm=norm)
    with pytest.raises(ModelError, match="no token can be chosen"):
        model.generate(PROMPT)


def test_a_repetition_penalty_looks_back_on_the_prompt(model: LanguageModel) -> None:
    prompt = model.encode(PROMPT)
    sampling = Sampling(repetition_penalty=3.0)
    tokens = list(prompt)
    choose = Sampler(sampling)
    for _ in range(12):
        tokens.append(choose(model.next_logits(tokens), tokens))
    found = model.generate(prompt, max_tokens=12, sampling=sampling).tokens
    assert found == tokens[len(prompt) :]
    assert found != model.generate(prompt, max_tokens=12, sampling=Sampling()).tokens
