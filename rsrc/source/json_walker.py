"""Parse untrusted JSON one member at a time, each within a limit.

`json.loads` takes up to 30 bytes of memory for each byte that it reads. This parser is for files of
several megabytes of which few members are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_FIRST = 256  # bytes decoded at first; most values end within them
_SPACE = " \t\n\r"
_SPACES = re.compile(r"[ \t\n\r]*")


class JsonError(ValueError):
    """The bytes are not the expected JSON."""


class JsonWalker:
    """Reads one JSON object from front to back.

    After `members` yields a key, its value must be consumed with `value`, `string` or `members`
    before the next key is requested. Call `end` last.
    """

    def __init__(self, data: bytes) -> None:
        self._text = data.decode("latin-1")  # one character per byte: positions are in bytes
        self._at = 0

    def members(self, limit: int) -> Iterator[str]:
        """Yield the keys of the object at the current position.

        Args:
            limit: bytes of a key as written, including quotation marks and escapes.

        Raises:
            JsonError: there is no object, a key is longer than `limit`, or it occurs twice.
        """
        self._take("{")
        if self._peek() == "}":
            self._at += 1
            return
        seen: set[str] = set()
        while True:
            key = self.string(limit)
            if key in seen:
                raise JsonError(f"{key[:80]!r} occurs twice")
            seen.add(key)
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def string(self, limit: int) -> str:
        """Read a string; `limit` and errors as for `value`."""
        at = self._at
        found = self.value(limit)
        if not isinstance(found, str):
            raise JsonError(f"at byte {at}: expected a string, found {type(found).__name__}")
        if not found.isascii():
            try:
                found.encode()
            except UnicodeEncodeError:  # an escape can denote half of a surrogate pair
                raise JsonError(f"at byte {at}: a string is not valid Unicode") from None
        return found

    def value(self, limit: int) -> Any:
        """Read a value of any type.

        Args:
            limit: bytes of the value as written.

        Raises:
            JsonError: it is longer than `limit` or malformed, or a key occurs twice in an object.
        """
        self._peek()
        at, left = self._at, len(self._text) - self._at
        most = min(left, limit + 1)  # one more byte, to see that the value ends
        size = min(_FIRST, most)
        while True:
            piece = self._text[at : at + size]
            try:
                found, length = _decode(piece)
                if length < size or size == left:  # else a number may continue
                    break
                reason = "it does not end"
            except JsonError:
                raise
            except (ValueError, RecursionError) as error:
                reason = str(error).partition(":")[0]
            if size == most:
                longer = f", or longer than {limit} bytes" if left > limit else ""
                raise JsonError(f"at byte {at}: not valid JSON{longer}: {reason}")
            size = min(16 * size, most)
        self._at = at + length
        return found

    def end(self) -> None:
        """Check that only white space is left.

        Raises:
            JsonError: something else follows.
        """
        if self._peek():
            raise JsonError(f"at byte {self._at}: something follows the JSON object")

    def _peek(self) -> str:
        """Return the next byte that is not white space, without taking it; "" at the end."""
        found = self._text[self._at : self._at + 1]
        if found in _SPACE:
            space = _SPACES.match(self._text, self._at)
            assert space is not None
            self._at = space.end()
            found = self._text[self._at : self._at + 1]
        return found

    def _take(self, expected: str) -> str:
        found = self._peek()
        if not found or found not in expected:
            wanted = " or ".join(map(repr, expected))
            shown = repr(found) if found else "the end"
            raise JsonError(f"at byte {self._at}: found {shown}, expected {wanted}")
        self._at += 1
        return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise JsonError(f"{key[:80]!r} occurs twice")
        found[key] = value
    return found


def _decode(piece: str) -> tuple[Any, int]:
    """Decode the value at the start of `piece`; return the value and its length in bytes."""
    found, length = _DECODER.raw_decode(piece)
    if not piece.isascii() and not (written := piece[:length]).isascii():
        found = _DECODER.decode(written.encode("latin-1").decode())
    return found, length


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
