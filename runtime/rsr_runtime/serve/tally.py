"""Adds up the tokens and seconds of a request."""

from __future__ import annotations

from ..llm.generate import Generation
from ..llm.job import Started
from .schema import PromptDetails, Timings, Usage


class Tally:
    """Tokens and seconds of the jobs of a request.

    Attributes:
        finished: number of texts that ended.
    """

    def __init__(self) -> None:
        self.finished = 0
        self._prompt = self._cached = self._predicted = 0
        self._prompt_seconds = self._seconds = 0.0

    def start(self, event: Started) -> None:
        """Count a prompt."""
        self._prompt += event.prompt_tokens
        self._cached += event.cached_tokens

    def finish(self, generation: Generation) -> None:
        """Count a text."""
        self.finished += 1
        self._predicted += len(generation.tokens)
        # Texts of a request are generated side by side.
        self._prompt_seconds = max(self._prompt_seconds, generation.prompt_seconds)
        self._seconds = max(self._seconds, generation.seconds)

    def usage(self) -> Usage:
        """Return the numbers of tokens."""
        total = self._prompt + self._predicted
        return Usage(self._prompt, self._predicted, total, PromptDetails(self._cached))

    def timings(self) -> Timings:
        """Return the tokens and milliseconds of reading and generating."""
        read = self._prompt - self._cached
        after_first = max(0, self._predicted - self.finished)
        return Timings(
            self._cached,
            read,
            1e3 * self._prompt_seconds,
            read / self._prompt_seconds if self._prompt_seconds else 0.0,
            self._predicted,
            1e3 * self._seconds,
            after_first / self._seconds if self._seconds else 0.0,
        )
