"""/v1/embeddings: a vector for each text."""

from __future__ import annotations

import base64
from typing import Any

from starlette.types import Receive

from ..errors import OptionError
from ..llm.embedding import EmbedJob
from ..llm.errors import ModelError
from ..llm.job import Embedded, Started
from .endpoint import collected, unless_gone
from .errors import ApiError, refused
from .jobs import Jobs
from .schema import Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage
from .server import Server
from .text_list import text_list

MAX_INPUTS = 2048  # of a request, as in OpenAI's API


async def embed(server: Server, request: EmbeddingRequest, receive: Receive) -> EmbeddingResponse:
    """Answer a request.

    Raises:
        ApiError: the request is refused, or it failed.
    """
    if server.adapter_of(request.model) is not None:
        raise refused("model", f"adapters do not embed, expected {server.name!r}")
    inputs = _inputs(request)
    try:
        is_asked = server.model.embedding is None and server.embeddings
    except ModelError as error:  # its other endpoints work
        raise ApiError(400, str(error), code="no_pooling") from None
    async with Jobs(server, "input") as jobs:
        job = EmbedJob(
            inputs,
            prompt_name=request.prompt_name,
            dimensions=request.dimensions,
            # A model made for text: its last state has seen all of the text.
            pooling="lasttoken" if is_asked else None,
            normalize=True if is_asked else None,
        )
        try:
            await jobs.submit(lambda: [job])
        except OptionError as error:
            name, _, message = str(error).partition(": ")
            if name in ("dimensions", "prompt_name"):
                raise refused(name, message) from None
            raise
        events = [event for _, event in await unless_gone(receive, collected(jobs))]
    (tokens,) = (event.prompt_tokens for event in events if isinstance(event, Started))
    (vectors,) = (event.vectors for event in events if isinstance(event, Embedded))
    is_float = request.encoding_format in (None, "float")
    data = [
        Embedding(
            vector.tolist() if is_float else base64.b64encode(vector.astype("<f4")).decode(), i
        )
        for i, vector in enumerate(vectors)
    ]
    return EmbeddingResponse(data, server.name, EmbeddingUsage(tokens, tokens))


def _inputs(request: EmbeddingRequest) -> list[Any]:
    """Return the texts of a request, each a text or its tokens.

    Raises:
        ApiError: it has none or too many, they are malformed, or their format is not known.
    """
    if request.encoding_format not in (None, "float", "base64"):
        raise refused(
            "encoding_format",
            f"found {request.encoding_format!r:.40}, expected 'float' or 'base64'",
        )
    return text_list("input", request.input, "text", MAX_INPUTS)
