"""Anonymous memory in pages of a wanted size."""

from __future__ import annotations

import mmap
from contextlib import suppress


def anonymous_memory(size: int, *, huge: bool) -> mmap.mmap:
    """Return `size` bytes of zeros, for which huge pages are asked for or declined.

    It is a wish: a system without huge pages, or short of them, gives small ones.

    Args:
        size: in bytes; at least 1.
        huge: True asks for huge pages (2 MiB on x86-64), False for the smallest.
    """
    if hasattr(mmap, "MAP_PRIVATE"):  # Python's own default is shared memory, never in huge pages
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, size)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with suppress(OSError):
            memory.madvise(advice)
    return memory
