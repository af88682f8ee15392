"""Anonymous memory with or without huge pages, and how much memory and which pages there are."""

from __future__ import annotations

import math
import mmap
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .control_groups import control_groups
from .text import size

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_PROC = Path("/proc")
_LIMIT_AND_USAGE = {  # files of a control group, by its version
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
_LARGEST = 32 << 20  # bytes of a huge page that is not too large for the sections of a file


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


def zeros_in_small_pages(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros like `numpy.zeros`, which asks for huge pages for arrays from 4 MiB on.

    Memory is then taken only for what is written, page by page.

    Raises:
        MemoryError: there is not that much.
    """
    cell = np.dtype(dtype)
    count = math.prod(shape)
    try:
        memory = anonymous_memory(max(1, count * cell.itemsize), huge=False)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from None
    return np.frombuffer(memory, cell, count).reshape(shape)


def huge_page_size() -> int | None:
    """Return the bytes of a huge page; None if memory that asks for them gets none."""
    try:
        if "[never]" in (_SETTINGS / "enabled").read_text():
            return None
        size = int((_SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):  # not Linux
        return None
    return size if size <= _LARGEST else None


def huge_page_bytes(memory: npt.NDArray[np.uint8]) -> int:
    """Return how many bytes of an array lie in huge pages, as far as the system says."""
    begin = memory.__array_interface__["data"][0]
    end, overlap, found = begin + memory.nbytes, 0, 0
    try:
        text = (_PROC / "self" / "smaps").read_text()
    except OSError:  # not Linux
        return 0
    for line in text.splitlines():
        if region := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, last = (int(address, 16) for address in region.groups())
            overlap = min(end, last) - max(begin, first)
        elif overlap > 0 and (
            huge := re.match(r"(?:AnonHugePages|ShmemPmdMapped|FilePmdMapped): +(\d+) kB", line)
        ):
            found += min(overlap, int(huge[1]) << 10)
    return found


class AvailableMemory(NamedTuple):
    """How much memory can be allocated without swapping.

    Attributes:
        nbytes: that many bytes. Pages of files count, as the system gives them up when needed.
        group: the control group whose limit leaves so little; None: it is all that is free.
    """

    nbytes: int
    group: Path | None = None

    def __str__(self) -> str:
        limited = "" if self.group is None else f" (limit of the control group {self.group})"
        return f"{size(self.nbytes)} of memory are available{limited}"


def available_memory() -> AvailableMemory | None:
    """Return the memory that is available to this process; None if the system does not say.

    The limits of the control groups of this process count, too.
    """
    try:
        meminfo = (_PROC / "meminfo").read_text()
    except OSError:  # not Linux
        return None
    match = re.search(r"^MemAvailable: +(\d+) kB", meminfo, re.MULTILINE)
    found = [] if match is None else [AvailableMemory(int(match[1]) << 10)]
    for group in control_groups("memory"):
        names = _LIMIT_AND_USAGE[group.version]
        # A group that has no such file has no limit.
        with suppress(OSError, ValueError):  # ValueError: "max"
            most, used = (int((group.folder / name).read_text()) for name in names)
            free = most - used + _pages_of_files(group.folder)
            found.append(AvailableMemory(max(0, free), group.folder))
    return min(found, key=lambda one: one.nbytes, default=None)


def _pages_of_files(group: Path) -> int:
    """Return the bytes of files in memory: they count as used, but are given up when needed."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    kinds = ("inactive_file", "active_file")  # total_: with the groups below, in version 1
    return sum(int(stat.get(f"total_{kind}", stat.get(kind, 0))) for kind in kinds)
