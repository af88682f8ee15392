"""/v1/responses: OpenAI's Responses API, translated to and from chat completions."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from starlette.types import Receive

from .chat import chat_chunks
from .decoding import converted
from .endpoint import collected, translated, unless_gone
from .errors import ApiError, refused
from .schema import (
    ChatChunk,
    ChatRequest,
    Count,
    Delta,
    Json,
    Message,
    Share,
    Temperature,
    Usage,
)
from .server import Server
from .sse import event_stream, named

_STATELESS = "not supported: nothing is stored, so send the whole conversation as input"
_NOT_DONE = {
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "prompt": "not supported: send its text as instructions",
    "background": "not supported",
    "top_logprobs": "not supported: chat completions have them",
}


# The names of a chat completion's fields in errors, and those of this API.
_PARAMS = (
    (re.compile("^messages.*"), "input"),
    (re.compile(r"^response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"^(tools\[\d+\])\.function"), r"\1"),
)


class ResponsesRequest(Struct, kw_only=True):
    """A request for a response. `store` is ignored: nothing is stored."""

    input: str | list[Json]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    text: Json | None = None
    reasoning: Json | None = None
    include: list[str] | None = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    chat_template_kwargs: Json | None = None
    # Known, and not done.
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    top_logprobs: int | None = None


Event = tuple[str, Json]


def error_body(error: ApiError) -> Mapping[str, Any]:
    """Return the JSON object of an error, with the names that fields have in this API."""
    param = error.param or ""
    for pattern, own in _PARAMS:
        renamed = pattern.sub(own, param)
        if renamed != param:
            message = str(error).replace(param, renamed, 1)
            return ApiError(error.status, message, param=renamed, code=error.code).body()
    return error.body()


async def respond(server: Server, request: ResponsesRequest, receive: Receive) -> Any:
    """Answer a request."""
    _check(request)
    chat = chat_request(request)
    chat.model = request.model
    writer = _Writer(request, server.adapter_of(request.model) or server.name)
    events = translated(chat_chunks(server, chat), writer.push)
    if not request.stream:
        await unless_gone(receive, collected(events))
        return writer.response()
    return await event_stream(events, lambda event: named(*event), writer.failed)


def _check(request: ResponsesRequest) -> None:
    """Refuse what is known and not done.

    Raises:
        ApiError: the request has it.
    """
    for name, reason in _NOT_DONE.items():
        if getattr(request, name) not in (None, False, 0):
            raise refused(name, reason, "unsupported_parameter")
    if request.truncation not in (None, "disabled"):
        raise refused("truncation", "expected 'disabled'", "unsupported_parameter")
    if "message.output_text.logprobs" in (request.include or ()):
        raise refused("include", "log-probabilities are not supported", "unsupported_parameter")


def chat_request(request: ResponsesRequest) -> ChatRequest:
    """Return the request for a chat completion that asks for the same.

    Raises:
        ApiError: an item of the input, a tool or a format is malformed.
    """
    messages = _messages(request.input)
    if request.instructions is not None:
        messages = [{"role": "system", "content": request.instructions}, *messages]
    format_ = (request.text or {}).get("format")
    if isinstance(format_, dict) and format_.get("type") == "json_schema":
        format_ = {"type": "json_schema", "json_schema": format_}
    effort = (request.reasoning or {}).get("effort")
    choice = request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return ChatRequest(
        messages=[converted(message, Message, f"input[{i}]") for i, message in enumerate(messages)],
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        tools=[_tool(tool) for tool in request.tools or ()] or None,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=converted(format_, Json, "text.format") if format_ is not None else None,
        reasoning_effort=effort if effort is None else converted(effort, str, "reasoning.effort"),
        chat_template_kwargs=request.chat_template_kwargs,
        stream=request.stream,
    )


def _tool(tool: Json) -> Json:
    """Return a tool as chat completions have it; one that is no function is refused later."""
    if tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _messages(items: str | list[Json]) -> list[Json]:
    """Return the messages that the items of an input are."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Json] = []
    answer: Json | None = None  # the assistant's message that is not complete yet
    for i, item in enumerate(items):
        kind = item.get("type", "message")
        is_answer = kind in ("reasoning", "function_call") or (
            kind == "message" and item.get("role") == "assistant"
        )
        if not is_answer:
            answer = None
        elif answer is None or (kind != "function_call" and "tool_calls" in answer):
            answer = {"role": "assistant"}
            messages.append(answer)
        if kind == "message":
            message = {"role": item.get("role"), "content": item.get("content")}
            if answer is None:
                messages.append(message)
            elif answer.get("content") is None:
                answer.update(message)
            else:
                answer = message
                messages.append(answer)
        elif kind == "function_call":
            assert answer is not None
            function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
            answer.setdefault("tool_calls", []).append(
                {"id": item.get("call_id"), "type": "function", "function": function}
            )
        elif kind == "function_call_output":
            messages.append({
                "role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output"),
            })  # fmt: skip
        elif kind == "reasoning":
            assert answer is not None
            parts = converted(item.get("content") or [], list[Json], f"input[{i}].content")
            texts = [part.get("text") for part in parts]
            answer["reasoning_content"] = "".join(t for t in texts if isinstance(t, str))
        else:
            raise refused(
                f"input[{i}].type",
                f"found {kind!r:.40}, expected 'message', 'function_call', 'function_call_output' "
                "or 'reasoning'",
                "unsupported_parameter",
            )
    return messages


