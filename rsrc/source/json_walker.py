"""Walk over JSON from strangers: one member of an object is built at a time, none above a limit.

`json.loads` makes up to thirty bytes of each byte it reads. A file that may be megabytes long and
needs only a few kinds of members is read with this instead.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

_FIRST = 256  # bytes in which the end of a value is looked for first
_SPACE = " \t\n\r"
_SPACES = re.compile(r"[ \t\n\r]*")


class JsonError(ValueError):
    """The bytes are not the JSON that was expected."""


class JsonWalker:
    """Reads bytes that hold one JSON object, in their order.

    Each member that `members` announces must be consumed, by `value`, `string` or `members` again,
    before the next is asked for; then `end`.
    """

    def __init__(self, data: bytes) -> None:
        self._text = data.decode("latin-1")  # a byte is a character: places are counted in bytes
        self._at = 0

    def members(self, limit: int) -> Iterator[str]:
        """Yield the keys of the object that begins here.

        Args:
            limit: bytes of a key as it is written, with its quotation marks and escapes.

        Raises:
            JsonError: here is no object, or it has a key twice or a longer one.
        """
        self._take("{")
        if self._peek() == "}":
            self._at += 1
            return
        seen: set[str] = set()
        while True:
            key = self.string(limit)
            if key in seen:
                raise JsonError(f"{key[:80]!r} is there twice")
            seen.add(key)
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def string(self, limit: int) -> str:
        """Read a string; `limit` and errors are those of `value`."""
        at = self._at
        found = self.value(limit)
        if not isinstance(found, str):
            raise JsonError(f"at byte {at}: expected a string, found {type(found).__name__}")
        if not found.isascii():
            try:
                found.encode()
            except UnicodeEncodeError:  # an escape can write half of a surrogate pair
                raise JsonError(f"at byte {at}: a string is no Unicode text") from None
        return found

    def value(self, limit: int) -> Any:
        """Read a value of any kind.

        Args:
            limit: bytes of the value as it is written.

        Raises:
            JsonError: it is longer, malformed, or has an object with a key twice.
        """
        self._peek()
        at, left = self._at, len(self._text) - self._at
        most = min(left, limit + 1)  # a byte more, to see that the value ends
        size = min(_FIRST, most)
        while True:
            piece = self._text[at : at + size]
            try:
                found, length = _decode(piece)
                if length < size or size == left:  # a number may go on
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
        """Check that nothing but white space is left.

        Raises:
            JsonError: there is.
        """
        if self._peek():
            raise JsonError(f"at byte {self._at}: something follows the JSON object")

    def _peek(self) -> str:
        """Return the next byte that is no white space ("" at the end), without taking it."""
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
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise JsonError(f"{twice[:80]!r} is there twice")
    return found


def _decode(piece: str) -> tuple[Any, int]:
    """Decode the value at the beginning of `piece`; return it and its length."""
    found, length = _DECODER.raw_decode(piece)
    if not piece.isascii() and not (written := piece[:length]).isascii():
        found = _DECODER.decode(written.encode("latin-1").decode())
    return found, length


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
