"""Save a conversation to a file and load it: JSON, messages in the format of OpenAI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsr_formats.atomic import atomic_file
from rsr_formats.errors import OutputExistsError
from rsr_formats.text import shown

from ..common.errors import SourceError
from .chat_text import read_file

Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")


def save(path: Path, messages: Sequence[Message], replace: bool) -> None:
    """Write {"messages": [...]} to a file, as a whole or not at all.

    Args:
        path: the file.
        messages: at least one.
        replace: whether an existing file may be replaced.

    Raises:
        SourceError: there is nothing to save, or the file exists and must not be replaced.
        OSError: the file cannot be written.
    """
    if not messages:
        raise SourceError("there is no message to save")
    try:
        with atomic_file(path, force=replace) as file:
            file.write(_document(messages) + b"\n")
    except OutputExistsError:
        raise SourceError(f"{path} already exists: choose another name") from None


def load(path: Path) -> list[Message]:
    """Return the messages in a file: {"messages": [...]}, or the list alone.

    Raises:
        SourceError: it has no such messages, or text that is not valid Unicode.
        OSError: the file cannot be read.
    """
    try:
        value = json.loads(read_file(path).removeprefix("\ufeff"))  # Notepad's byte order mark
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}: not valid JSON: {error}") from None
    except ValueError:
        raise SourceError(f"{path}: a number has too many digits") from None
    except RecursionError:
        raise SourceError(f"{path}: nested too deeply") from None
    if isinstance(value, dict):
        value = value.get("messages")
    if not isinstance(value, list) or not value:
        raise SourceError(f"{path}: found {shown(value)}, expected a list of messages")
    for number, message in enumerate(value, 1):
        fault = _fault(message)
        if fault is not None:
            raise SourceError(f"{path}: message {number}: {fault}")
    try:
        _document(value)
    except UnicodeEncodeError:
        raise SourceError(
            f"{path}: found half of a surrogate pair, which is not valid Unicode"
        ) from None
    return value


def _document(messages: Sequence[Message]) -> bytes:
    return json.dumps({"messages": list(messages)}, indent=2, ensure_ascii=False).encode()


def _fault(message: object) -> str | None:
    """Return what is wrong with a message, or None."""
    if not isinstance(message, dict):
        return f"found {shown(message)}, expected an object"
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        return f"role is {shown(role)}, expected {', '.join(_ROLES[:-1])} or {_ROLES[-1]}"
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return None
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        return None
    return f"content is {shown(content)}, expected text"


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