class _Writer:
    """Writes a response as events, one chunk of a chat completion after the other."""

    def __init__(self, request: ResponsesRequest, model: str) -> None:
        self._request = request
        self._model = model
        self._id = f"resp_{secrets.token_hex(16)}"
        self._created = 0
        self._status = "in_progress"
        self._output: list[Json] = []
        self._text = ""  # of the item that is not complete
        self._usage: Usage | None = None
        self._number = 0  # of the next event

    def push(self, chunk: ChatChunk) -> Iterator[Event]:
        """Yield the events for a chunk."""
        if not self._created:
            self._created = chunk.created
            yield self._event("response.created", response=self.response())
            yield self._event("response.in_progress", response=self.response())
        for choice in chunk.choices:
            yield from self._delta(choice.delta)
            if choice.finish_reason is not None:
                self._status = "incomplete" if choice.finish_reason == "length" else "completed"
                yield from self._end_item(self._status)
        if chunk.usage is not UNSET:
            self._usage = chunk.usage
            yield self._event(f"response.{self._status}", response=self.response())

    def failed(self, error: ApiError) -> bytes:
        """Return the event of an error, with what OpenAI's clients raise."""
        body = error.body()
        fields = {k: body["error"][k] for k in ("code", "message", "param")}
        return named(*self._event("error", **fields, **body))

    def response(self) -> Json:
        """Return the response so far."""
        request, usage = self._request, self._usage
        why = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": self._status,
            "error": None,
            "incomplete_details": why,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self._model,
            "output": [dict(item) for item in self._output],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": request.reasoning or {"effort": None, "summary": None},
            "store": False,
            "temperature": request.temperature,
            "text": request.text or {"format": {"type": "text"}},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": usage.prompt_tokens_details.cached_tokens,
                    "cache_write_tokens": 0,
                },
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.total_tokens,
            },
        }  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return kind, {"type": kind, "sequence_number": self._number - 1, **fields}

    def _delta(self, delta: Delta) -> Iterator[Event]:
        if delta.reasoning_content is not UNSET:
            yield from self._text_piece("reasoning", "reasoning_text", delta.reasoning_content)
        if isinstance(delta.content, str):
            yield from self._text_piece("message", "output_text", delta.content)
        for call in delta.tool_calls or ():
            yield from self._end_item()
            name, arguments = call.function.name or "", call.function.arguments
            yield from self._begin_item(
                "function_call", "fc", call_id=call.id, name=name, arguments=""
            )
            where = self._where()
            yield self._event("response.function_call_arguments.delta", **where, delta=arguments)
            self._output[-1]["arguments"] = arguments
            yield self._event(
                "response.function_call_arguments.done", **where, name=name, arguments=arguments
            )
            yield from self._end_item("completed" if _is_json(arguments) else "incomplete")

    def _text_piece(self, kind: str, part: str, text: str) -> Iterator[Event]:
        if not self._is_open(kind):
            yield from self._end_item()
            if kind == "message":
                yield from self._begin_item(kind, "msg", role="assistant", content=[])
            else:
                yield from self._begin_item(kind, "rs", summary=[], content=[])
            yield self._event(
                "response.content_part.added", **self._where(), content_index=0,
                part=_part(part, ""),
            )  # fmt: skip
        self._text += text
        extra: Json = {"logprobs": []} if kind == "message" else {}
        yield self._event(
            f"response.{part}.delta", **self._where(), content_index=0, delta=text, **extra
        )

    def _is_open(self, kind: str) -> bool:
        return bool(self._output) and self._output[-1]["type"] == kind and self._is_unfinished()

    def _is_unfinished(self) -> bool:
        return bool(self._output) and self._output[-1]["status"] == "in_progress"

    def _where(self) -> Json:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}

    def _begin_item(self, kind: str, prefix: str, **fields: Any) -> Iterator[Event]:
        self._text = ""
        self._output.append({
            "id": f"{prefix}_{secrets.token_hex(16)}", "type": kind, "status": "in_progress",
            **fields,
        })  # fmt: skip
        index = len(self._output) - 1
        yield self._event(
            "response.output_item.added", output_index=index, item=dict(self._output[-1])
        )

    def _end_item(self, status: str = "completed") -> Iterator[Event]:
        if not self._is_unfinished():
            return
        item = self._output[-1]
        if item["type"] != "function_call":
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            part, where = _part(kind, self._text), self._where()
            extra: Json = {"logprobs": []} if item["type"] == "message" else {}
            yield self._event(
                f"response.{kind}.done", **where, content_index=0, text=self._text, **extra
            )
            yield self._event("response.content_part.done", **where, content_index=0, part=part)
            item["content"] = [part]
        item["status"] = status
        index = len(self._output) - 1
        yield self._event("response.output_item.done", output_index=index, item=dict(item))


def _is_json(text: str) -> bool:
    """Return whether a text is JSON; the arguments of a call that was cut are not."""
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


def _part(kind: str, text: str) -> Json:
    extra: Json = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {"type": kind, "text": text, **extra}
