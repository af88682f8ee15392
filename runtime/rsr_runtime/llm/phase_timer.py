"""Where the time of a token goes."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import numpy.typing as npt

PARTS = ("products", "head", "attention", "rest")
PRODUCTS, HEAD, ATTENTION, REST = range(len(PARTS))


class PhaseTimer:
    """Adds up seconds by part; what that takes cannot be noticed, so it always runs."""

    def __init__(self) -> None:
        self.times: npt.NDArray[np.float64] = np.zeros(len(PARTS))  # where native code adds, too
        self._last = perf_counter()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each of `PARTS`."""
        return dict(zip(PARTS, self.times.tolist(), strict=True))

    def start(self) -> None:
        """Begin a lap: what was before it belongs to no part."""
        self._last = perf_counter()

    def lap(self, part: int) -> None:
        """Add the time since the lap began, or the last one ended, to a part."""
        now = perf_counter()
        self.times[part] += now - self._last
        self._last = now
