"""Conversations in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsrc.cli.transcript import Message, load, save
from rsrc.common.errors import SourceError

TALK: list[Message] = [
    {"role": "system", "content": "é"},
    {"role": "user", "content": [{"type": "text", "text": "a"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "tool", "content": "", "tool_call_id": "1"},
]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    save(file, TALK, replace=False)
    assert load(file) == TALK
    with pytest.raises(SourceError, match="already exists: choose another name"):
        save(file, TALK[:1], replace=False)
    assert load(file) == TALK
    file.write_text("\ufeff" + file.read_text("utf-8"), "utf-8")
    assert load(file) == TALK
    save(file, TALK[:1], replace=True)
    assert load(file) == TALK[:1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[", "not valid JSON"),
        ("3", "found 3, expected a list of messages"),
        ("{}", "found nothing, expected a list of messages"),
        ("[]", "expected a list of messages"),
        ("[" * 100_000, "nested too deeply"),
        (f"[{'1' * 5000}]", "a number has too many digits"),
        ("[3]", "message 1: found 3, expected an object"),
        ('[{"role": "user", "content": "a"}, {"role": []}]', "message 2: role is an empty list"),
        ('[{"role": "user", "content": 3}]', "message 1: content is 3, expected text"),
        ('[{"role": "user"}]', "message 1: content is nothing, expected text"),
        ('[{"role": "user", "content": [{"type": "image_url"}]}]', "content is a list"),
        ('[{"role": "user", "content": "", "\\ud800": ""}]', "half of a surrogate pair"),
    ],
)
def test_load_refuses(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "chat.json"
    file.write_text(text)
    with pytest.raises(SourceError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)
