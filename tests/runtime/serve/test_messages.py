"""Tests of the Messages API with Anthropic's client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import pytest

from rsr_testing.servers import Running

ASK: list[Any] = [{"role": "user", "content": "the rain"}]
TOOLS: list[Any] = [
    {
        "name": "weather", "description": "The weather.",
        "input_schema": {
            "type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"], "additionalProperties": False,
        },
    }
]  # fmt: skip


def client_of(running: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0)


@pytest.fixture
def hermes(server_of: Callable[[str], Running]) -> Iterator[anthropic.Anthropic]:
    with client_of(server_of("hermes")) as client:
        yield client


def test_text(hermes: anthropic.Anthropic) -> None:
    options: Any = {
        "model": "tiny", "messages": ASK, "system": "Be brief.", "max_tokens": 6,
        "extra_body": {"temperature": 0},
    }  # fmt: skip
    answer = hermes.messages.create(**options)
    assert answer.stop_reason == "max_tokens"
    (block,) = answer.content
    assert block.type == "text"
    with hermes.messages.stream(**options) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert streamed.content[0].to_dict() == block.to_dict()
    assert streamed.usage.output_tokens == answer.usage.output_tokens == 6
    cached = streamed.usage.cache_read_input_tokens or 0
    counted = hermes.messages.count_tokens(model="tiny", messages=ASK, system="Be brief.")
    assert counted.input_tokens == streamed.usage.input_tokens + cached


def test_a_stop_sequence_is_named(hermes: anthropic.Anthropic) -> None:
    options: Any = {"model": "tiny", "messages": ASK, "max_tokens": 20}
    (block,) = hermes.messages.create(**options).content
    assert block.type == "text"
    stop = block.text[3:5]
    answer = hermes.messages.create(**options, stop_sequences=["<none>", stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)


def test_a_call_and_its_result(hermes: anthropic.Anthropic) -> None:
    options: Any = {"model": "tiny", "max_tokens": 200, "tools": TOOLS}
    with hermes.messages.stream(**options, messages=ASK, tool_choice={"type": "any"}) as stream:
        streamed = stream.get_final_message()
    assert streamed.stop_reason == "tool_use"
    call = streamed.content[0]
    assert call.type == "tool_use"
    assert call.input["city"] in ("Oslo", "Rome")
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sun"}
    more: list[Any] = [
        *ASK,
        {"role": "assistant", "content": [thought, *(b.to_dict() for b in streamed.content)]},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    choice: Any = {"type": "tool", "name": "weather"}
    answer = hermes.messages.create(**options, messages=more, tool_choice=choice)
    assert answer.content[0].type == "tool_use"
    result["tool_use_id"] = "other"
    with pytest.raises(anthropic.BadRequestError, match="expected the id of a call before it"):
        hermes.messages.create(**options, messages=more)


def test_a_call_that_is_cut_has_no_input(hermes: anthropic.Anthropic) -> None:
    choice: Any = {"type": "tool", "name": "weather"}
    options: Any = {"model": "tiny", "messages": ASK, "tools": TOOLS, "tool_choice": choice}
    answer = hermes.messages.create(**options, max_tokens=3)
    assert answer.stop_reason == "max_tokens"
    (call,) = answer.content
    assert call.type == "tool_use"
    assert call.input == {}


def test_reasoning_is_a_block_of_its_own(server_of: Callable[[str], Running]) -> None:
    """The template opens a block of reasoning, which three tokens do not end."""
    with client_of(server_of("thinking")) as client:
        options: Any = {"model": "tiny", "messages": ASK, "max_tokens": 3}
        with client.messages.stream(**options) as stream:
            (block,) = stream.get_final_message().content
        assert block.type == "thinking"
        assert block.thinking


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "tool", "content": "a"}]}, "found 'tool', expected user"),
        ({"messages": [*ASK, {"role": "assistant", "content": "It"}]}, "cannot be continued"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "reads text only"),
        ({"messages": [{"role": "user", "content": "the rain " * 900}]}, "prompt is too long"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "input_schema"),
        ({"tool_choice": {"type": "some"}}, "expected auto, any, tool or none"),
        ({"tool_choice": {"type": "any"}}, "needs tools"),
        ({"extra_body": {"temperature": 3}}, "temperature"),
        ({"stop_sequences": ["a"] * 65}, "stop_sequences"),
    ],
)
def test_errors_have_anthropic_s_shape(
    hermes: anthropic.Anthropic, fields: Any, message: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message) as caught:
        hermes.messages.create(**{"model": "tiny", "messages": ASK, "max_tokens": 1, **fields})
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"


def test_a_request_without_max_tokens(server_of: Callable[[str], Running]) -> None:
    answer = httpx.post(f"{server_of('hermes').url}/v1/messages", json={"messages": ASK})
    assert answer.status_code == 400
    assert "max_tokens" in answer.json()["error"]["message"]
