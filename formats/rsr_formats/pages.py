"""Anonymous memory with or without huge pages."""

from __future__ import annotations

import mmap
from contextlib import suppress


def anonymous_memory(size: int, *, huge: bool) -> mmap.mmap:
    """Return `size` zero bytes of anonymous memory, and advise the system on its page size.

    The system may ignore the advice, for example when it has no free huge pages.

    Args:
        size: in bytes, at least 1.
        huge: True asks for huge pages (2 MiB on x86-64), False declines them.
    """
    if hasattr(mmap, "MAP_PRIVATE"):  # the default, shared memory, never has huge pages
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, size)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with suppress(OSError):
            memory.madvise(advice)
    return memory
