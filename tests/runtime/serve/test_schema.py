"""Requests that are refused by name, or whose unknown fields are ignored."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from rsr_runtime.serve.decoding import decoded
from rsr_runtime.serve.errors import ApiError
from rsr_runtime.serve.schema import ChatRequest

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_null_is_absent_and_unknown_fields_are_ignored() -> None:
    body = {"messages": MESSAGES, "temperature": None, "stop": None, "hello": {"a": [1]}}
    assert decoded(json.dumps(body).encode(), ChatRequest) == decoded(
        json.dumps({"messages": MESSAGES}).encode(), ChatRequest
    )


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("messages", None, "messages"),
        ("messages", [], "messages"),
        ("messages", [{"role": "wizard", "content": ""}], "messages[0].role"),
        ("messages", [{"role": "user", "content": 1}], "messages[0].content"),
        ("messages", [{"role": "user"}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}],
         "messages[0].content[0].type"),
        ("messages", [{"role": "tool", "content": "1", "tool_call_id": "x"}],
         "messages[0].tool_call_id"),
        ("messages", [{"role": "tool", "content": "1"}], "messages[0].tool_call_id"),
        ("temperature", 2.5, "temperature"),
        ("temperature", "1", "temperature"),
        ("top_p", -0.1, "top_p"),
        ("top_k", 0.5, "top_k"),
        ("min_p", 2, "min_p"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("presence_penalty", 3, "presence_penalty"),
        ("frequency_penalty", -3, "frequency_penalty"),
        ("logit_bias", {"1": 101}, "logit_bias"),
        ("logit_bias", {"a": 1}, "logit_bias"),
        ("logit_bias", {"999999": 1}, "logit_bias"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 0, "max_tokens"),
        ("max_completion_tokens", 0, "max_completion_tokens"),
        ("stop", [1], "stop[0]"),
        ("stop", "", "stop"),
        ("stop", [""], "stop[0]"),
        ("stop", ["a"] * 65, "stop"),
        ("stop", "a" * 1001, "stop"),
        ("stop", ["b", "a" * 1001], "stop[1]"),
        ("seed", -1, "seed"),
        ("seed", 1 << 70, "seed"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("stream", "yes", "stream"),
        ("top_logprobs", 21, "top_logprobs"),
        ("top_logprobs", 2, "top_logprobs"),
        ("chat_template_kwargs", {"messages": []}, "chat_template_kwargs"),
        ("functions", [], "functions"),
        ("function_call", "auto", "function_call"),
        ("modalities", ["audio"], "modalities"),
        ("audio", {"voice": "a"}, "audio"),
        ("web_search_options", {}, "web_search_options"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_fields_are_refused_by_name(
    web: httpx.Client, field: str, value: Any, param: str, stream: bool
) -> None:
    body = {"messages": MESSAGES, "stream": stream, "max_tokens": 1, field: value}
    refused = web.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert field in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"messages": "\xff"}', b"[" * 100_000, b'{"messages": NaN}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"a": ' * 5000, b"\x00",
        b'{"messages": [{"role": "user", "content": "a"}], "seed": 1e999}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_request_are_refused(web: httpx.Client, body: bytes) -> None:
    refused = web.post("/v1/chat/completions", content=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 3, "temperature: found 3, expected a number of at most 2"),
        ("temperature", "a", "temperature: found a string, expected a number"),
        ("logit_bias", {"1": -101}, "logit_bias: expected a number of at least -100"),
        ("stop", 5, "stop: found an integer, expected a string or an array"),
        ("stop", ["a"] * 65, "stop: expected an array of at most 64 entries"),
        ("stop", [""], "stop[0]: expected a string of at least 1 characters"),
        ("stream", 1, "stream: found an integer, expected a boolean"),
        ("messages", [{}], "messages[0].role: found nothing"),
    ],
)
def test_the_error_says_what_was_found_and_expected(field: str, value: Any, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        decoded(json.dumps({"messages": MESSAGES, field: value}).encode(), ChatRequest)
    assert str(caught.value) == message


def test_a_number_is_shown_although_the_body_is_cut() -> None:
    with pytest.raises(ApiError, match="n: expected an integer of at least 1"):
        decoded(b'{"n": 0, "messages"', ChatRequest)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": [10**6]}, "prompt"),
        ("completions", {"prompt": [-1]}, "prompt"),
        ("completions", {"prompt": [1] * 20_000}, "prompt"),
        ("completions", {"prompt": "a", "stop": [""]}, "stop[0]"),
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": [["a"]]}, "prompt[0][0]"),
        ("chat/completions", {"messages": [{**MESSAGES[0], "content": "a " * 20_000}]}, "messages"),
        ("tokenize", {}, "prompt"),
        ("detokenize", {"tokens": [10**6]}, "tokens"),
        ("responses", {"input": "a " * 20_000}, "input"),
    ],
)  # fmt: skip
def test_prompts_are_refused_by_name(
    web: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    refused = web.post(f"/v1/{path}", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert refused.json()["error"]["message"]
