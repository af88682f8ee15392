"""Turns a function of a typed request into an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive

from .decoding import decoded
from .errors import ApiError, api_error
from .log import log_fault
from .server import Server
from .sse import disconnected

T = TypeVar("T")
U = TypeVar("U")
Answer = Callable[[Server, T, Receive], Awaitable[Any]]
ErrorBody = Callable[[ApiError], Mapping[str, Any]]


class Gone(Exception):  # noqa: N818 (no error)
    """The client left before its response."""


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a value as JSON."""
    body = msgspec.json.encode(value)
    return Response(body, status, headers, "application/json")


def error_response(error: BaseException, body: ErrorBody = ApiError.body) -> Response:
    """Return the response to a request that is refused or failed."""
    found = api_error(error)
    log_fault(error)
    return json_response(body(found), found.status, found.headers)


def endpoint(
    kind: type[T], answer: Answer[T], body: ErrorBody = ApiError.body
) -> Callable[[Request], Coroutine[Any, Any, ASGIApp]]:
    """Return the endpoint that decodes a request and answers it.

    Args:
        kind: of the request.
        answer: takes the server, the request, and what tells when the client is gone. It returns a
            response, or a value that is sent as JSON.
        body: the JSON of an error.
    """

    async def run(request: Request) -> ASGIApp:
        try:
            decoded_request = decoded(await request.body(), kind)
            result = await answer(request.app.state.server, decoded_request, request.receive)
        except (Gone, ClientDisconnect):
            return Response(status_code=499)  # nobody reads it; for the log
        except Exception as error:
            return error_response(error, body)
        return result if callable(result) else json_response(result)

    return run


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, unless the client leaves first: then it is canceled.

    Raises:
        Gone: the client left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def generating(answer: Answer[T]) -> Answer[T]:
    """Return a function that answers requests for text, which some models cannot generate."""

    async def checked(server: Server, request: T, receive: Receive) -> Any:
        server.model.check_generates()
        return await answer(server, request, receive)

    return checked


async def collected(chunks: AsyncIterator[list[T]]) -> list[T]:
    """Return all chunks."""
    return [chunk async for several in chunks for chunk in several]


async def translated(
    chunks: AsyncGenerator[list[T], None], push: Callable[[T], Iterable[U]]
) -> AsyncGenerator[list[U], None]:
    """Yield the events that `push` makes of chunks."""
    async with aclosing(chunks):
        async for several in chunks:
            yield [event for chunk in several for event in push(chunk)]
