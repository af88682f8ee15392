"""A control group that limits memory, for tests as root on Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CGROUPS = Path("/sys/fs/cgroup")

# Code: move this process, whose first argument is the folder of a group, there.
ENTER = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
"""


@contextmanager
def memory_group(nbytes: int) -> Iterator[Path]:
    """Make a group whose processes get `nbytes` of memory; skip the test if that is not allowed."""
    is_v1 = (_CGROUPS / "memory").is_dir()
    root = _CGROUPS / "memory" if is_v1 else _CGROUPS
    group = root / f"rsr-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        limit = group / ("memory.limit_in_bytes" if is_v1 else "memory.max")
        try:
            limit.write_text(f"{nbytes}\n")
            swap = group / ("memory.memsw.limit_in_bytes" if is_v1 else "memory.swap.max")
            if swap.exists():
                swap.write_text(f"{nbytes if is_v1 else 0}\n")
        except OSError as error:
            pytest.skip(f"the control group cannot limit memory: {error}")
        yield group
    finally:
        group.rmdir()


def forget_pages(path: Path) -> None:
    """Drop the pages of a file, so that they count for the group that reads them next."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
