"""Streams to clients that leave or do not read, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from rsr_runtime.serve.sse import EventStream

SCOPE: dict[str, Any] = {"type": "http"}


async def endless() -> AsyncGenerator[bytes, None]:
    for _ in range(100_000):
        yield b"data: a\n\n"


async def silent() -> AsyncGenerator[bytes, None]:
    yield b"data: a\n\n"
    await asyncio.sleep(60)


def stream(
    events: AsyncGenerator[bytes, None],
    receive: Callable[[], Coroutine[Any, Any, Any]],
    send: Callable[[Any], Coroutine[Any, Any, None]],
) -> None:
    async def run() -> None:
        await asyncio.wait_for(EventStream(events)(SCOPE, receive, send), 10)

    asyncio.run(run())


async def connected() -> Any:
    await asyncio.sleep(60)


def test_a_stream_that_never_waits_ends_when_its_client_leaves() -> None:
    sent: list[Any] = []

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    stream(endless(), gone, send)
    assert len(sent) < 10


def test_a_client_that_does_not_read_pings_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsr_runtime.serve.sse.PING_SECONDS", 0.02)
    monkeypatch.setattr("rsr_runtime.serve.sse.STALLED_SECONDS", 0.1)
    tried: list[bytes] = []

    async def send(message: Any) -> None:
        body = message.get("body", b"")
        tried.append(body)
        if body.startswith(b":"):
            await asyncio.sleep(60)

    stream(silent(), connected, send)
    assert tried == [b"", b"data: a\n\n", b": ping\n\n"]
