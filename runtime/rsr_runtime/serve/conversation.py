"""The messages of a request as chat templates read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ApiError, refused
from .schema import ContentPart, Json, Message, ToolCall

_ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_TAKEN = ("messages", "tools", "allow_special_tokens", "add_generation_prompt")


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages with text as content, and arguments of tool calls as objects.

    Raises:
        ApiError: a message has an unknown role, other content than text, no content, or a call of a
            tool that is malformed or not known.
    """
    calls: set[str] = set()
    found = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message.role not in _ROLES:
            raise refused(
                f"{where}.role", f"found {message.role!r:.40}, expected {', '.join(_ROLES)}"
            )
        text = _text(message.content, where)
        if message.role == "tool":
            _check_result(message, calls, where)
        elif text is None and not message.tool_calls and message.role != "assistant":
            raise refused(f"{where}.content", "found null, expected text")
        # Many templates leave out messages of a role that they do not know.
        role = "system" if message.role == "developer" else message.role
        converted: dict[str, Any] = {"role": role, "content": text or ""}
        for name in ("name", "reasoning_content", "tool_call_id"):
            if (value := getattr(message, name)) is not None:
                converted[name] = value
        if message.tool_calls:
            if message.role != "assistant":
                raise refused(
                    f"{where}.tool_calls", f"found in a message of role {message.role}, "
                    "expected them only in those of the assistant",
                )  # fmt: skip
            converted["tool_calls"] = [
                _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)
            ]
            calls.update(call.id for call in message.tool_calls if call.id is not None)
        found.append(converted)
    return found


def template_variables(
    default: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    reasoning_effort: str | None = None,
) -> dict[str, Any]:
    """Return the variables for the template.

    Args:
        default: those of the server.
        given: those of the request.
        reasoning_effort: of the request; templates know it as a variable, or know at least the
            switch that "none" turns off.

    Raises:
        ApiError: one is part of the conversation.
    """
    for name in _TAKEN:
        if name in (given or {}):
            raise refused("chat_template_kwargs", f"found {name}, which the request itself sets")
    own: dict[str, Any] = {}
    if reasoning_effort is not None:
        own["reasoning_effort"] = reasoning_effort
    if reasoning_effort == "none":
        own["enable_thinking"] = False
    return {**default, **own, **(given or {})}


def _text(content: str | Sequence[ContentPart] | None, where: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    pieces = []
    for i, part in enumerate(content):
        if part.type not in _TEXT_PARTS:
            raise ApiError(
                400,
                f"{where}.content[{i}]: found a part of type {part.type!r:.40}, expected text: the "
                "model reads text only",
                param=f"{where}.content[{i}].type",
            )
        if part.text is None:
            raise refused(f"{where}.content[{i}].text", "found nothing, expected text")
        pieces.append(part.text)
    return "".join(pieces)


def _check_result(message: Message, calls: set[str], where: str) -> None:
    """Check that the result of a tool answers a call before it."""
    if message.tool_call_id is None:
        raise refused(f"{where}.tool_call_id", "found nothing, expected the id of a call before it")
    if message.tool_call_id not in calls:
        raise refused(
            f"{where}.tool_call_id",
            f"found {message.tool_call_id!r:.60}, expected the id of a call before it",
        )
    if message.content is None:
        raise refused(f"{where}.content", "found null, expected the result of the tool")


def _call(call: ToolCall, where: str) -> Json:
    """Return a call whose arguments are an object, which templates write as they like."""
    if call.type != "function":
        raise refused(f"{where}.type", f"found {call.type!r:.40}, expected 'function'")
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise refused(f"{where}.function.arguments", "expected a JSON object as text")
        arguments = parsed
    converted: Json = {
        "type": "function", "function": {"name": call.function.name, "arguments": arguments},
    }  # fmt: skip
    return converted if call.id is None else {"id": call.id, **converted}
