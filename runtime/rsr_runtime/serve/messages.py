"""/v1/messages: Anthropic's Messages API, translated to and from chat completions."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from anyio.to_thread import run_sync
from msgspec import UNSET, Meta, Struct
from starlette.types import Receive

from .chat import chat_chunks, prompt_of
from .decoding import converted
from .endpoint import ErrorBody, collected, translated, unless_gone
from .errors import ApiError, refused
from .schema import (
    ChatChunk,
    ChatRequest,
    Count,
    Delta,
    Json,
    Message,
    Share,
    Size,
    StopStrings,
    Temperature,
    Usage,
)
from .server import Server
from .sse import event_stream, named

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_PATH = re.compile("(/v1)?/messages(/|$)")
_ROLES = ("user", "assistant", "system")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class AnthropicMessage(Struct):
    """A message of a conversation."""

    role: str
    content: str | list[Json]


class CountRequest(Struct, kw_only=True):
    """A conversation whose tokens are counted."""

    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Json] | None = None
    tools: list[Json] | None = None
    tool_choice: Json | None = None
    thinking: Json | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """A request for the next message of a conversation."""

    max_tokens: Count
    stop_sequences: StopStrings | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Size | None = None
    # Known, and not done.
    container: Any = None
    mcp_servers: list[Json] | None = None


Event = tuple[str, Json]


async def message(server: Server, request: MessagesRequest, receive: Receive) -> Any:
    """Answer a request."""
    for name in ("container", "mcp_servers"):
        if getattr(request, name):
            raise refused(name, "not supported", "unsupported_parameter")
    chat = chat_request(request)
    chat.max_tokens = request.max_tokens
    chat.stop = request.stop_sequences
    chat.temperature = request.temperature
    chat.top_p = request.top_p
    chat.top_k = request.top_k
    chat.model = request.model
    writer = _Writer(server.adapter_of(request.model) or server.name)
    events = translated(chat_chunks(server, chat), writer.push)
    if not request.stream:
        await unless_gone(receive, collected(events))
        return writer.message()
    return await event_stream(
        events, lambda event: named(*event), lambda error: named("error", error_body(error))
    )


async def count_tokens(server: Server, request: CountRequest, receive: Receive) -> Json:
    """Return the number of tokens of a conversation."""
    server.adapter_of(request.model)  # raises an error if there is no such model
    chat = chat_request(request)
    prompt, _ = await unless_gone(receive, _prompt(server, chat))
    return {"input_tokens": len(prompt)}


async def _prompt(server: Server, chat: ChatRequest) -> Any:
    return await run_sync(prompt_of, server, chat)


def error_body(error: ApiError) -> Mapping[str, Any]:
    """Return the JSON object of an error in Anthropic's API."""
    text = str(error)
    if error.code == "context_length_exceeded":  # by these words clients know it
        text = f"prompt is too long: {text}"
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": text}}


def error_body_at(path: str) -> ErrorBody:
    """Return what makes the JSON object of an error at a path: of Anthropic's API or OpenAI's."""
    return error_body if _PATH.match(path) else ApiError.body


def chat_request(request: CountRequest) -> ChatRequest:
    """Return the request for a chat completion of the same conversation.

    Raises:
        ApiError: a message or a tool is malformed, or the last message is the assistant's.
    """
    messages: list[Json] = []
    if request.system:
        messages.append({"role": "system", "content": _text(request.system, "system")})
    for i, each in enumerate(request.messages):
        messages += _messages(each, f"messages[{i}]")
    if messages[-1]["role"] == "assistant":
        raise refused("messages", "the last one is the assistant's: it cannot be continued")
    choice = request.tool_choice or {}
    kind = choice.get("type", "auto")
    wanted: str | Json | None
    if kind == "tool":
        wanted = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        wanted = _CHOICES[kind] if request.tool_choice is not None else None
    else:
        raise refused("tool_choice.type", f"found {kind!r:.40}, expected auto, any, tool or none")
    thinking = (request.thinking or {}).get("type", "disabled")
    return ChatRequest(
        messages=[converted(m, Message, "messages") for m in messages],
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())] or None,
        tool_choice=wanted,
        parallel_tool_calls=not choice.get("disable_parallel_tool_use", False),
        chat_template_kwargs={"enable_thinking": thinking != "disabled"},
    )


