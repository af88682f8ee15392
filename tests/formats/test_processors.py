"""The number of processors heeds affinity and the quotas of control groups, of both versions."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rsr_formats import control_groups
from rsr_formats.processors import processor_quota, usable_processors


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process with eight processors, in control groups whose files the test writes."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("3:cpuset:/x\n2:cpu,cpuacct:/a/b\n0::/a/b\n")
    monkeypatch.setattr(control_groups, "_PROC", proc)
    monkeypatch.setattr(control_groups, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path / "cgroup"


def write(group: Path, **files: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("quota", "processors"),
    [("150000", 2), ("100000", 1), ("20000", 1), ("900000", 8), ("max", 8), ("0", 8)],
)
@pytest.mark.parametrize("group", ["", "a", "a/b"])
def test_version_2(groups: Path, group: str, quota: str, processors: int) -> None:
    write(groups / group, cpu__max=f"{quota} 100000")
    assert usable_processors() == processors


@pytest.mark.parametrize(("quota", "processors"), [("250000", 3), ("-1", 8), ("many", 8)])
def test_version_1(groups: Path, quota: str, processors: int) -> None:
    write(groups / "cpu" / "a", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    write(groups / "cpuset" / "a", cpu__cfs_quota_us="1", cpu__cfs_period_us="100000")
    assert usable_processors() == processors


def test_the_narrowest_group_counts(groups: Path) -> None:
    write(groups / "a", cpu__max="300000 100000")
    write(groups / "a" / "b", cpu__max="500000 100000")
    assert processor_quota() == 3


def test_without_groups(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_groups, "_PROC", groups / "none")
    assert processor_quota() is None
    assert usable_processors() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("name", [b"\xff\xfe", "\u2028\x85".encode(), b"a:b", b"a b (deleted)"])
def test_names_of_groups_are_bytes(groups: Path, name: bytes) -> None:
    """rsr_runtime asks for the quota when it is imported."""
    (groups.parent / "proc" / "self" / "cgroup").write_bytes(b"\n0::/" + name + b"\n")
    write(groups / os.fsdecode(name), cpu__max="150000 100000")
    assert processor_quota() == 2
