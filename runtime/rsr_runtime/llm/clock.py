"""Where the time of a token goes."""

from __future__ import annotations

from collections import defaultdict
from time import perf_counter

PARTS = ("products", "head", "attention", "rest")


class Clock:
    """Adds up seconds by part; a lap takes some 0.1 us, so it always runs."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = perf_counter()

    def start(self) -> None:
        """Begin a lap: what was before it belongs to no part."""
        self._last = perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the last lap to `part`, one of `PARTS`."""
        now = perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
