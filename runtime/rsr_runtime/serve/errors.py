"""Errors as an HTTP status and the error object of OpenAI's API."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rsr_formats.errors import RsrError
from rsr_formats.text import quoted

from ..errors import ClosedError, OptionError
from ..llm.errors import (
    CacheMemoryError,
    ContextFullError,
    ModelError,
    NoHeadError,
    NoPoolingError,
    NoTemplateError,
    PromptError,
    TemplateError,
    TextTooLongError,
)

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(RsrError):
    """A request that is refused, or that failed.

    Attributes:
        status: the HTTP status.
        param: the field of the request, or None.
        code: a short name of the error that programs compare, or None.
        retry_after: seconds after which the client may try again, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """OpenAI's name for this class of errors."""
        return TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the response."""
        headers = {} if self.retry_after is None else {"retry-after": self._seconds()}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def _seconds(self) -> str:
        assert self.retry_after is not None
        return str(max(1, math.ceil(self.retry_after)))

    def body(self) -> Mapping[str, Any]:
        """Return the JSON object of the response, or of an event."""
        return {
            "error": {
                "message": str(self), "type": self.type, "param": self.param, "code": self.code,
            }
        }  # fmt: skip


def refused(param: str, message: str, code: str | None = None) -> ApiError:
    """Return the error for a field of a request: `message` follows its name."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    """Return the error for a name that no model has."""
    message = f"found no model {name[:100]!r}, expected {quoted(known)}"
    return ApiError(404, message, param="model", code="model_not_found")


def api_error(error: BaseException) -> ApiError:
    """Return what a client gets to know of an error; of a fault of the server, only that it is."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ClosedError):
        return shutting_down()
    if isinstance(error, CacheMemoryError):
        message = (
            "there is not enough memory for one more text: try again when others have ended, or "
            "send a shorter one"
        )
        return ApiError(503, message, code="out_of_memory", retry_after=5)
    if isinstance(error, (PromptError, TemplateError, OptionError)):
        return ApiError(400, str(error))
    if isinstance(error, NoTemplateError):
        message = "the model has no chat template, so it continues texts only: use /v1/completions"
        return ApiError(400, message, code="no_chat_template")
    if isinstance(error, NoHeadError):
        message = "the model has no output head, so it embeds texts only: use /v1/embeddings"
        return ApiError(400, message, code="no_output_head")
    if isinstance(error, NoPoolingError):
        message = (
            "the model does not say how it embeds texts (modules.json and 1_Pooling/config.json of "
            "sentence-transformers): start the server with --embeddings to take the state of each "
            "text's last token"
        )
        return ApiError(400, message, code="no_pooling")
    if isinstance(error, ModelError):
        return ApiError(500, str(error))
    if isinstance(error, RecursionError):
        return ApiError(400, "the body is nested too deeply")
    return ApiError(500, f"the server failed ({type(error).__name__}): its log says where")


def prompt_error(error: PromptError | TemplateError, param: str) -> ApiError:
    """Return the error for a prompt, which a field holds.

    Agents know the one for a full context by its code, upon which they shorten the conversation.
    """
    if isinstance(error, TextTooLongError):
        return refused(param, str(error), "context_length_exceeded")
    if not isinstance(error, ContextFullError):
        return refused(param, str(error))
    longer = (
        f"; the server can be started with a larger --context, up to {error.limit}"
        if error.context < error.limit
        else ""
    )
    return ApiError(
        400,
        f"the maximum context length is {error.context} tokens, but the prompt has {error.tokens} "
        f"tokens and leaves no room for an answer: shorten it{longer}",
        param=param,
        code="context_length_exceeded",
    )


def shutting_down() -> ApiError:
    """Return the error of requests that the end of the server cuts short."""
    return ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)
