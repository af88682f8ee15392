"""/v1/chat/completions: the next message of a conversation, whole or as a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Any

from msgspec import UNSET, UnsetType
from starlette.types import Receive

from ..llm.generate import Generation
from ..llm.job import Event, Job, Logprob, Started, TextFinished, TokenAdded
from ..llm.model import ChatPrompt
from ..llm.tokenizer import Tokenizer
from .answer import AnswerPlan, Piece, Thought
from .endpoint import collected, unless_gone
from .errors import refused
from .jobs import Jobs
from .schema import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    ChunkChoice,
    Delta,
    FunctionDelta,
    Json,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)
from .server import Server
from .settings import sampling_of
from .sse import DONE, data, event_stream
from .tally import Tally
from .token_texts import TokenTexts
from .tools import ToolOffer, tool_offer

_NOT_DONE = ("functions", "function_call", "audio", "web_search_options")


async def chat(server: Server, request: ChatRequest, receive: Receive) -> Any:
    """Answer a request."""
    chunks = chat_chunks(server, request)
    if not request.stream:
        return whole(await unless_gone(receive, collected(chunks)))

    def frame(chunk: ChatChunk) -> bytes:
        return data(chunk) if chunk.choices or request.includes_usage else b""

    return await event_stream(chunks, frame, last=DONE)


async def chat_chunks(
    server: Server, request: ChatRequest
) -> AsyncGenerator[list[ChatChunk], None]:
    """Yield the answers to a conversation, piece by piece; those together that come together.

    The first chunk has the roles, and is there as soon as the request is in the queue. Then come
    pieces, a chunk with the reason for the end of each answer, and one without choices but with the
    numbers of tokens. Close the generator to cancel the request.

    Raises:
        ApiError: the request is refused, then before the first chunk, or it failed.
        OptionError: the request is refused.
    """
    _check(request)
    adapter = server.adapter_of(request.model)
    tally = Tally()
    count = request.n or 1
    chunk = partial(
        ChatChunk, id=f"chatcmpl-{secrets.token_hex(12)}", created=int(time.time()),
        model=adapter or server.name, system_fingerprint=server.fingerprint,
    )  # fmt: skip
    async with Jobs(server, "messages") as jobs:
        plans: list[AnswerPlan] = []

        def make() -> list[Job]:
            job, plan = _job(server, request)
            plans.append(plan)
            return [job]

        await jobs.submit(make)
        role = Delta(role="assistant", content=None)
        yield [chunk(choices=[ChunkChoice(i, role) for i in range(count)])]
        answers = [_Answer(server.token_texts, plans[0]) for _ in range(count)]

        def pieces(event: Event) -> Iterator[ChatChunk]:
            if isinstance(event, Started):
                tally.start(event)
            elif isinstance(event, TokenAdded):
                i = event.text_index
                for delta, logprobs in answers[i].push(event):
                    yield chunk(choices=[ChunkChoice(i, delta, logprobs)])
            elif isinstance(event, TextFinished):
                i = event.text_index
                tally.finish(event.generation)
                for delta, logprobs in answers[i].finish(event.generation):
                    yield chunk(choices=[ChunkChoice(i, delta, logprobs)])
                reason = answers[i].finish_reason(event)
                stop = _stop_string(server.model.tokenizer, request, event.generation)
                last = ChunkChoice(i, Delta(), finish_reason=reason, stop_reason=stop)
                timings = tally.timings() if tally.finished == count else UNSET
                yield chunk(choices=[last], timings=timings)

        async for events in jobs:
            yield [piece for _, event in events for piece in pieces(event)]
    yield [chunk(choices=[], usage=tally.usage(), timings=tally.timings())]


def whole(chunks: Sequence[ChatChunk]) -> ChatCompletion:
    """Return the answers of which these are the pieces."""
    last = chunks[-1]
    assert last.usage is not UNSET
    assert last.timings is not UNSET
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    count = 1 + max(piece.index for piece in pieces)
    return ChatCompletion(
        id=last.id,
        created=last.created,
        model=last.model,
        system_fingerprint=last.system_fingerprint,
        choices=[_choice(i, [p for p in pieces if p.index == i]) for i in range(count)],
        usage=last.usage,
        timings=last.timings,
    )


def _choice(index: int, pieces: Sequence[ChunkChoice]) -> ChatChoice:
    deltas = [piece.delta for piece in pieces]
    content = "".join(d.content for d in deltas if isinstance(d.content, str))
    reasoning = "".join(d.reasoning_content for d in deltas if d.reasoning_content is not UNSET)
    calls: dict[int, Json] = {}
    for delta in deltas:
        for piece in delta.tool_calls or ():
            call = calls.setdefault(
                piece.index,
                {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
            )
            if piece.id is not UNSET:
                call["id"] = piece.id
            if piece.function.name is not UNSET:
                call["function"]["name"] = piece.function.name
            call["function"]["arguments"] += piece.function.arguments
    logprobs = [lp for piece in pieces if piece.logprobs for lp in piece.logprobs.content]
    return ChatChoice(
        index,
        AnswerMessage(
            content=content if content or not calls else None,
            reasoning_content=reasoning or UNSET,
            tool_calls=[calls[i] for i in sorted(calls)] or UNSET,
        ),
        ChatLogprobs(logprobs) if any(piece.logprobs for piece in pieces) else None,
        next(piece.finish_reason for piece in pieces if piece.finish_reason is not None),
    )


def _check(request: ChatRequest) -> None:
    """Refuse fields that are known and not done.

    Raises:
        ApiError: the request has one.
    """
    for name in _NOT_DONE:
        if getattr(request, name) is not None:
            instead = ": use tools" if name.startswith("function") else ""
            raise refused(name, f"not supported{instead}", "unsupported_parameter")
    if request.modalities not in (None, [], ["text"]):
        raise refused("modalities", "expected text only", "unsupported_parameter")
    if request.top_logprobs is not None and not request.logprobs:
        raise refused("top_logprobs", "needs logprobs: true")
    if request.max_tokens == 0:
        raise refused("max_tokens", "expected 1 or more")


def prompt_of(server: Server, request: ChatRequest) -> tuple[ChatPrompt, ToolOffer | None]:
    """Return the prompt of a request, and the tools that its answers may call.

    Raises:
        ApiError: the messages or the tools are refused.
        ModelError: the model has no chat template.
    """
    offer = tool_offer(request.tools, request.tool_choice, request.parallel_tool_calls)
    offer = server.answers.checked_offer(offer)
    prompt = server.chat_prompt(
        request.messages,
        None if offer is None else offer.tools,
        request.chat_template_kwargs,
        request.reasoning_effort,
    )
    return prompt, offer


def _job(server: Server, request: ChatRequest) -> tuple[Job, AnswerPlan]:
    """Return the job of a request, and how to read its answers; tokenizing may take long."""
    prompt, offer = prompt_of(server, request)
    plan = server.answers.plan(prompt, request, offer)
    max_tokens = request.max_completion_tokens or request.max_tokens
    job = Job(
        prompt,
        max_tokens,
        sampling_of(server.model, request, max_tokens),
        request.stop_strings,
        texts=request.n or 1,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        shown_special=plan.shown_special,
        constraint=plan.constraint,
        speculate=server.speculate,
        adapter=server.adapter_of(request.model),
    )
    return job, plan


def _stop_string(tokenizer: Tokenizer, request: ChatRequest, result: Generation) -> str | UnsetType:
    """Return the stop string that ended an answer; UNSET if another thing did."""
    stops = request.stop_strings
    if not stops or result.finish_reason != "stop":
        return UNSET
    if (last := tokenizer.token(result.tokens[-1])) in stops:
        return last or UNSET
    rest = tokenizer.decode(result.tokens)[len(result.text) :]
    return next((stop for stop in stops if rest.startswith(stop)), UNSET)


class _Answer:
    """One answer in progress."""

    def __init__(self, texts: TokenTexts, plan: AnswerPlan) -> None:
        self._texts = texts
        self._new_call_id = plan.new_call_id
        self._parser = plan.parser()
        self._calls = 0
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text is not sent yet

    def push(self, event: TokenAdded) -> list[tuple[Delta, ChatLogprobs | None]]:
        """Return the pieces that a token adds."""
        if event.logprob is not None:
            self._logprobs.append(_token_logprob(self._texts, event.logprob))
        pieces = self._parser.push(event.text) if event.text else []
        return self._with_logprobs([self._delta(piece) for piece in pieces])

    def finish(self, result: Generation) -> list[tuple[Delta, ChatLogprobs | None]]:
        """Return the last pieces."""
        is_cut = result.finish_reason != "stop"
        deltas = [self._delta(piece) for piece in self._parser.finish(is_cut)]
        return self._with_logprobs(deltas or ([Delta()] if self._logprobs else []))

    def finish_reason(self, event: TextFinished) -> str:
        """Return why the answer ended, as clients know it."""
        if event.generation.finish_reason != "stop":
            return "length"
        return "tool_calls" if self._calls else "stop"

    def _delta(self, piece: Piece) -> Delta:
        if isinstance(piece, str):
            return Delta(content=piece)
        if isinstance(piece, Thought):
            return Delta(reasoning_content=piece.text)
        self._calls += 1
        function = FunctionDelta(piece.name, piece.arguments)
        index, id_ = self._calls - 1, self._new_call_id()
        return Delta(tool_calls=[ToolCallDelta(index, function, id_, "function")])

    def _with_logprobs(self, deltas: list[Delta]) -> list[tuple[Delta, ChatLogprobs | None]]:
        if not deltas:
            return []
        logprobs, self._logprobs = self._logprobs, []
        first = ChatLogprobs(logprobs) if logprobs else None
        return [(deltas[0], first), *((delta, None) for delta in deltas[1:])]


def _token_logprob(texts: TokenTexts, found: Logprob) -> TokenLogprob:
    return TokenLogprob(
        texts.text(found.token),
        found.logprob,
        list(texts.bytes(found.token)),
        [TopLogprob(texts.text(t), value, list(texts.bytes(t))) for t, value in found.top],
    )
