"""Server-sent events: framing, pings while silent, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from .errors import ApiError, api_error
from .log import log_fault

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
PING_SECONDS = 10.0  # between comments while there is nothing to send
STALLED_SECONDS = 60.0  # after which a client that reads nothing is given up
_PING = b": ping\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx
]


def data(value: Any) -> bytes:
    """Return an event without a name."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def named(name: str, value: Any) -> bytes:
    """Return an event with a name."""
    return b"event: " + name.encode() + b"\n" + data(value)


def error_data(error: ApiError) -> bytes:
    """Return the event of an error, as OpenAI's clients read it."""
    return data(error.body())


class EventStream:
    """A response whose events are sent as they come.

    Args:
        events: the framed events. They are closed when the client leaves.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events
        self._sent = 0
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, an ASGI call."""
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await self._watch(pump, gone, send)
        finally:
            for task in (pump, gone):
                task.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)

    async def _watch(self, pump: asyncio.Task[None], gone: asyncio.Task[None], send: Send) -> None:
        """Return when all is sent, or nobody reads; send pings meanwhile."""
        stalled, sent = 0.0, -1
        while True:
            await asyncio.wait(
                {pump, gone}, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if pump.done() or gone.done():
                return
            is_silent = sent == self._sent
            stalled = stalled + PING_SECONDS if self._is_sending and is_silent else 0.0
            if stalled >= STALLED_SECONDS:
                return
            if is_silent and not self._is_sending and not await _ping(send, gone):
                return
            sent = self._sent

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async for event in events:
                await self._send(send, event)
                await asyncio.sleep(0)  # lets the connection notice that the client is gone
            await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send, body: bytes) -> None:
        self._is_sending = True
        try:
            await send(_part(body))
        finally:
            self._is_sending = False
        self._sent += 1


async def _ping(send: Send, gone: asyncio.Task[None]) -> bool:
    """Send a comment; return whether the client took it."""
    ping = asyncio.ensure_future(send(_part(_PING)))
    try:
        await asyncio.wait(
            {ping, gone}, timeout=STALLED_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        return ping.done()
    finally:
        ping.cancel()
        await asyncio.gather(ping, return_exceptions=True)


def _part(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def event_stream(
    chunks: AsyncGenerator[list[T], None],
    frame: Callable[[T], bytes],
    failed: Callable[[ApiError], bytes] = error_data,
    last: bytes = b"",
) -> EventStream:
    """Return the response that sends chunks as events.

    Args:
        chunks: what to send, those together that are there at the same time. The first are awaited
            here, so that a request that is refused gets an HTTP status.
        frame: makes an event of a chunk; b"" sends none.
        failed: makes an event of an error after the first chunk.
        last: is sent after the last chunk.

    Raises:
        Exception: what the first chunks raise.
    """
    first = await anext(chunks)

    async def framed() -> AsyncGenerator[bytes, None]:
        async with aclosing(chunks):
            try:
                yield b"".join(map(frame, first))
                async for several in chunks:
                    if events := b"".join(map(frame, several)):
                        yield events
                yield last
            except Exception as error:
                log_fault(error)
                yield failed(api_error(error))

    return EventStream(framed())


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone; its body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
