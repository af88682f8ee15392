"""Calls of the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ModelError

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
