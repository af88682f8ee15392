"""Huge pages are asked for in a way that can give them, and free memory is counted fully."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from rsr_formats import control_groups, pages
from rsr_formats.pages import (
    AvailableMemory,
    anonymous_memory,
    available_memory,
    huge_page_bytes,
    huge_page_size,
)

_SIZE = 64 << 20


def touched(huge: bool) -> tuple[mmap.mmap, int]:
    """Return memory whose every page was written, and how much of it lies in huge pages."""
    memory = anonymous_memory(_SIZE, huge=huge)
    array = np.frombuffer(memory, np.uint8)
    array[::4096] = 1
    return memory, huge_page_bytes(array)


def test_pages_are_as_wished() -> None:
    small, in_small = touched(False)
    assert in_small == 0
    page = huge_page_size()
    if page is None:
        pytest.skip("this system gives no huge pages")
    large, in_large = touched(True)
    assert page <= in_large <= _SIZE  # as many as it finds: memory may be in pieces
    assert len(small) == len(large) == _SIZE


def test_it_is_zeros() -> None:
    assert not np.frombuffer(anonymous_memory(5000, huge=True), np.uint8).any()


@pytest.mark.parametrize(
    ("enabled", "size", "found"),
    [
        ("always madvise [never]", 2 << 20, None),
        ("always [madvise] never", 2 << 20, 2 << 20),
        ("[always] madvise never", 2 << 20, 2 << 20),
        ("[always] madvise never", 512 << 20, None),  # with base pages of 64 KiB: too large
    ],
)
def test_the_size_of_a_huge_page(
    enabled: str, size: int, found: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_SETTINGS", tmp_path)
    assert huge_page_size() is None
    (tmp_path / "enabled").write_text(enabled + "\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{size}\n")
    assert huge_page_size() == found


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with 8 GB available whose control groups the test writes."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemFree: 5 kB\nMemAvailable: 8000000 kB\n")
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/a/b\n0::/a/b\n")
    monkeypatch.setattr(pages, "_PROC", proc)
    monkeypatch.setattr(control_groups, "_PROC", proc)
    monkeypatch.setattr(control_groups, "_CGROUPS", tmp_path / "cgroup")
    return tmp_path / "cgroup"


def limit(group: Path, files: dict[str, object]) -> None:
    group.mkdir(parents=True)
    for name, value in files.items():
        (group / name).write_text(f"{value}\n")


STAT = "anon 5\ninactive_file 1000\nactive_file 200"


def test_without_limits(groups: Path) -> None:
    assert available_memory() == AvailableMemory(8_000_000 << 10)
    limit(groups, {"memory.max": "max", "memory.current": 10**9, "memory.stat": STAT})
    assert available_memory() == AvailableMemory(8_000_000 << 10)


@pytest.mark.parametrize("group", ["", "a", "a/b"])
def test_the_narrowest_group_counts(groups: Path, group: str) -> None:
    limit(groups / group, {"memory.max": 5 * 10**9, "memory.current": 10**9, "memory.stat": STAT})
    assert available_memory() == (4 * 10**9 + 1200, groups / group)
    assert str(available_memory()) == (
        f"4.00 GB of memory are available (limit of the control group {groups / group})"
    )


def test_version_1_of_control_groups(groups: Path) -> None:
    stat = STAT + "\ntotal_inactive_file 3000\ntotal_active_file 500"
    limit(
        groups / "memory" / "a",
        {
            "memory.limit_in_bytes": 10**9,
            "memory.usage_in_bytes": 9 * 10**8,
            "memory.stat": stat,
        },
    )
    assert available_memory() == (10**8 + 3500, groups / "memory" / "a")


def test_a_full_group_has_nothing(groups: Path) -> None:
    limit(groups, {"memory.max": 10**9, "memory.current": 2 * 10**9, "memory.stat": STAT})
    assert available_memory() == (0, groups)


def test_a_system_that_does_not_say(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_PROC", groups / "none")
    assert available_memory() is None
