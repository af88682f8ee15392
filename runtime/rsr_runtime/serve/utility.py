"""What is not generation: models, health, figures, tokens."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive

from .endpoint import error_response, json_response
from .errors import ApiError, refused, shutting_down, unknown_model
from .schema import DetokenizeRequest, Json, TokenizeRequest
from .server import Server


async def models(request: Request) -> Response:
    """Return the list of models: the one that is served, then those that are its adapters."""
    server: Server = request.app.state.server
    return json_response({"object": "list", "data": [_model(server, n) for n in server.names]})


async def model(request: Request) -> Response:
    """Return a model by its id."""
    server: Server = request.app.state.server
    name = request.path_params["id"]
    if name not in server.names:
        return error_response(unknown_model(name, server.names))
    return json_response(_model(server, name))


def _model(server: Server, name: str) -> Json:
    config = server.model.config
    of_an_adapter = {} if name == server.name else {"parent": server.name}
    return {
        "id": name, "object": "model", "created": server.created, "owned_by": "rsr",
        **of_an_adapter,
        "max_model_len": server.model.context,
        "meta": {
            "n_ctx": server.model.context, "n_ctx_train": config.max_position_embeddings,
            "n_vocab": config.vocab_size, "n_embd": config.hidden_size,
        },
    }  # fmt: skip


async def health(request: Request) -> Response:
    """Say whether requests are taken."""
    server: Server = request.app.state.server
    if server.engine.is_closed:
        return error_response(shutting_down())
    if not server.engine.is_alive:
        message = "the engine has ended: start the server again"
        return error_response(ApiError(503, message, code="engine_ended"))
    return json_response({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Return the figures."""
    server: Server = request.app.state.server
    stats = server.engine.stats()
    text = server.metrics.text(stats.running, stats.waiting)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def tokenize(server: Server, request: TokenizeRequest, receive: Receive) -> Json:
    """Return the tokens of a text, or of a conversation up to the answer."""
    tokens = await run_sync(_tokens, server, request)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": server.model.context}


def _tokens(server: Server, request: TokenizeRequest) -> list[int]:
    if request.messages is not None:
        return server.chat_prompt(request.messages, request.tools, request.chat_template_kwargs)
    tokenizer = server.model.tokenizer
    if request.prompt is not None:
        return tokenizer.encode(request.prompt, special=request.add_special_tokens)
    if request.content is not None:
        return tokenizer.encode(request.content, special=request.add_special)
    raise refused("prompt", "found nothing, expected a text (or messages)")


async def detokenize(server: Server, request: DetokenizeRequest, receive: Receive) -> Json:
    """Return the text of tokens, with special ones spelled out.

    Raises:
        ApiError: a token is outside the vocabulary.
    """
    size = server.model.config.vocab_size
    for token in request.tokens:
        if not 0 <= token < size:
            raise refused("tokens", f"found {token}, expected tokens from 0 to {size - 1}")
    text = await run_sync(lambda: server.model.tokenizer.decode(request.tokens, skip_special=False))
    return {"prompt": text, "content": text}


async def tokenizer_info(request: Request) -> Response:
    """Return the special tokens and the chat template."""
    model = request.app.state.server.model
    try:
        template = model.template.source
    except ValueError:  # none, or damaged
        template = None
    special: dict[str, Any] = {"bos_token": None, "eos_token": None, "pad_token": None}
    return json_response({**special, **model.tokenizer.special_tokens, "chat_template": template})
