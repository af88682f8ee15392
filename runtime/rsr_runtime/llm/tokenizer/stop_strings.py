"""Find stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import PromptError


class StopStrings:
    """Finds the first stop string in text that comes in pieces.

    Args:
        strings: stop strings, not empty.

    Raises:
        PromptError: a stop string is empty or not a string.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._strings = tuple(strings)
        for string in self._strings:
            if not isinstance(string, str) or not string:
                raise PromptError(f"found stop string {string!r:.40}, expected non-empty text")
        self._held = ""  # the end of the text, if it may begin a stop string
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Append text. Return the text that precedes any stop string, and whether one was found.

        The stop string and the text after it are never returned. The match that ends first wins,
        the longest of several, regardless of how the text was cut into pieces.
        """
        if self._stopped:
            return "", True
        self._held += text
        starts = ((self._held.find(string), len(string)) for string in self._strings)
        found = [(start + length, start) for start, length in starts if start >= 0]
        if found:
            self._stopped = True
            return self._held[: min(found)[1]], True
        keep = max((_overlap(self._held, string) for string in self._strings), default=0)
        safe = len(self._held) - keep
        done, self._held = self._held[:safe], self._held[safe:]
        return done, False

    def finish(self) -> str:
        """Return the text held back, which does not complete a stop string."""
        rest = "" if self._stopped else self._held
        self._held = ""
        return rest


def _overlap(text: str, string: str) -> int:
    """Return the length of the longest end of `text` that begins `string`."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
