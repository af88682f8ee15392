"""Requests with a part of any other type: each is understood or refused, and never a fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from rsr_runtime.serve import messages, responses
from rsr_runtime.serve.answer import text_grammar
from rsr_runtime.serve.conversation import template_messages, template_variables
from rsr_runtime.serve.decoding import decoded
from rsr_runtime.serve.errors import api_error
from rsr_runtime.serve.schema import ChatRequest
from rsr_runtime.serve.tools import tool_offer

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FUNCTION = {"name": "f", "description": "F.", "parameters": SCHEMA}
CHAT = {
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant", "content": None, "reasoning_content": "b",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "c"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low",
    "stop": ["a"], "logit_bias": {"1": 1}, "stream_options": {"include_usage": True},
}  # fmt: skip
MESSAGES = {
    "system": [{"type": "text", "text": "a"}], "max_tokens": 1, "stop_sequences": ["b"],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "b", "signature": ""},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": "b"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result", "tool_use_id": "1",
                    "content": [{"type": "text", "text": "c"}],
                }
            ],
        },
    ],
    "tools": [{"type": "custom", "name": "f", "description": "F.", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1},
}  # fmt: skip
RESPONSES = {
    "instructions": "a",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "b"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "c"},
        {"role": "assistant", "content": "d"},
    ],
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "reasoning": {"effort": "low"}, "metadata": {"a": "b"}, "include": ["a"],
}  # fmt: skip

Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of each part of a value, without its own."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield (*path, key)
        if isinstance(part, (dict, list)):
            yield from places(part, (*path, key))


def status(kind: str, body: Any) -> int:
    """Return the status of what a request is as a prompt, or its error."""
    data = json.dumps(body).encode()
    try:
        if kind == "messages":
            request = messages.chat_request(decoded(data, messages.MessagesRequest))
        elif kind == "responses":
            request = responses.chat_request(decoded(data, responses.ResponsesRequest))
        else:
            request = decoded(data, ChatRequest)
        tool_offer(request.tools, request.tool_choice, request.parallel_tool_calls)
        template_variables({}, request.chat_template_kwargs, request.reasoning_effort)
        json.dumps(template_messages(request.messages))
        text_grammar(request)
    except Exception as error:
        return api_error(error).status
    return 200


BODIES: dict[str, Any] = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}
PLACES = [(kind, path) for kind, body in BODIES.items() for path in places(body)]
VALUES: list[Any] = [None, True, 5, "", "a", [], [5], [[]], [{}], {}, {"type": []}, {"a": 5}]


def test_the_requests_themselves_are_understood() -> None:
    for kind, body in BODIES.items():
        assert status(kind, body) == 200


def test_no_part_is_a_fault() -> None:
    faults = []
    for kind, path in PLACES:
        for value in VALUES:
            body = copy.deepcopy(BODIES[kind])
            inner = body
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            if status(kind, body) >= 500:
                faults.append((kind, path, value))
    assert faults == []
