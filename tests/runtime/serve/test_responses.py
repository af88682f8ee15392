"""Tests of the Responses API with OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from rsr_testing.servers import Running

WORD = {"type": "json_schema", "name": "w", "schema": {"enum": ["Oslo", "Rome"]}}
# Else a random model may think until its context is full.
PLAIN: Any = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
TOOLS: list[Any] = [
    {
        "type": "function", "name": "weather", "strict": True,
        "parameters": {
            "type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"], "additionalProperties": False,
        },
    }
]  # fmt: skip


@pytest.fixture
def hermes(server_of: Callable[[str], Running]) -> Iterator[openai.OpenAI]:
    url = f"{server_of('hermes').url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_text(hermes: openai.OpenAI) -> None:
    options: Any = {
        "model": "tiny", "input": "the rain", "instructions": "Be brief.",
        "text": {"format": WORD}, "temperature": 0.5, **PLAIN,
    }  # fmt: skip
    response = hermes.responses.create(**options)
    assert response.status == "completed"
    assert response.output_text in ('"Oslo"', '"Rome"')
    assert response.usage is not None
    assert response.usage.input_tokens > len("the rain")
    assert response.usage.output_tokens > 1
    assert response.store is False


def test_events(hermes: openai.OpenAI) -> None:
    """The events of a text in their order; the client accumulates them."""
    options: Any = {"model": "tiny", "input": "the rain", "text": {"format": WORD}, **PLAIN}
    kinds, numbers = [], []
    with hermes.responses.stream(**options) as stream:
        for event in stream:
            kinds.append(event.type)
            numbers.append(event.sequence_number)
        final = stream.get_final_response()
    deltas = kinds.count("response.output_text.delta")
    assert [kind for kind in kinds if not kind.endswith("text.delta")] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert deltas > 1
    assert numbers == list(range(len(kinds)))
    assert final.output_text == hermes.responses.create(**options).output_text


def test_a_long_answer_is_incomplete(hermes: openai.OpenAI) -> None:
    response = hermes.responses.create(model="tiny", input="the rain", max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_a_call_and_its_result(hermes: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "name": "weather"}
    options: Any = {"model": "tiny", "tools": TOOLS, "tool_choice": choice, **PLAIN}
    asked: Any = [{"role": "user", "content": [{"type": "input_text", "text": "the rain"}]}]
    with hermes.responses.stream(**options, input=asked) as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    (call,) = response.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")
    more: Any = [
        *asked,
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "H"}]},
        call.to_dict(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sun"},
    ]
    assert hermes.responses.create(**options, input=more).output[0].type == "function_call"
    more[-1]["call_id"] = "other"
    with pytest.raises(openai.BadRequestError, match="expected the id of a call before it"):
        hermes.responses.create(**options, input=more)


def test_a_call_that_is_cut_is_incomplete(hermes: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "name": "weather"}
    response = hermes.responses.create(
        model="tiny", tools=TOOLS, tool_choice=choice, input="a", max_output_tokens=3,
        reasoning={"effort": "none"},
    )  # fmt: skip
    (call,) = response.output
    assert call.type == "function_call"
    assert (call.name, call.status, response.status) == ("weather", "incomplete", "incomplete")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ],
)  # fmt: skip
def test_refused(hermes: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        hermes.responses.create(**{"model": "tiny", "input": "a", **fields})
    assert caught.value.param == param
