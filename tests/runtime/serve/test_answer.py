"""Tests of structured output, tools and reasoning, by a server and OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest

from rsr_runtime.serve.answer import Thought
from rsr_runtime.serve.errors import ApiError
from rsr_runtime.serve.schema import ChatRequest, Message
from rsr_runtime.serve.server import Server
from rsr_runtime.serve.tools import Call, tool_offer
from rsr_testing.servers import Running

ASK: list[Any] = [{"role": "user", "content": "the rain"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "stop", "description": "Ends it."}},
]
CALL = '{"name": "weather", "__KEY__": {"city": "Oslo", "days": 1}}'


@pytest.fixture
def client_of(server_of: Callable[[str], Running]) -> Iterator[Callable[[str], openai.OpenAI]]:
    """Return a client of a server with a template."""
    with ExitStack() as stack:

        def connect(name: str) -> openai.OpenAI:
            url = f"{server_of(name).url}/v1"
            return stack.enter_context(openai.OpenAI(base_url=url, api_key="none", max_retries=0))

        yield connect


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    """A random model writes JSON of the schema, streamed or not, with the same seed."""
    format_: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
    options: Any = {
        "model": "tiny", "messages": ASK, "response_format": format_, "temperature": 1, "seed": 3,
        "n": 3,
    }  # fmt: skip
    answers = client.chat.completions.create(**options).choices
    for choice in answers:
        value = json.loads(choice.message.content or "")
        assert list(value) == ["city", "days"]
        assert value["city"] in ("Oslo", "Rome")
        assert choice.finish_reason == "stop"
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**options, stream=True):
        for piece in chunk.choices:
            texts[piece.index] += piece.delta.content or ""
    assert texts == [choice.message.content for choice in answers]


def test_json_object_and_grammars(client: openai.OpenAI, web: httpx.Client) -> None:
    """A bias for "}" ends the object at once. A GBNF and a Lark grammar have the same texts."""
    body = {"prompt": "}", "add_special_tokens": False}
    (end,) = web.post("/tokenize", json=body).json()["tokens"]
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, response_format={"type": "json_object"},
        logit_bias={str(end): 100},
    )  # fmt: skip
    assert answer.choices[0].message.content == "{}"
    for grammar in ('root ::= "rain" | "snow" [0-9]', 'start: "rain" | "snow" /[0-9]/'):
        answer = client.chat.completions.create(
            model="tiny", messages=ASK, extra_body={"grammar": grammar}
        )
        text = answer.choices[0].message.content or ""
        assert text == "rain" or (text[:4] == "snow" and text[4:].isdigit())
        completion = client.completions.create(
            model="tiny", prompt="the", extra_body={"grammar": grammar}
        )
        assert completion.choices[0].text[:4] in ("rain", "snow")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "found 'xml'"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema", "found nothing",
        ),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "no"}}},
            "response_format", "invalid type: no",
        ),
        ({"extra_body": {"grammar": "start: ("}}, "grammar", "not usable"),
        ({"tools": TOOLS}, "tools", "chat template has no tools"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice", "found 'maybe'"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "expected 'function'"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools", "two with the same name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name", "found 'a b'",
        ),
    ],
)  # fmt: skip
def test_refused(client: openai.OpenAI, fields: Any, param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(model="tiny", messages=ASK, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["hermes", "mistral", "llama"])
def test_a_required_call(client_of: Callable[[str], openai.OpenAI], name: str) -> None:
    """A random model calls a tool, whose result it then reads."""
    client = client_of(name)
    options: Any = {
        "model": "tiny", "messages": ASK, "tools": TOOLS, "temperature": 1, "seed": 1,
        "tool_choice": "required", "parallel_tool_calls": False,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }  # fmt: skip
    choice = client.chat.completions.create(**options).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name in ("weather", "stop")
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == ({"city", "days"} if call.function.name == "weather" else set())
    assert len(call.id) == 9 if name == "mistral" else call.id.startswith("call_")

    named = {"type": "function", "function": {"name": "weather"}}
    stream = client.chat.completions.create(**{**options, "tool_choice": named}, stream=True)
    pieces = [p for chunk in stream for c in chunk.choices for p in c.delta.tool_calls or []]
    assert [p.function.name for p in pieces if p.function] == ["weather"]
    assert json.loads(pieces[0].function.arguments if pieces[0].function else "")["days"] in (1, 2)

    history = [
        *ASK, choice.message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "sun"},
    ]  # fmt: skip
    answer = client.chat.completions.create(**{**options, "messages": history}, max_tokens=1)
    assert answer.usage is not None
    history[-1]["tool_call_id"] = "other"
    with pytest.raises(openai.BadRequestError, match="expected the id of a call before it"):
        client.chat.completions.create(**{**options, "messages": history})


def test_a_required_call_that_is_cut(client_of: Callable[[str], openai.OpenAI]) -> None:
    """It is a call with the beginning of its arguments, and no content."""
    client = client_of("hermes")
    options: Any = {
        "model": "tiny", "messages": ASK, "tools": TOOLS, "reasoning_effort": "none",
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }  # fmt: skip
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].message.tool_calls
    complete = whole.choices[0].message.tool_calls[0].function.arguments
    assert whole.usage
    lengths = set()
    for most in (1, whole.usage.completion_tokens // 2, whole.usage.completion_tokens - 3):
        choice = client.chat.completions.create(**options, max_tokens=most).choices[0]
        assert choice.finish_reason == "length"
        assert choice.message.content is None
        assert choice.message.tool_calls
        (call,) = choice.message.tool_calls
        assert call.function.name == "weather"
        assert complete.startswith(call.function.arguments)
        lengths.add(len(call.function.arguments))
    assert len(lengths) > 1


def test_tools_that_are_not_to_be_called_are_not_rendered(
    client_of: Callable[[str], openai.OpenAI],
) -> None:
    client = client_of("hermes")
    options: Any = {"model": "tiny", "messages": ASK, "max_tokens": 1}
    plain = client.chat.completions.create(**options).usage
    none = client.chat.completions.create(**options, tools=TOOLS, tool_choice="none").usage
    auto = client.chat.completions.create(**options, tools=TOOLS).usage
    assert plain
    assert none
    assert auto
    assert plain.prompt_tokens == none.prompt_tokens < auto.prompt_tokens


def read(
    server: Server, text: str, tools: Any = None, is_cut: bool = False, **fields: Any
) -> list[Any]:
    """Return the parts of a text that a model would write as its answer."""
    request = ChatRequest(messages=[Message(role="user", content="?")], **fields)
    offer = tool_offer(tools, request.tool_choice, request.parallel_tool_calls)
    prompt = server.model.chat_prompt(ASK, tools, **(request.chat_template_kwargs or {}))
    plan = server.answers.plan(prompt, request, server.answers.checked_offer(offer))
    parser = plan.parser()
    if plan.constraint is not None:
        constraint = plan.constraint()
        for token in server.model.tokenizer.encode(text, special=False):
            constraint.accept(token)
    return [part for piece in text for part in parser.push(piece)] + parser.finish(is_cut)


def joined(parts: list[Any]) -> list[Any]:
    """Join neighboring texts."""
    found: list[Any] = []
    for part in parts:
        if found and isinstance(part, str) and isinstance(found[-1], str):
            found[-1] += part
        elif found and isinstance(part, Thought) and isinstance(found[-1], Thought):
            found[-1] = Thought(found[-1].text + part.text)
        else:
            found.append(part)
    return found


def test_reasoning_comes_before_what_is_constrained(server_of: Callable[[str], Running]) -> None:
    """A schema holds after the block of reasoning, which the template or the model opens."""
    server = server_of("thinking").server
    format_ = {"type": "json_object", "schema": WEATHER}
    answer = '{"city": "Oslo", "days": 1}'
    thought = "Hm {</think>\n\n"
    assert joined(read(server, thought + answer, response_format=format_)) == [
        Thought("Hm {"), answer,
    ]  # fmt: skip
    with pytest.raises(ApiError, match="cannot go on"):
        read(server, f"{thought}no", response_format=format_)
    call = CALL.replace("__KEY__", "arguments")
    called = Call("weather", '{"city": "Oslo", "days": 1}')
    hermes = server_of("hermes").server
    for text in ("", f"<think>{thought}"):
        thoughts = [Thought("Hm {")] if text else []
        text += f"<tool_call>\n{call}\n</tool_call>"
        required = joined(read(hermes, text, TOOLS, tool_choice="required"))
        assert required == [*thoughts, called]
        assert joined(read(hermes, text, TOOLS, response_format=format_)) == [*thoughts, called]
    assert joined(read(hermes, answer, TOOLS, response_format=format_)) == [answer]
    assert read(hermes, f"<tool_call>{call}"[:-2], TOOLS, is_cut=True) == [
        Call("weather", '{"city": "Oslo", "days": 1')
    ]
    # Without thinking, the template closes the block, and the same text is content.
    plain = {"enable_thinking": False}
    assert joined(read(hermes, "<think>a", chat_template_kwargs=plain)) == ["<think>a"]
    both = f"<tool_call>{call}</tool_call>" * 2
    assert read(hermes, both, TOOLS) == [called, called]
    assert read(hermes, both, TOOLS, parallel_tool_calls=False) == [called]
