"""The application: which path leads to which endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from . import responses, utility
from .chat import chat
from .completions import complete
from .embeddings import embed
from .endpoint import endpoint, error_response, generating
from .errors import ApiError
from .guard import Access, Guard
from .messages import (
    CountRequest,
    MessagesRequest,
    count_tokens,
    error_body,
    error_body_at,
    message,
)
from .page_files import page_routes
from .schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from .server import Server

_GET = {
    "/models": utility.models,
    "/models/{id:path}": utility.model,
    "/health": utility.health,
    "/metrics": utility.metrics,
    "/tokenizer_info": utility.tokenizer_info,
}
_POST = {
    "/chat/completions": endpoint(ChatRequest, generating(chat)),
    "/completions": endpoint(CompletionRequest, generating(complete)),
    "/responses": endpoint(
        responses.ResponsesRequest, generating(responses.respond), responses.error_body
    ),
    "/messages": endpoint(MessagesRequest, generating(message), error_body),
    "/messages/count_tokens": endpoint(CountRequest, count_tokens, error_body),
    "/embeddings": endpoint(EmbeddingRequest, embed),
    "/tokenize": endpoint(TokenizeRequest, utility.tokenize),
    "/detokenize": endpoint(DetokenizeRequest, utility.detokenize),
}


def create_app(server: Server, access: Access) -> ASGIApp:
    """Return the application that serves a model.

    Args:
        server: the model and its engine.
        access: who may use it; page files need no key.
    """
    page = page_routes()
    app = Starlette(
        routes=[*_routes("GET", _GET), *_routes("POST", _POST), *page],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    app.state.server = server
    guarded = Guard(app, access, server.metrics, {route.path for route in page})
    if not access.origins:
        return guarded
    return CORSMiddleware(
        guarded,
        allow_origins=list(access.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )


def _routes(method: str, endpoints: Mapping[str, Callable[..., object]]) -> Iterator[BaseRoute]:
    """Yield a route for each path, with and without /v1: clients differ."""
    for path, function in endpoints.items():
        for prefix in ("/v1", ""):
            yield Route(f"{prefix}{path}", function, methods=[method])


async def _http_error(request: Request, error: Exception) -> Response:
    """Return what is not found, or not allowed there, as an error of the path's API."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path[:100]
    message = {
        404: f"found no endpoint {path}",
        405: f"{path} does not take {method}",
    }.get(error.status_code, error.detail)
    return error_response(ApiError(error.status_code, message), error_body_at(request.url.path))
