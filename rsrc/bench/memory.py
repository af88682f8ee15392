"""How much memory the copies of a matrix take, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsr_formats.pages import anonymous_memory

_ROTATION = 1_200_000_000  # bytes the copies of a compiled matrix should take
_RIVAL_ROTATION = 512_000_000  # bytes the copies of a rival's matrix should take
_CACHES = 4  # a rotation holds at least this many last-level caches
_MOST_COPIES = 8192


@dataclass(frozen=True)
class Memory:
    """How many bytes of copies the level "memory" takes. Sizes in bytes."""

    last_level_cache: int | None
    available: int
    compiled: int  # of the copies of a ranked matrix
    rival: int  # of the copies of any other
    fewest: int  # below this there is no such level

    def copies(self, nbytes: int, wanted: int) -> int:
        """Return how many copies of `nbytes` make up the bytes wanted, 0 for no such level.

        What is larger than that needs no copy: it is larger than the caches by itself.
        """
        count = min(-(-wanted // nbytes), _MOST_COPIES)
        return count if count * nbytes >= self.fewest else 0


def plan_memory(compiled: int, rivals: int) -> Memory:
    """Decide how much memory copies may take: at most a quarter of what is available, in all.

    Args:
        compiled: how many rotations of ranked matrices there are at the same time.
        rivals: how many of other matrices.
    """
    cache, available = _last_level_cache(), _available()
    fewest = _CACHES * (cache or 32 << 20)
    own, rival = max(_ROTATION, fewest), max(_RIVAL_ROTATION, fewest)
    shrink = min(1.0, available / 4 / (compiled * own + rivals * rival))
    return Memory(cache, available, int(own * shrink), int(rival * shrink), fewest)


def pages(nbytes: int, huge: bool) -> npt.NDArray[np.uint8]:
    """Return anonymous memory in pages of 4 KiB, as a mapped file has them, or in huge pages.

    NumPy's own arrays would not do: it asks for huge pages where they are large.
    """
    return np.frombuffer(anonymous_memory(max(1, nbytes), huge=huge), np.uint8)


def has_huge_pages() -> bool:
    """Say whether memory that asks for huge pages may get some."""
    try:
        enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:  # another system
        return False
    return "[never]" not in enabled


def _last_level_cache() -> int | None:
    """Return the size of the largest cache that processor 0 uses, None if it is not known."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=None)


def _available() -> int:
    """Return the bytes that can be allocated without swapping; a cautious guess if unknown."""
    found = [4 << 30]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found = [int(line.split()[1]) << 10]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # another system, or no control group
        pass
    return max(0, min(found))
