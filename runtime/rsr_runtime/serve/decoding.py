"""Requests from JSON, and what is wrong with those that are none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .errors import ApiError, refused

T = TypeVar("T")

_MISSING = re.compile("Object missing required field `(.*)`")
_TYPE = re.compile("Expected `(.*)`, got `(.*)`")
_RANGE = re.compile("Expected `(.*)`( of length)? (<|<=|>|>=) (.*)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_KINDS = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "a boolean",
    "array": "an array", "object": "an object", "null": "null",
}  # fmt: skip
_LIMITS = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}
_PARTS = {"array": "entries", "str": "characters"}


def decoded(body: bytes, kind: type[T]) -> T:
    """Return a request from its JSON.

    Raises:
        ApiError: the body is not JSON, lacks a field, or has one of the wrong type or out of range.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(error, "", lambda: json.loads(body)) from None
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


def converted(value: object, kind: type[T], where: str) -> T:
    """Return a part of a request of another API as a part of one of this.

    Args:
        value: of the types that JSON has.
        kind: of the result.
        where: the field that the value comes from.

    Raises:
        ApiError: as for `decoded`.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error, where, lambda: value) from None


def _invalid(error: msgspec.ValidationError, where: str, value: Callable[[], Any]) -> ApiError:
    """Return the error for a field, whose path begins with `where`, in a value."""
    what, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`")
    missing = _MISSING.fullmatch(what)
    param = where + path.replace("[...]", "")
    param = (f"{param}.{missing[1]}" if missing else param).lstrip(".")
    message = "found nothing" if missing else _worded(what, path, value)
    return refused(param, message) if param else ApiError(400, f"the body: {message}")


def _worded(what: str, path: str, value: Callable[[], Any]) -> str:
    """Return what msgspec says, in words of JSON."""
    if match := _TYPE.fullmatch(what):
        kinds = [_KINDS[kind] for kind in match[1].split(" | ") if kind != "null"]
        return f"found {_KINDS.get(match[2], match[2])}, expected {' or '.join(kinds)}"
    if match := _RANGE.fullmatch(what):
        kind, is_length, relation, limit = match.groups()
        limit = limit.removesuffix(".0")
        if is_length:
            return f"expected {_KINDS[kind]} of {_LIMITS[relation]} {limit} {_PARTS[kind]}"
        return f"{_found(path, value)}expected {_KINDS[kind]} of {_LIMITS[relation]} {limit}"
    return what[:1].lower() + what[1:]


def _found(path: str, value: Callable[[], Any]) -> str:
    """Return "found ..., " for the number at a path; "" if the path does not name it."""
    if "[...]" in path:
        return ""
    try:
        found = value()
    except (ValueError, RecursionError):  # of JSON that was not read to its end
        return ""
    for key, index in _STEP.findall(path):
        found = found[key if key else int(index)]
    return f"found {found!r:.40}, "
