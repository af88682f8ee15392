"""Settings of generation_config.json in generated texts: when they end, and what replaces them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rsr_runtime
from rsr_runtime import OptionError, llm
from rsr_runtime.llm import LanguageModel, ModelError, PromptError, Sampling
from rsr_runtime.llm.support import check
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader

PROMPT = "The weights of a trained network"
NEVER = (1 << 30,)  # no token


@pytest.fixture
def model(loaded: Loader) -> LanguageModel:
    found = loaded("bitnet-2b")
    found.config = dataclasses.replace(found.config, eos_token_ids=NEVER)
    return found


@pytest.fixture
def configured(model: LanguageModel) -> Callable[..., LanguageModel]:
    """Return the model with a generation_config.json of these settings."""

    def change(**settings: Any) -> LanguageModel:
        model.config = dataclasses.replace(model.config, generation_config=settings)
        return model

    return change


def test_settings_in_a_file(
    language_models: LanguageModels, tmp_path: Path, loaded: Loader
) -> None:
    plain = loaded("bitnet-2b").generate(PROMPT, max_tokens=9).tokens
    settings = {"suppress_tokens": plain[:3], "max_new_tokens": 7}
    files = {"generation_config.json": json.dumps(settings).encode()}
    with llm.load(language_models.variant("bitnet-2b", tmp_path, files)) as changed:
        found = changed.generate(PROMPT)
        assert len(found.tokens) == 7
        assert not {*found.tokens} & {*plain[:3]}
        assert changed.generate(PROMPT, max_tokens=9, sampling=Sampling()).tokens == plain


def test_maximum_lengths(configured: Callable[..., LanguageModel]) -> None:
    def count(model: LanguageModel, **options: Any) -> int:
        found = model.generate(PROMPT, **options)
        assert found.finish_reason == "length"
        return len(found.tokens)

    assert count(configured(max_new_tokens=5)) == 5
    model = configured(max_new_tokens=5, max_length=2)
    assert count(model) == 5
    assert count(model, max_tokens=3) == 3
    prompt = len(model.encode(PROMPT))
    assert count(configured(max_length=prompt + 4)) == 4
    assert count(configured(max_length=prompt + 4), max_tokens=6) == 6
    assert count(model, sampling=Sampling(max_length=prompt + 1)) == 1
    context = configured(max_length=prompt + 10_000).generate(PROMPT)
    assert context.finish_reason == "context"


def test_a_prompt_beyond_the_maximum_length(configured: Callable[..., LanguageModel]) -> None:
    model = configured(max_length=3)
    for call in (model.generate, model.stream, lambda prompt: model.generate_all([prompt])):
        with pytest.raises(PromptError, match="has 4 tokens, but the setting max_length allows 3"):
            call([5, 6, 7, 8])
    assert len(model.generate([5, 6, 7, 8], max_tokens=2).tokens) == 2
    assert len(model.generate([5, 6]).tokens) == 1


def test_the_time_is_limited(configured: Callable[..., LanguageModel]) -> None:
    found = configured(max_time=0).generate(PROMPT)
    assert (len(found.tokens), found.finish_reason) == (1, "length")
    assert len(configured(max_time=1e9).generate(PROMPT, max_tokens=3).tokens) == 3


def test_end_tokens(model: LanguageModel) -> None:
    """A minimum and forced ends use the model's own end tokens and the limit of the text."""
    plain = model.generate(PROMPT, max_tokens=12).tokens
    model.config = dataclasses.replace(model.config, eos_token_ids=(plain[0], plain[5]))
    assert model.generate(PROMPT, max_tokens=12).tokens == plain[:1]
    at_least = Sampling(min_new_tokens=4)
    found = model.generate(PROMPT, max_tokens=12, sampling=at_least).tokens
    assert not {*found[:4]} & {plain[0], plain[5]}
    assert (
        model.generate(PROMPT, max_tokens=4, sampling=Sampling(min_length=500)).tokens == found[:4]
    )
    forced = Sampling(min_new_tokens=4, forced_eos_token_id=[7])
    forced_text = model.generate(PROMPT, max_tokens=3, sampling=forced)
    assert forced_text.tokens == [*found[:2], 7]
    assert forced_text.finish_reason == "length"


