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


# --- history --------------------------------------------------------------------------------------


def test_undo(model: LanguageModel) -> None:
    chat = Chat(model, "Sort.")
    answer(chat, "Hello")
    before = list(chat.messages)
    answer(chat, "And then?")
    assert chat.undo() == 2
    assert chat.messages == before
    assert chat.undo() == 2
    assert chat.undo() == 0
    assert chat.messages == before[:1]


def test_again(model: LanguageModel) -> None:
    chat = Chat(model)
    first = answer(chat, "Hello")
    other: dict[str, Any] = {**OPTIONS, "sampling": Sampling(temperature=0.9, seed=6)}
    second = "".join(chat.again(**other))
    assert second != first
    assert "".join(Chat(model).say("Hello", **other)) == second
    assert len(chat.messages) == 2
    assert "".join(chat.again(**OPTIONS)) == first
    before = list(chat.messages)
    with pytest.raises(PromptError, match="stop string"):
        list(chat.again(stop=[""]))
    assert chat.messages == before
    with pytest.raises(PromptError, match="no message to answer again"):
        list(Chat(model, "Sort.").again())


def test_a_prompt_that_is_interrupted_is_taken_back(model: LanguageModel) -> None:
    chat = Chat(model)
    answer(chat, "Hello")
    before = list(chat.messages)
    seen = []

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    for answering in (chat.say("And then?", progress=interrupt), chat.again(progress=interrupt)):
        with pytest.raises(KeyboardInterrupt):
            list(answering)
        assert chat.messages == before
        assert chat.result is not None
        assert chat.result.finish_reason == "interrupted"
        assert chat.result.tokens == []
    assert 0 < seen[0][0] < seen[0][1] == len(model.chat_prompt([*before, user("And then?")]))


def test_progress_counts_the_tokens_of_the_prompt(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsr_runtime.llm.session.MAX_ROWS", 4)
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    seen: list[tuple[int, int]] = []
    next(model.stream([11, *tokens[1:]], max_tokens=1))
    list(model.stream(tokens, max_tokens=3, progress=lambda *of: seen.append(of)))
    assert seen == [(0, 9), (4, 9), (8, 9), (9, 9)]
    seen.clear()
    list(model.stream([*tokens[:6], 1, 2], max_tokens=3, progress=lambda *of: seen.append(of)))
    assert seen == [(6, 8), (8, 8)]
    seen.clear()
    model.generate_all([tokens, [1, 2]], max_tokens=3, progress=lambda *of: seen.append(of))
    assert seen == [(0, 11), (4, 11), (8, 11), (9, 11), (9, 11), (11, 11)]


def test_make_room(loaded: Loader) -> None:
    model = loaded("bitnet-2b", context=128)
    chat = Chat(model, "Sort.")
    for text in ("one", "two", "three"):
        answer(chat, text)
    before = list(chat.messages)
    assert chat.make_room("four") == 0
    assert chat.messages == before
    rest = [before[0], *before[5:], user("four")]
    room = 128 - len(model.chat_prompt(rest))
    assert chat.make_room("four", room) == 4
    assert chat.messages == rest[:-1]
    assert chat.make_room("four", 10**6) == 2  # all but the new message
    assert chat.messages == before[:1]
    with pytest.raises(ContextFullError):
        chat.make_room("Sort the rows of each block. " * 9)
    answer(chat, "five")
    answer(chat, "six")
    assert chat.make_room(None, 10**6) == 2
    assert [m["content"] for m in chat.messages if m["role"] == "user"] == ["six"]


def test_restore(model: LanguageModel) -> None:
    chat = Chat(model)
    first = answer(chat, "Hello")
    second = answer(chat, "And then?")
    other = Chat(model, "Sort.")
    other.restore(chat.messages[:-2])
    assert answer(other, "And then?") == second
    other.undo()
    assert "".join(other.again(**OPTIONS)) == first
    for wrong in ([], [{"role": 3}], [{"role": "user", "content": {1}}]):
        with pytest.raises(PromptError):
            other.restore(wrong)
    assert len(other.messages) == 2
    assert len(chat.messages) == 4


# --- special tokens and the end of a turn ---------------------------------------------------------


def saying(tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model say these tokens."""
    left = iter(tokens)
    monkeypatch.setattr("rsr_runtime.llm.generate._Text.next_token", lambda *_: next(left))


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}"
    "<think></think>{% endif %}{% endif %}"
)
