"""Answers: sent, stopped, made again, and with what the settings ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from rsr_runtime import llm
from rsr_runtime.llm import LanguageModel
from rsr_runtime.serve.guard import Access
from rsr_testing.chat_page import ChatPage, conversation_file
from rsr_testing.language_models import LanguageModels
from rsr_testing.servers import Running, serving


def test_an_answer_and_its_figures(chat: ChatPage, running: Running) -> None:
    chat.send("What is a ternary matrix?")
    assert chat.texts("user") == ["What is a ternary matrix?"]
    (conversation,) = chat.conversations()
    question, answer = conversation["messages"]
    assert question["content"] == conversation["title"] == "What is a ternary matrix?"
    assert answer["parent"] == question["id"]
    assert answer["finish"] == "length"

    body = {"messages": [{"role": "user", "content": question["content"]}], "max_tokens": 40}
    alone = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["content"] == alone["choices"][0]["message"]["content"]

    usage = alone["usage"]
    assert answer["tokens"] == {"prompt": usage["prompt_tokens"], "completion": 40}
    gauge = f"{usage['total_tokens']} / 16,384"
    assert chat.page.inner_text("#gauge-text") == gauge
    assert chat.page.get_attribute("#gauge", "aria-valuetext") == f"{gauge} tokens"
    figures = chat.page.inner_text(".message.assistant .figures")
    assert figures.startswith("40 tokens · ")
    assert figures.endswith(chat.page.inner_text("#speed"))
    assert "maximum length" in chat.page.inner_text(".message.assistant .end")


def test_a_second_turn_sends_the_first(chat: ChatPage) -> None:
    chat.send("One")
    with chat.page.expect_request("**/v1/chat/completions") as request:
        chat.send("Two")
    messages = request.value.post_data_json["messages"]
    answer = chat.conversations()[0]["messages"][1]["content"]
    assert messages == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Two"},
    ]
    assert len(chat.texts("assistant")) == 2


@pytest.mark.parametrize("how", ["Escape", "button"])
def test_stop(how: str, running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat = new_page(running.url).open({})
    chat.page.fill("#prompt", "Go on for ever")
    chat.page.keyboard.press("Enter")
    chat.wait(".message.live .text > p")
    assert not running.is_idle()
    chat.until(lambda: "tokens/s" in chat.page.inner_text("#speed"))
    if how == "Escape":
        chat.page.keyboard.press("Escape")
    else:
        chat.press("Stop")
    chat.wait_for_answer()
    assert chat.page.evaluate("document.activeElement.id") == "prompt"
    chat.until(running.is_idle)  # long before its 16,384 tokens
    assert chat.page.inner_text(".message.assistant .end") == "Stopped."
    assert "about " in chat.page.inner_text(".message.assistant .figures")
    answer = chat.conversations()[0]["messages"][1]
    assert answer["content"]
    assert answer["finish"] == "stopped"


def test_reload_while_an_answer_comes(running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat = new_page(running.url).open({})
    chat.page.fill("#prompt", "Go on for ever")
    chat.page.keyboard.press("Enter")
    chat.wait(".message.live .text > p")
    chat.page.wait_for_timeout(2500)  # it is saved every two seconds
    chat.page.reload()
    chat.until(running.is_idle)
    assert "closed before the answer ended" in chat.wait(".message.assistant .end").inner_text()
    assert chat.texts("assistant") != [""]


def test_reload_before_an_answer_comes(running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat = new_page(running.url).open({"max_tokens": 20})
    chat.page.route("**/v1/chat/completions", lambda route: None)  # no token ever comes
    chat.page.fill("#prompt", "First")
    chat.page.keyboard.press("Enter")
    chat.until(lambda: "#" in chat.page.url)
    chat.page.reload()  # first, as unroute would let the request go on
    chat.page.unroute("**/v1/chat/completions")
    assert "closed before the answer ended" in chat.wait(".message.assistant .end").inner_text()
    assert chat.texts("user") == ["First"]
    with chat.page.expect_request("**/v1/chat/completions") as request:
        chat.send("Second")
    assert request.value.post_data_json["messages"] == [
        {"role": "user", "content": "First\n\nSecond"}
    ]
    assert chat.texts("user") == ["First", "Second"]
    file = chat.export()

    other = new_page(running.url).open()
    other.import_file(file)
    assert other.titles() == ["First"]
    assert json.loads(other.export()) == json.loads(file)


# Leaves the database as a page did that closed before it saved an answer.
_LOSE_AN_ANSWER = """async () => {
  const store = await import('/js/store.js');
  const [answer] = (await store.allMessages()).filter(({ role }) => role === 'assistant');
  const conversation = await store.conversation(answer.conversation);
  const orphan = { ...answer, id: 'orphan', parent: answer.id, role: 'user', created: 9e12 };
  await store.save({ ...conversation, leaf: 'gone' }, [{ ...orphan, content: 'Later' }]);
  await store.removeMessage(answer.id);
}"""


def test_a_lost_answer(chat: ChatPage, running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat.send("First")
    chat.page.evaluate(_LOSE_AN_ANSWER)
    chat.page.reload()
    chat.wait(".message")
    assert chat.texts("user") == ["Later"]  # the newest message, as the last one is missing
    chat.send("Last")  # long after the clock of this machine
    other = new_page(running.url).open()
    other.import_file(chat.export())
    assert other.titles() == ["First"]
    (conversation,) = other.conversations()
    assert [m["content"] for m in conversation["messages"] if m["role"] == "user"] == [
        "First",
        "Later",
        "Last",
    ]


def test_answers_go_on_while_another_conversation_is_shown(
    running: Running, new_page: Callable[..., ChatPage]
) -> None:
    chat = new_page(running.url).open({"max_tokens": 3000})
    chat.page.fill("#prompt", "First")
    chat.page.keyboard.press("Enter")
    chat.wait(".message.live")
    chat.press("New conversation")
    chat.send("Second")
    assert chat.texts("user") == ["Second"]
    chat.page.click(".entry-open:has-text('First')")
    chat.wait_for_answer()
    first = next(c for c in chat.conversations() if c["title"] == "First")
    assert first["messages"][1]["tokens"]["completion"] == 3000


def test_regenerate_and_versions(running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat = new_page(running.url).open({"max_tokens": 30, "temperature": 1, "seed": 1})
    chat.send("Say something")
    first = chat.texts("assistant")
    chat.page.click("#show-settings")
    chat.page.fill("#setting-seed", "2")
    chat.press("Done")
    chat.press("Regenerate")
    chat.wait_for_answer()
    second = chat.texts("assistant")
    assert second != first
    assert chat.page.inner_text(".assistant .branch") == "2 / 2"
    chat.press("Previous version")
    assert chat.texts("assistant") == first
    assert chat.page.inner_text(".assistant .branch") == "1 / 2"
    chat.page.reload()
    chat.wait(".assistant .branch")
    assert chat.texts("assistant") == first
    chat.press("Next version")
    assert chat.texts("assistant") == second


def test_edit_makes_a_branch(chat: ChatPage) -> None:
    chat.send("Old question")
    chat.send("Follow-up")
    before = chat.texts("assistant")
    chat.press("Edit", 0)
    field = chat.page.get_by_label("Edit message")
    assert field.input_value() == "Old question"
    field.fill("New question")
    field.press("Enter")
    chat.wait_for_answer()
    assert chat.texts("user") == ["New question"]
    assert chat.page.inner_text(".user .branch") == "2 / 2"
    chat.press("Previous version")
    assert chat.texts("user") == ["Old question", "Follow-up"]
    assert chat.texts("assistant") == before


def test_an_edit_can_be_canceled(chat: ChatPage) -> None:
    chat.send("Question")
    chat.press("Edit", 0)
    chat.page.get_by_label("Edit message").fill("Other")
    chat.page.keyboard.press("Escape")
    assert chat.texts("user") == ["Question"]
    assert len(chat.conversations()[0]["messages"]) == 2


def test_settings_are_sent(chat: ChatPage) -> None:
    chat.page.click("#show-settings")
    given = {
        "system": "Be brief.", "stop": "END\nSTOP", "temperature": "0.7", "top_p": "0.9",
        "top_k": "40", "min_p": "0.05", "repetition_penalty": "1.1", "presence_penalty": "0.5",
        "frequency_penalty": "-0.5", "seed": "7", "max_tokens": "5",
    }  # fmt: skip
    for name, value in given.items():
        chat.page.fill(f"#setting-{name}", value)
    chat.page.select_option("#setting-thinking", "off")
    chat.press("Done")
    with chat.page.expect_request("**/v1/chat/completions") as request:
        chat.send("Hello")
    body = request.value.post_data_json
    assert body.pop("messages") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert body == {
        "model": "tiny", "stream": True, "stream_options": {"include_usage": True},
        "stop": ["END", "STOP"], "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
        "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": 7,
        "max_tokens": 5, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert not chat.page.query_selector(".error")
    assert "temperature 0.7" in chat.page.inner_text("#active-settings")


def test_invalid_settings_are_named(chat: ChatPage) -> None:
    chat.page.click("#show-settings")
    chat.page.fill("#setting-temperature", "5")
    chat.page.fill("#setting-seed", "7")
    chat.page.keyboard.press("Escape")
    notice = chat.wait("#notice").inner_text()
    assert "not changed: Temperature: " in notice
    assert "Seed" not in notice
    assert chat.page.inner_text("#active-settings") == "seed 7 · maximum tokens 40"


def test_an_answer_by_a_schema(running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat = new_page(running.url).open({"max_tokens": 200})
    chat.page.click("#show-settings")
    chat.page.fill("#setting-schema", '{"enum": ["yes", "no"')
    assert "Not JSON yet" in chat.page.inner_text("#setting-schema-wrong")
    chat.page.fill("#setting-schema", '{"type": "boolean"}')
    assert chat.page.inner_text("#setting-schema-wrong") == ""
    chat.press("Done")
    chat.send("Is it so?")
    assert chat.page.inner_text(".assistant .code-top span") == "JSON"
    assert json.loads(chat.page.inner_text(".assistant pre")) in (True, False)


def test_a_message_beyond_the_context(chat: ChatPage) -> None:
    chat.send("word " * 20_000)
    error = chat.page.inner_text(".assistant .error")
    assert "maximum context length is 16384 tokens" in error
    assert "Try again" in error
    # The conversation can go on from an edited message.
    chat.press("Edit", 0)
    chat.page.get_by_label("Edit message").fill("Short")
    chat.page.keyboard.press("Enter")
    chat.wait_for_answer()
    assert not chat.page.query_selector(".error")


def test_a_server_that_stops(
    served_model: LanguageModel, new_page: Callable[..., ChatPage]
) -> None:
    with serving(served_model) as running:
        chat = new_page(running.url).open({"max_tokens": 20})
    chat.send("Anyone?")
    assert "The server does not answer" in chat.page.inner_text(".error")
    assert not chat.page.is_hidden(".error button")
    assert chat.texts("user") == ["Anyone?"]
    chat.press("Try again")
    chat.wait_for_answer()
    assert len(chat.conversations()[0]["messages"]) == 2  # the failed answer was replaced


# Like Mistral's: it refuses two messages of a role in a row.
_ALTERNATING = (
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{%- endif %}"
    "{{ message.content }}{%- endfor %}"
)


def test_messages_after_one_without_an_answer(
    language_models: LanguageModels, tmp_path: Path, new_page: Callable[..., ChatPage]
) -> None:
    files = {"tokenizer_config.json": json.dumps({"chat_template": _ALTERNATING}).encode()}
    path = language_models.variant("bitnet-2b", tmp_path, files=files)
    with llm.load(path) as model, serving(model) as running:
        chat = new_page(running.url).open({"max_tokens": 5})
        chat.import_file(
            conversation_file(
                [
                    {"role": "user", "content": "One"},
                    {"role": "assistant", "content": "", "finish": "error", "error": "Gone."},
                    {"role": "user", "content": "Two"},
                    {"role": "assistant", "content": "", "finish": "length", "reasoning": "Hm"},
                ]
            )
        )
        chat.page.click(".entry-open")
        chat.wait(".message .error")
        with chat.page.expect_request("**/v1/chat/completions") as request:
            chat.send("Three")
        assert request.value.post_data_json["messages"] == [
            {"role": "user", "content": "One\n\nTwo\n\nThree"}
        ]
        assert chat.page.locator(".message:last-child .error").count() == 0
        assert chat.texts("assistant")[-1]
        chat.page.context.close()


def test_a_model_without_a_template_continues_texts(
    language_models: LanguageModels, tmp_path: Path, new_page: Callable[..., ChatPage]
) -> None:
    path = language_models.variant("bitnet-2b", tmp_path, files={"tokenizer_config.json": b"{}"})
    with llm.load(path) as model, serving(model) as running:
        chat = new_page(running.url).open({"system": "Be brief.", "schema": "{}", "seed": 3})
        assert "continues text" in chat.page.inner_text("#model")
        assert "no chat template" in chat.page.inner_text("#empty")
        assert chat.page.inner_text("#active-settings") == "seed 3"
        chat.page.click("#show-settings")
        assert chat.page.is_hidden("#setting-system")
        assert chat.page.is_hidden("#setting-thinking")
        assert chat.page.is_hidden("#setting-schema")
        chat.page.fill("#setting-max_tokens", "8")
        chat.press("Done")
        chat.send("First")
        with chat.page.expect_request("**/v1/completions") as request:
            chat.send("Once upon a time")
        body = request.value.post_data_json
        assert body == {
            "model": "tiny", "stream": True, "stream_options": {"include_usage": True},
            "prompt": "Once upon a time", "max_tokens": 8, "seed": 3,
        }  # fmt: skip
        body = {name: body[name] for name in ("prompt", "max_tokens", "seed")}
        alone = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60).json()
        answer = chat.conversations()[0]["messages"][-1]
        assert answer["content"] == alone["choices"][0]["text"]
        assert answer["tokens"]["completion"] == 8
        chat.press("Regenerate")
        chat.wait_for_answer()
        assert chat.page.inner_text(".message:last-child .branch") == "2 / 2"
        assert not chat.page.query_selector(".error")
        chat.page.context.close()


def test_an_answer_that_ends_within_its_reasoning(chat: ChatPage) -> None:
    chat.import_file(
        conversation_file(
            [
                {"role": "user", "content": "One"},
                {"role": "assistant", "content": "", "finish": "length", "reasoning": "Hm"},
            ]
        )
    )
    chat.page.click(".entry-open")
    assert "length within its reasoning" in chat.wait(".message.assistant .end").inner_text()


def test_a_key(served_model: LanguageModel, new_page: Callable[..., ChatPage]) -> None:
    with serving(served_model, Access("127.0.0.1", keys=["right"])) as running:
        chat = new_page(running.url)
        chat.page.goto(running.url)
        chat.wait("#ask-input")  # the page asks by itself
        chat.page.keyboard.type("wrong")
        chat.page.keyboard.press("Enter")
        chat.until(lambda: "does not accept this API key" in chat.page.inner_text("#ask-wrong"))
        assert chat.page.is_visible("#ask-input")
        chat.page.keyboard.press("Escape")
        assert "needs an API key" in chat.wait("#notice").inner_text()
        # A message without a valid key asks for it, and is then answered.
        chat.page.fill("#prompt", "Hello")
        chat.page.keyboard.press("Enter")
        chat.wait("#ask-input")
        chat.page.fill("#ask-input", "right")
        chat.press("Use key")
        chat.until(lambda: chat.texts("assistant") not in ([], [""]))
        assert chat.page.is_hidden("#notice")
        chat.page.reload()
        chat.wait("#model:has-text('tiny')")
        assert chat.page.is_hidden("#ask")
        chat.page.context.close()
