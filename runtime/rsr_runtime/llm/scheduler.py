"""Which texts have a slot, and how many rows each gets in the next pass: no clock, no input.

Texts get slots in the order in which they came. A pass takes one row of every text that lacks one
row, as each does that is being generated, and rows of prompts up to a number. The prompt that lacks
the fewest rows comes first, so that a short one need not wait for a long one. A prompt ages with
each pass in which it gets no row, so that short ones cannot hold it off forever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

# Rows that a prompt counts less for each pass in which it got none.
AGING = 64

Key = TypeVar("Key")


class Scheduler(Generic[Key]):
    """The queue of texts, and those in slots.

    Args:
        slots: number of texts that are computed side by side, at least 1.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._queue: deque[Key] = deque()
        self._passed_over: dict[Key, int] = {}  # of texts in slots: passes without a row

    @property
    def waiting(self) -> int:
        """Number of texts without a slot."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of texts in slots."""
        return len(self._passed_over)

    def add(self, key: Key) -> None:
        """Append a text to the queue."""
        self._queue.append(key)

    def remove(self, key: Key) -> None:
        """Forget a text, which ended or was canceled, in a slot or in the queue.

        It has no effect on one that is in neither, such as one that ended in a pass that failed.
        """
        if key in self._passed_over:
            del self._passed_over[key]
        elif key in self._queue:
            self._queue.remove(key)

    def admit(self) -> list[Key]:
        """Give free slots to the texts that wait longest, and return these texts."""
        admitted = []
        while self._queue and len(self._passed_over) < self._slots:
            key = self._queue.popleft()
            self._passed_over[key] = 0
            admitted.append(key)
        return admitted

    def next_pass(self, missing: Mapping[Key, int], prompt_rows: int) -> dict[Key, int]:
        """Return how many rows each text gets, for texts that get some.

        Args:
            missing: rows that texts in slots lack until their next token can be chosen, at least 1.
                A text that must wait for another one's rows is left out.
            prompt_rows: the most rows of texts that lack more than one, at least 1.
        """
        rows = {key: 1 for key, count in missing.items() if count == 1}
        prompts = [key for key in self._passed_over if missing.get(key, 0) > 1]
        for key in sorted(prompts, key=lambda one: missing[one] - AGING * self._passed_over[one]):
            count = min(missing[key], prompt_rows)
            prompt_rows -= count
            if count:
                rows[key] = count
            self._passed_over[key] = 0 if count else self._passed_over[key] + 1
        return rows