def _tool(tool: Json, where: str) -> Json:
    if tool.get("type", "custom") != "custom":
        raise refused(
            f"{where}.type",
            f"found {tool['type']!r:.40}, expected a tool with an input_schema",
            "unsupported_parameter",
        )
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _messages(given: AnthropicMessage, where: str) -> list[Json]:
    """Return the messages of a chat completion that one of Anthropic's stands for."""
    if given.role not in _ROLES:
        raise refused(f"{where}.role", f"found {given.role!r:.40}, expected {', '.join(_ROLES)}")
    if isinstance(given.content, str):
        return [{"role": given.role, "content": given.content}]
    results: list[Json] = []
    calls: list[Json] = []
    texts: list[Json] = []
    thoughts = ""
    for i, block in enumerate(given.content):
        kind, at = block.get("type"), f"{where}.content[{i}]"
        if kind == "text":
            texts.append({"type": "text", "text": block.get("text")})
        elif kind == "tool_result":
            content = block.get("content") or ""
            results.append({
                "role": "tool", "tool_call_id": block.get("tool_use_id"),
                "content": _text(content, f"{at}.content"),
            })  # fmt: skip
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": block.get("input") or {}}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            thoughts += block["thinking"]
        elif kind != "redacted_thinking":
            raise refused(
                f"{at}.type",
                f"found {kind!r:.40}, expected text, tool_use, tool_result or thinking: the model "
                "reads text only",
            )
    own: Json = {"role": given.role, "content": texts or None}
    if calls:
        own["tool_calls"] = calls
    if thoughts:
        own["reasoning_content"] = thoughts
    is_empty = not texts and not calls and results
    return results if is_empty else [*results, own]


def _text(content: object, where: str) -> str:
    """Return the text of a content: text, or blocks of text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(where, f"found {content!r:.40}, expected text or a list of blocks of text")
    texts = []
    for i, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("text"), str):
            raise refused(f"{where}[{i}]", "expected a block of text: the model reads text only")
        texts.append(block["text"])
    return "\n".join(texts)


def _input(arguments: str) -> Json:
    """Return the arguments of a call; none if the answer was cut within them."""
    try:
        found: Json = json.loads(arguments)
    except ValueError:
        return {}
    return found


class _Writer:
    """Writes a message as events, one chunk of a chat completion after the other."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._id = f"msg_{secrets.token_hex(12)}"
        self._is_started = False
        self._blocks: list[Json] = []
        self._is_open = False  # the last block
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None
        self._usage: Usage | None = None

    def push(self, chunk: ChatChunk) -> Iterator[Event]:
        """Yield the events for a chunk."""
        if not self._is_started:
            self._is_started = True
            yield _event("message_start", message=self.message())
        for choice in chunk.choices:
            yield from self._delta(choice.delta)
            if choice.finish_reason is not None:
                yield from self._end_block()
                self._stop_reason = _STOP_REASONS[choice.finish_reason]
                if choice.stop_reason is not UNSET:
                    self._stop_reason = "stop_sequence"
                    self._stop_sequence = choice.stop_reason
        if chunk.usage is not UNSET:
            self._usage = chunk.usage
            done = self.message()
            delta = {key: done[key] for key in ("stop_reason", "stop_sequence")}
            yield _event("message_delta", delta=delta, usage=done["usage"])
            yield _event("message_stop")

    def message(self) -> Json:
        """Return the message so far."""
        usage = self._usage
        cached = 0 if usage is None else usage.prompt_tokens_details.cached_tokens
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": self._blocks,
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": {
                "input_tokens": 0 if usage is None else usage.prompt_tokens - cached,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": cached,
                "output_tokens": 0 if usage is None else usage.completion_tokens,
            },
        }

    def _delta(self, delta: Delta) -> Iterator[Event]:
        if delta.reasoning_content is not UNSET:
            yield from self._piece("thinking", "thinking", delta.reasoning_content)
        if isinstance(delta.content, str):
            yield from self._piece("text", "text", delta.content)
        for call in delta.tool_calls or ():
            yield from self._end_block()
            name, arguments = call.function.name, call.function.arguments
            yield from self._begin_block({
                "type": "tool_use", "id": call.id, "name": name, "input": {},
            })  # fmt: skip
            self._blocks[-1]["input"] = _input(arguments)
            piece = {"type": "input_json_delta", "partial_json": arguments}
            yield _event("content_block_delta", index=len(self._blocks) - 1, delta=piece)
            yield from self._end_block()

    def _piece(self, kind: str, key: str, text: str) -> Iterator[Event]:
        if not self._is_open or self._blocks[-1]["type"] != kind:
            yield from self._end_block()
            extra = {"signature": ""} if kind == "thinking" else {}
            yield from self._begin_block({"type": kind, key: "", **extra})
        self._blocks[-1][key] += text
        delta = {"type": f"{kind}_delta", key: text}
        yield _event("content_block_delta", index=len(self._blocks) - 1, delta=delta)

    def _begin_block(self, block: Json) -> Iterator[Event]:
        self._is_open = True
        self._blocks.append(block)
        yield _event("content_block_start", index=len(self._blocks) - 1, content_block=dict(block))

    def _end_block(self) -> Iterator[Event]:
        if self._is_open:
            self._is_open = False
            yield _event("content_block_stop", index=len(self._blocks) - 1)


def _event(kind: str, **fields: Any) -> Event:
    return kind, {"type": kind, **fields}
