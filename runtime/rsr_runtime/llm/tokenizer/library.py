"""Calls of the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ModelError, PromptError

T = TypeVar("T")


def call(what: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call the library and turn its exceptions, including Rust panics, into ModelError."""
    try:
        return function(*arguments)
    except Exception as error:
        raise ModelError(f"tokenizer.json cannot {what}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"tokenizer.json cannot {what}: {error}") from error


def check_text(text: object) -> str:
    """Return a text that the library can encode.

    Raises:
        PromptError: `text` is not a string, or contains half a surrogate pair.
    """
    if not isinstance(text, str):
        raise PromptError(f"found a prompt of type {type(text).__name__}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text has half a surrogate pair at character {error.start}, which UTF-8 "
            "cannot encode: decode the text with the encoding that it was written in"
        ) from error
    return text
