"""Jobs of a request: handed to the engine, and their events taken back to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from time import perf_counter
from types import TracebackType
from typing import TypeVar

from anyio.to_thread import run_sync

from ..llm.embedding import EmbedJob
from ..llm.engine import JobStream
from ..llm.errors import (
    ModelError,
    NoPoolingError,
    NoTemplateError,
    PromptError,
    QueueFullError,
)
from ..llm.job import (
    Embedded,
    Event,
    Failed,
    Finished,
    Job,
    Started,
    TextFinished,
    TokenAdded,
)
from .errors import ApiError, api_error, prompt_error, shutting_down
from .server import Server

AnyJob = TypeVar("AnyJob", Job, EmbedJob)

MAX_WAITING = 2048  # events that a client may be behind, before its request is canceled


Numbered = tuple[int, Event]


class Jobs(AsyncIterator[list[Numbered]]):
    """The events of the jobs of one request as they come, each with the number of its job.

    Leaving its `async with` block frees what the jobs hold in the engine before its next pass.

    Args:
        server: the model and its engine.
        param: the field of the request that holds the prompts, for errors.
    """

    def __init__(self, server: Server, param: str) -> None:
        self._server = server
        self._param = param
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._events: deque[Numbered] = deque()
        self._streams: list[JobStream] = []
        self._unfinished = 0
        self._too_slow = False
        self._is_closed = False
        self._begin = perf_counter()
        self._last: dict[tuple[int, int], float] = {}  # time of a text's last token

    async def __aenter__(self) -> Jobs:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_closed = True
        for stream in self._streams:
            stream.cancel()

    async def submit(self, make: Callable[[], Sequence[AnyJob]]) -> Sequence[AnyJob]:
        """Make jobs and submit them.

        Args:
            make: returns the jobs; is called in a thread, as tokenizing may take long.

        Raises:
            ApiError: a job is refused. Those before it are canceled as the block ends.
        """
        try:
            return await run_sync(self._submit, make)
        except QueueFullError as error:
            raise ApiError(
                429, "the queue is full: too many requests are waiting", code="queue_full",
                retry_after=error.retry_after,
            ) from None  # fmt: skip
        except PromptError as error:
            raise prompt_error(error, self._param) from None
        except (NoTemplateError, NoPoolingError) as error:
            raise api_error(error) from None
        except ModelError as error:  # what the request asks for does not fit the model
            raise ApiError(400, str(error)) from None

    def _submit(self, make: Callable[[], Sequence[AnyJob]]) -> Sequence[AnyJob]:
        jobs = make()
        for index, job in enumerate(jobs):
            stream = self._server.engine.submit(
                job,
                self._receiver(index),
                beyond_queue=index > 0,  # else a request of many prompts could never be taken
            )
            self._unfinished += 1
            self._streams.append(stream)
            if self._is_closed:  # the client left meanwhile
                stream.cancel()
                break
        return jobs

    def _receiver(self, index: int) -> Callable[[Event], None]:
        """Return a function that the engine calls, in its thread, with the events of a job."""

        def take(event: Event) -> None:
            self._events.append((index, event))
            self._arrived.set()
            if len(self._events) > MAX_WAITING and not self._too_slow:
                self._too_slow = True
                for stream in self._streams:
                    stream.cancel()

        def receive(event: Event) -> None:
            may_wait = self._observe(index, event)
            self._server.mailbox.put(self._loop, take, event, not may_wait)

        return receive

    async def __anext__(self) -> list[Numbered]:
        """Return the next events of all jobs, one or more.

        Raises:
            ApiError: a job failed, or was canceled as the client reads too slowly or the server
                shuts down. Events before that were returned.
        """
        while not self._events:
            if not self._unfinished:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self._too_slow:
            raise ApiError(408, "the client reads too slowly", code="slow_reader")
        found: list[Numbered] = []
        while self._events:
            event = self._events[0][1]
            error = _error(event)
            if error is not None:
                if found:
                    break
                raise error from (event.error if isinstance(event, Failed) else None)
            self._unfinished -= isinstance(event, Finished)
            found.append(self._events.popleft())
        return found

    def _observe(self, index: int, event: Event) -> bool:
        """Count an event in the metrics; return whether others may come before it is sent."""
        metrics = self._server.metrics
        if isinstance(event, TokenAdded):
            now, text = perf_counter(), (index, event.text_index)
            metrics.predicted_tokens += 1
            last, self._last[text] = self._last.get(text), now
            if last is not None:
                metrics.between_tokens.add(now - last)
                return True
            metrics.first_token.add(now - self._begin)
        elif isinstance(event, Started):
            metrics.prompt_tokens += event.prompt_tokens
            metrics.cached_tokens += event.cached_tokens
        elif isinstance(event, TextFinished):
            if event.text_index == 0:
                metrics.prompt_seconds += event.generation.prompt_seconds
            metrics.predicted_seconds += event.generation.seconds
        elif isinstance(event, Embedded):
            metrics.prompt_seconds += event.seconds
        return False


def _error(event: Event) -> ApiError | None:
    """Return the error that ends a request with an event, if it does."""
    if isinstance(event, Failed):
        return api_error(event.error)
    return shutting_down() if isinstance(event, Finished) and event.canceled else None
