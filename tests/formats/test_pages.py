"""Huge pages are asked for in a way that can give them."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from rsr_formats.pages import anonymous_memory

_SIZE = 64 << 20


def huge_bytes() -> int:
    """Return how much of this process's memory lies in huge pages."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kib) << 10 for kib in re.findall(r"^AnonHugePages:\s+(\d+) kB", text, re.M))


def touched(huge: bool) -> tuple[mmap.mmap, int]:
    """Return memory whose every page was written, and how much of it lies in huge pages."""
    before = huge_bytes()
    memory = anonymous_memory(_SIZE, huge=huge)
    np.frombuffer(memory, np.uint8)[::4096] = 1
    return memory, huge_bytes() - before


def test_pages_are_as_wished() -> None:
    try:
        enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        huge_bytes()
    except OSError:
        pytest.skip("this system does not say where memory lies")
    small, in_small = touched(False)
    assert in_small == 0
    if "[never]" in enabled:
        pytest.skip("this system gives no huge pages")
    large, in_large = touched(True)
    assert in_large > _SIZE // 2
    assert len(small) == len(large) == _SIZE


def test_it_is_zeros() -> None:
    assert not np.frombuffer(anonymous_memory(5000, huge=True), np.uint8).any()