def test_stop_strings(configured: Callable[..., LanguageModel]) -> None:
    whole = configured().generate(PROMPT, max_tokens=20).text
    first, second = whole[3:6], whole[8:11]
    model = configured(stop_strings=[first])
    assert model.generate(PROMPT, max_tokens=20).text == whole[: whole.index(first)]
    # An option replaces them.
    assert model.generate(PROMPT, max_tokens=20, stop=second).text == whole[: whole.index(second)]
    own = Sampling(stop_strings=second)
    assert model.generate(PROMPT, max_tokens=20, sampling=own).text == whole[: whole.index(second)]


def test_a_special_token_as_stop_string(model: LanguageModel) -> None:
    """It has no text, so its id ends the text."""
    end = model.tokenizer.token_id("<|eot_id|>")
    assert end is not None
    sampling = Sampling(begin_suppress_tokens=[end], logit_bias={end: 1e6})
    found = model.generate(PROMPT, max_tokens=9, sampling=sampling, stop=["<|eot_id|>"])
    assert found.tokens[1:] == [end]
    assert found.finish_reason == "stop"
    assert len(model.generate(PROMPT, max_tokens=9, sampling=sampling).tokens) == 9


def test_an_invalid_value_that_is_replaced(configured: Callable[..., LanguageModel]) -> None:
    model = configured(max_new_tokens="x", max_length=-1, stop_strings=5)
    for options in ({}, {"max_tokens": 3}, {"stop": ["zz"]}):
        with pytest.raises(ModelError, match=r"^generation_config\.json: .* is "):
            model.generate(PROMPT, **options)
    assert len(model.generate(PROMPT, max_tokens=3, stop=["zzzz"]).tokens) == 3
    assert len(model.generate(PROMPT, max_tokens=3, sampling=Sampling()).tokens) == 3
    with pytest.raises(ModelError):
        _ = model.sampling


def test_tokens_that_the_model_lacks(configured: Callable[..., LanguageModel]) -> None:
    model = configured(bad_words_ids=[[4000]])
    with pytest.raises(OptionError, match=r"bad_words_ids has token 4000, .* vocab_size, 304"):
        model.stream(PROMPT)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, "greedy", 0.7])
def test_settings_of_another_type(model: LanguageModel, sampling: Any) -> None:
    with pytest.raises(OptionError, match=r"sampling is .*, expected Sampling"):
        model.generate(PROMPT, sampling=sampling)


GREEDY = Sampling(
    no_repeat_ngram_size=1,
    encoder_no_repeat_ngram_size=2,
    presence_penalty=0.7,
    encoder_repetition_penalty=1.3,
    min_length=30,
    max_new_tokens=40,
)
DRAWN = Sampling(
    1.5, seed=4, typical_p=0.9, frequency_penalty=1.0, max_length=60, forced_eos_token_id=[9]
)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_side_by_side(model: LanguageModel, sampling: Sampling) -> None:
    """Settings that look at the prompt look at the text's own."""
    prompts = [PROMPT, "the rows", "an end in the end"]
    alone = [model.generate(prompt, sampling=sampling) for prompt in prompts]
    alone = [dataclasses.replace(a, prompt_seconds=0, seconds=0) for a in alone]
    found = model.generate_all(prompts, sampling=sampling)
    assert [dataclasses.replace(f, prompt_seconds=0, seconds=0) for f in found] == alone


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"do_sample": True, "top_k": -1}, "top_k is -1, expected a whole number, 0 (off) or more"),
        ({"do_sample": "yes"}, "do_sample is 'yes', expected true or false"),
        ({"bad_words_ids": [[4000]]}, "bad_words_ids has token 4000"),
        ({"num_beams": 3, "top_k": -1}, None),
    ],
)
def test_invalid_settings_are_known_before_a_run(
    language_models: LanguageModels, settings: dict[str, Any], reason: str | None
) -> None:
    with rsr_runtime.load(language_models.path("bitnet-2b")) as file:
        files = dict(file.files) | {"generation_config.json": json.dumps(settings).encode()}
    said = [why for why in check(files, {}).run_reasons if "generation_config" in why]
    assert len(said) == (reason is not None)
    assert all(why.startswith(f"generation_config.json: {reason}") for why in said)


def test_a_stop_string_that_no_text_has(configured: Callable[..., LanguageModel]) -> None:
    """JSON can spell half a surrogate pair, which the tokenizer cannot take."""
    settings = json.loads('{"stop_strings": ["\\ud800"], "max_new_tokens": 3}')
    assert configured(**settings).generate(PROMPT).finish_reason == "length"
