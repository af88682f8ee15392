"""Conversations: the prompt of each answer, and the history."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rsr_runtime import llm
from rsr_runtime.llm import Chat, ContextFullError, ModelError, PromptError, Sampling, TemplateError
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader

if TYPE_CHECKING:
    from rsr_runtime.llm import LanguageModel

OPTIONS: dict[str, Any] = {"max_tokens": 12, "sampling": Sampling(temperature=0.9, seed=5)}


@pytest.fixture
def model(loaded: Loader) -> LanguageModel:
    return loaded("bitnet-2b")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def answer(chat: Chat, text: str) -> str:
    return "".join(chat.say(text, **OPTIONS))


def test_a_prompt_by_the_template(model: LanguageModel) -> None:
    """Headers as in Llama 3; special tokens are encoded as such, and BOS is not added again."""
    found = model.chat_prompt([user(" Sort the rows. ")])
    text = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nSort the rows.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert model.tokenizer.decode(found, skip_special=False) == text
    bos = model.tokenizer.bos_id
    assert found[0] == bos
    assert found.count(bos or 0) == 1


def test_every_answer_sees_all_before_it(model: LanguageModel) -> None:
    chat = Chat(model)
    first = answer(chat, "Who sorts the rows?")
    assert chat.messages == [user("Who sorts the rows?"), assistant(first)]
    alone = model.generate(model.chat_prompt([user("Who sorts the rows?")]), **OPTIONS)
    assert first == alone.text
    second = answer(chat, "And then?")
    history = [user("Who sorts the rows?"), assistant(first), user("And then?")]
    assert second == model.generate(model.chat_prompt(history), **OPTIONS).text
    assert chat.messages == [*history, assistant(second)]
    assert chat.result is not None
    assert chat.result.text == second
    assert chat.result.prompt_tokens == len(model.chat_prompt(history))


def test_reset(model: LanguageModel) -> None:
    chat = Chat(model)
    first = answer(chat, "Who sorts the rows?")
    answer(chat, "And then?")
    chat.reset()
    assert chat.messages == []
    assert answer(chat, "Who sorts the rows?") == first


def test_a_system_message(model: LanguageModel) -> None:
    chat = Chat(model, "You sort rows.")
    system = {"role": "system", "content": "You sort rows."}
    assert chat.messages == [system]
    found = answer(chat, "Hello")
    prompt = model.chat_prompt([system, user("Hello")])
    assert found == model.generate(prompt, **OPTIONS).text
    assert found != "".join(Chat(model).say("Hello", **OPTIONS))
    chat.reset()
    assert chat.messages == [system]


@pytest.mark.parametrize("by", ["close", "exception"])
def test_an_interrupted_answer_stays_in_the_history(model: LanguageModel, by: str) -> None:
    chat = Chat(model)
    answering = chat.say("Hello", **OPTIONS)
    some = next(answering) + next(answering)
    if by == "close":
        answering.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            answering.throw(KeyboardInterrupt())
    assert chat.messages == [user("Hello"), assistant(some)]
    assert chat.result is not None
    assert chat.result.finish_reason == "interrupted"
    history = [*chat.messages, user("Go on")]
    expected = model.generate(model.chat_prompt(history), **OPTIONS).text
    assert answer(chat, "Go on") == expected


def test_an_answer_that_was_never_asked_for(model: LanguageModel) -> None:
    chat = Chat(model)
    chat.say("Hello", **OPTIONS).close()
    assert chat.messages == []
    assert chat.result is None


def test_an_answer_that_does_not_fit_is_taken_back(loaded: Loader) -> None:
    chat = Chat(loaded("bitnet-2b", context=64))
    first = answer(chat, "Hello")
    before = list(chat.messages)
    with pytest.raises(ContextFullError, match="leaves no room in a context of 64") as caught:
        answer(chat, "Sort the rows of each column block. " * 4)
    assert chat.messages == before
    assert len(before) == 2
    assert (caught.value.context, caught.value.limit) == (64, 256)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    chat.reset()
    assert answer(chat, "Hello") == first


def test_a_template_that_refuses(loaded: Loader) -> None:
    """The template of 1bitllm knows three roles."""
    with pytest.raises(PromptError, match="no such role: tool"):
        loaded("1bitllm").chat_prompt([{"role": "tool", "content": "x"}])


TOKENIZER_CONFIG = "tokenizer_config.json"


def test_a_model_without_a_template(language_models: LanguageModels, tmp_path: Path) -> None:
    """It can generate text but not chat."""
    path = language_models.variant("bitnet-2b", tmp_path, {TOKENIZER_CONFIG: None})
    with llm.load(path) as model:
        assert model.generate("The rows", max_tokens=2).tokens
        with pytest.raises(ModelError, match=r"no chat template.*give it a text to continue"):
            Chat(model)


@pytest.mark.parametrize("source", ["{{", "{{ nothing.at.all }}", "{% for %}", "{{ 1 / 0 }}"])
def test_a_damaged_template_is_found_at_once(
    language_models: LanguageModels, tmp_path: Path, source: str
) -> None:
    path = language_models.variant("bitnet-2b", tmp_path, {"chat_template.jinja": source.encode()})
    with llm.load(path) as model, pytest.raises(TemplateError):
        Chat(model)
