"""/v1/completions: continuations of prompts, with log-probabilities of prompts too."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Any

from msgspec import UNSET
from starlette.types import Receive

from ..llm.job import Event, Job, Logprob, PromptScored, Started, TextFinished, TokenAdded
from ..llm.tokenizer import StreamingDetokenizer
from .answer import text_grammar
from .endpoint import collected, unless_gone
from .errors import refused
from .jobs import Jobs
from .schema import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from .server import Server
from .settings import sampling_of
from .sse import DONE, data, event_stream
from .tally import Tally
from .text_list import text_list
from .token_texts import TokenTexts

MAX_PROMPTS = 64  # of a request
_DEFAULT_MAX_TOKENS = 16  # as in OpenAI's API

Prompt = str | list[int]


async def complete(server: Server, request: CompletionRequest, receive: Receive) -> Any:
    """Answer a request."""
    chunks = completion_chunks(server, request)
    if not request.stream:
        return whole(await unless_gone(receive, collected(chunks)))

    def frame(chunk: Completion) -> bytes:
        return data(chunk) if chunk.choices or request.includes_usage else b""

    return await event_stream(chunks, frame, last=DONE)


async def completion_chunks(
    server: Server, request: CompletionRequest
) -> AsyncGenerator[list[Completion], None]:
    """Yield the continuations of prompts, piece by piece; those together that come together.

    The first chunk is empty, and is there as soon as the request is in the queue. The last has no
    choices but the numbers of tokens. Choice p * n + i is the text i after prompt p. Close the
    generator to cancel the request.

    Raises:
        ApiError: the request is refused, then before the first chunk, or it failed.
        OptionError: the request is refused.
    """
    prompts, adapter = _checked(request), server.adapter_of(request.model)
    tally, count = Tally(), request.n or 1
    total = count * len(prompts)
    chunk = partial(
        Completion, id=f"cmpl-{secrets.token_hex(12)}", created=int(time.time()),
        model=adapter or server.name, system_fingerprint=server.fingerprint,
    )  # fmt: skip
    async with Jobs(server, "prompt") as jobs:
        await jobs.submit(lambda: [_job(server, request, prompt) for prompt in prompts])
        yield [chunk(choices=[CompletionChoice(i, "") for i in range(total)])]
        texts = [
            _Text(server, prompts[i // count], request.logprobs is not None) for i in range(total)
        ]
        if request.echo and request.logprobs is None:
            yield [
                chunk(choices=[CompletionChoice(i, text.echo())]) for i, text in enumerate(texts)
            ]

        def pieces(number: int, event: Event) -> Iterator[Completion]:
            own = range(number * count, (number + 1) * count)
            if isinstance(event, Started):
                tally.start(event)
            elif isinstance(event, PromptScored):
                for i in own:
                    choice = CompletionChoice(i, texts[i].echo(), texts[i].scored(event.logprobs))
                    yield chunk(choices=[choice])
            elif isinstance(event, TokenAdded):
                i = own[event.text_index]
                if (piece := texts[i].push(event)) is not None:
                    yield chunk(choices=[CompletionChoice(i, *piece)])
            elif isinstance(event, TextFinished):
                i = own[event.text_index]
                tally.finish(event.generation)
                reason = "stop" if event.generation.finish_reason == "stop" else "length"
                last = CompletionChoice(i, "", texts[i].rest(), reason)
                timings = tally.timings() if tally.finished == total else UNSET
                yield chunk(choices=[last], timings=timings)

        async for events in jobs:
            yield [piece for number, event in events for piece in pieces(number, event)]
    yield [chunk(choices=[], usage=tally.usage(), timings=tally.timings())]


def whole(chunks: Sequence[Completion]) -> Completion:
    """Return the texts of which these are the pieces."""
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    choices = [CompletionChoice(i, "") for i in range(1 + max(piece.index for piece in pieces))]
    for piece in pieces:
        choice = choices[piece.index]
        choice.text += piece.text
        choice.finish_reason = choice.finish_reason or piece.finish_reason
        if piece.logprobs is not None:
            if choice.logprobs is None:
                choice.logprobs = CompletionLogprobs([], [], [], [])
            choice.logprobs.tokens += piece.logprobs.tokens
            choice.logprobs.token_logprobs += piece.logprobs.token_logprobs
            choice.logprobs.top_logprobs += piece.logprobs.top_logprobs
            choice.logprobs.text_offset += piece.logprobs.text_offset
    last = chunks[-1]
    return Completion(
        id=last.id,
        created=last.created,
        model=last.model,
        system_fingerprint=last.system_fingerprint,
        choices=choices,
        usage=last.usage,
        timings=last.timings,
    )


def _checked(request: CompletionRequest) -> list[Prompt]:
    """Return the prompts of a request.

    Raises:
        ApiError: it has none or too many, they are malformed, or a field is not done.
    """
    if request.best_of not in (None, 1):
        raise refused(
            "best_of", "not supported: use n, and choose by logprobs", "unsupported_parameter"
        )
    if request.suffix:
        raise refused("suffix", "not supported: the text is continued", "unsupported_parameter")
    if request.max_tokens == 0 and not request.echo:
        raise refused("max_tokens", "expected 1 or more without echo")
    return text_list("prompt", request.prompt, "prompt", MAX_PROMPTS, ": give a text to continue")


def _job(server: Server, request: CompletionRequest, prompt: Prompt) -> Job:
    """Return the job for a prompt."""
    max_tokens = _DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    found = text_grammar(request)
    return Job(
        prompt,
        max_tokens,
        sampling_of(server.model, request, max_tokens),
        request.stop_strings,
        texts=request.n or 1,
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
        constraint=found and server.grammars.constraint(found[0], prompt, frozenset(), found[1]),
        speculate=server.speculate,
        adapter=server.adapter_of(request.model),
    )


class _Text:
    """A text in progress, and where it is in the choice's text."""

    def __init__(self, server: Server, prompt: Prompt, has_logprobs: bool) -> None:
        self._prompt = prompt
        self._tokenizer = server.model.tokenizer
        self._token_texts = server.token_texts
        self._waiting: list[Logprob] = []  # of tokens whose text is not sent yet
        self._length = 0  # characters of the choice's text so far

    def echo(self) -> str:
        """Return the prompt as a text."""
        text = self._prompt
        if not isinstance(text, str):
            text = self._tokenizer.decode(text)
        self._length = len(text)
        return text

    def scored(self, found: Sequence[Logprob | None]) -> CompletionLogprobs:
        """Return the log-probabilities of the prompt's tokens."""
        tokens = self._tokens()
        result = CompletionLogprobs([], [], [], [])
        stream = StreamingDetokenizer(self._tokenizer)
        offset = 0
        for token, logprob in zip(tokens, found, strict=True):
            _add(result, self._token_texts, token, logprob, min(offset, self._length))
            offset += len(stream.push(token))
        return result

    def _tokens(self) -> list[int]:
        if isinstance(self._prompt, str):
            return self._tokenizer.encode(self._prompt)
        return self._prompt

    def push(self, event: TokenAdded) -> tuple[str, CompletionLogprobs | None] | None:
        """Return the piece that a token adds, if any."""
        if event.logprob is not None:
            self._waiting.append(event.logprob)
        if not event.text:
            return None
        piece = event.text, self.rest()
        self._length += len(event.text)
        return piece

    def rest(self) -> CompletionLogprobs | None:
        """Return the log-probabilities that were not sent, whose text begins here."""
        if not self._waiting:
            return None
        result = CompletionLogprobs([], [], [], [])
        for logprob in self._waiting:
            _add(result, self._token_texts, logprob.token, logprob, self._length)
        self._waiting = []
        return result


def _add(
    result: CompletionLogprobs, texts: TokenTexts, token: int, found: Logprob | None, offset: int
) -> None:
    result.tokens.append(texts.text(token))
    result.text_offset.append(offset)
    if found is None:
        result.token_logprobs.append(None)
        result.top_logprobs.append(None)
        return
    result.token_logprobs.append(found.logprob)
    top: dict[str, float] = {}
    for other, value in found.top:
        top.setdefault(texts.text(other), value)  # of several with this text the most likely
    # As in OpenAI's API, the token itself is there even if it is not among the most likely.
    top.setdefault(texts.text(token), found.logprob)
    result.top_logprobs.append(top)
