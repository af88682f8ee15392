"""Conversations in the browser: kept, found, named, exported and imported."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rsr_testing.chat_page import ChatPage, conversation_file
from rsr_testing.servers import Running


def test_a_reload_shows_the_same(chat: ChatPage) -> None:
    chat.send("First")
    chat.send("Second")
    before = chat.texts("user"), chat.texts("assistant"), chat.page.inner_text("#gauge-text")
    chat.page.reload()
    chat.wait(".message")
    chat.wait("#gauge")
    assert (
        chat.texts("user"),
        chat.texts("assistant"),
        chat.page.inner_text("#gauge-text"),
    ) == before
    assert chat.page.inner_text("#title") == "First"


def test_drafts(chat: ChatPage) -> None:
    chat.send("First")
    chat.page.fill("#prompt", "Draft of the first")
    chat.page.reload()
    chat.wait(".message")
    assert chat.page.input_value("#prompt") == "Draft of the first"
    chat.press("New conversation")
    assert chat.page.input_value("#prompt") == ""
    chat.page.fill("#prompt", "Draft of a new one")
    chat.page.reload()
    chat.wait("#empty")
    assert chat.page.input_value("#prompt") == "Draft of a new one"
    chat.page.click(".entry-open")
    chat.until(lambda: chat.page.input_value("#prompt") == "Draft of the first")
    chat.page.focus("#prompt")
    chat.page.keyboard.press("Enter")
    chat.wait_for_answer()
    chat.page.reload()
    chat.wait(".message")
    assert chat.page.input_value("#prompt") == ""


def test_back_and_forward(chat: ChatPage) -> None:
    chat.send("First")
    chat.press("New conversation")
    chat.send("Second")
    chat.page.go_back()
    chat.page.go_back()
    chat.until(lambda: chat.texts("user") == ["First"])
    chat.page.go_forward()
    chat.page.go_forward()
    chat.until(lambda: chat.texts("user") == ["Second"])


def test_search(chat: ChatPage) -> None:
    for text in ("About apples", "About pears, and Quinces too"):
        chat.press("New conversation")
        chat.send(text)
    assert chat.titles() == ["About pears, and Quinces too", "About apples"]
    chat.page.keyboard.press("Control+k")
    chat.page.keyboard.type("quinces")
    chat.until(lambda: chat.titles() == ["About pears, and Quinces too"])
    assert chat.page.inner_text(".entry mark") == "Quinces"
    chat.page.fill("#search", "no such text")
    chat.until(lambda: chat.page.inner_text("#history-empty") == "Nothing found.")
    chat.page.fill("#search", "")
    chat.until(lambda: len(chat.titles()) == 2)


def test_rename_and_delete(chat: ChatPage) -> None:
    chat.send("One")
    chat.press("Rename One")
    chat.page.fill("#ask-input", "Better name")
    chat.page.keyboard.press("Enter")
    chat.until(lambda: chat.titles() == ["Better name"])
    assert chat.page.inner_text("#title") == "Better name"
    chat.until(lambda: bool(chat.page.evaluate("document.activeElement.title === 'Better name'")))
    chat.press("Delete Better name")
    chat.press("Cancel")
    assert chat.page.evaluate("document.activeElement.ariaLabel") == "Delete Better name"
    assert chat.titles() == ["Better name"]
    chat.press("Delete Better name")
    chat.press("Delete")
    chat.until(lambda: chat.titles() == [])
    assert chat.texts("user") == []
    chat.page.reload()
    chat.wait("#empty")
    assert chat.conversations() == []


def test_export_and_import(
    chat: ChatPage, running: Running, new_page: Callable[..., ChatPage]
) -> None:
    chat.send("One")
    chat.press("Regenerate")
    chat.wait_for_answer()
    one = chat.export("Export this conversation")
    chat.press("New conversation")
    chat.send("Two")
    both = chat.export()
    assert [c["title"] for c in json.loads(one)["conversations"]] == ["One"]

    other = new_page(running.url).open()
    other.import_file(both)
    assert other.titles() == ["Two", "One"]
    assert json.loads(other.export()) == json.loads(both)
    other.page.click(".entry-open:has-text('One')")
    other.wait(".assistant .branch")
    assert other.page.inner_text(".assistant .branch") == "2 / 2"
    other.import_file(both)
    assert "here already" in other.page.inner_text("#notice")


DAMAGED = {
    "no JSON": b"{",
    "another file": b'{"format": "other"}',
    "no conversation": b'{"format": "rsr-chat", "version": 1, "conversations": [null]}',
    "a role": conversation_file([{"role": "system", "content": "x"}]),
    "a content": conversation_file([{"role": "user", "content": {"a": 1}}]),
    "a circle": conversation_file(
        [{"role": "user", "content": "x", "parent": "m1"}, {"role": "assistant", "content": "y"}]
    ),
    "a missing parent": conversation_file([{"role": "user", "content": "x", "parent": "gone"}]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(name: str, chat: ChatPage) -> None:
    chat.import_file(DAMAGED[name])
    notice = chat.page.inner_text("#notice")
    assert "file" in notice
    assert chat.titles() == []
