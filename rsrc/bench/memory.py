"""How much memory the copies of a matrix take, and in which pages they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsr_formats.pages import anonymous_memory, available_memory

_ROTATION = 1_200_000_000  # bytes of all copies of a ranked matrix
_OTHER_ROTATION = 512_000_000  # bytes of all copies of a permuted or dense matrix
_MIN_CACHES = 4  # a rotation is at least this many times the last-level cache
_MAX_COPIES = 8192
_UNKNOWN = 4 << 30  # bytes available, if the system does not say


@dataclass(frozen=True)
class Memory:
    """How many bytes the copies of the level "memory" take, in all."""

    last_level_cache: int | None
    available: int
    ranked: int  # copies of a ranked matrix
    other: int  # copies of a permuted or dense matrix
    minimum: int  # with less, the caches would serve the products
    rotations: int | None = None  # rotations that memory has room for; None: all

    def copies(self, nbytes: int, wanted: int) -> int:
        """Return how many copies of `nbytes` make up the bytes wanted; 0 if that is impossible.

        A matrix that exceeds the bytes wanted needs no second copy: no cache holds it.
        """
        count = min(-(-wanted // nbytes), _MAX_COPIES)
        return count if count * nbytes >= self.minimum else 0


def plan_memory(ranked: int, others: int) -> Memory:
    """Decide how much memory copies take: at most a quarter of what is available, in all.

    If that is too little for rotations that exceed the caches, only the first ones get any.

    Args:
        ranked: number of rotations of ranked matrices that exist at the same time.
        others: number of rotations of permuted and dense matrices.
    """
    cache, found = _last_level_cache(), available_memory()
    available = _UNKNOWN if found is None else found.nbytes
    minimum = _MIN_CACHES * (cache or 32 << 20)
    own, other = max(_ROTATION, minimum), max(_OTHER_ROTATION, minimum)
    shrink = min(1.0, available / 4 / (ranked * own + others * other))
    if shrink * min(own, other) < minimum:
        rotations = available // 4 // minimum
        return Memory(cache, available, minimum, minimum, minimum, rotations)
    return Memory(cache, available, int(own * shrink), int(other * shrink), minimum)


def pages(nbytes: int, huge: bool) -> npt.NDArray[np.uint8]:
    """Return anonymous memory in pages of 4 KiB, like those of a mapped file, or in huge pages.

    NumPy cannot allocate it: NumPy asks for huge pages for every large array.
    """
    return np.frombuffer(anonymous_memory(max(1, nbytes), huge=huge), np.uint8)


def _last_level_cache() -> int | None:
    """Return the size of the largest cache of processor 0; None if unknown."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=None)
