"""How many rows of prompts a pass takes, so that it does not last too long."""

from __future__ import annotations

from .decoder import MAX_ROWS

_LADDER = (16, 32, 48, 64, 96, 128, 192, 256, 384, MAX_ROWS)  # numbers of rows that are timed
_FIRST = 32  # rows, before anything is known
_SHARE = 0.3  # by which a time follows a new one
_AGING = 0.99  # of other times, per pass: one that was long by chance is tried again


class Pace:
    """Chooses rows by the times of earlier passes."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # of a pass, by its rows of prompts
        self._begun: set[int] = set()

    def rows(self, longest: float) -> int:
        """Return the most rows of prompts with which a pass is expected to last `longest` seconds.

        Args:
            longest: seconds; a pass of the fewest rows may take longer.
        """
        chosen = _LADDER[0] if self._seconds else _FIRST
        known = 0.0  # seconds per row with the most rows that are known; more take less per row
        for rows in _LADDER:
            seconds = self._seconds.get(rows, known * rows)
            if rows in self._seconds:
                known = seconds / rows
            if 0 < seconds <= longest:
                chosen = rows
        return chosen

    def add(self, rows: int, seconds: float) -> None:
        """Take note of a pass with as many rows of prompts as `rows` returned."""
        if rows not in self._begun:  # buffers may have grown
            self._begun.add(rows)
            if self._seconds:
                return
        for other in self._seconds:
            self._seconds[other] *= _AGING
        known = self._seconds.get(rows, seconds)
        self._seconds[rows] = known + _SHARE * (seconds - known)
