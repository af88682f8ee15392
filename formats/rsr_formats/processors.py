"""How many processors this process may use."""

from __future__ import annotations

import os
from contextlib import suppress

from .control_groups import ControlGroup, control_groups


def usable_processors() -> int:
    """Return the number of processors that this process may use, at least 1.

    Affinity (taskset) limits it, and so do the quotas of control groups, rounded up: containers and
    systemd set these.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = processor_quota()
    return count if quota is None else min(count, quota)


def processor_quota() -> int | None:
    """Return how many processors the quotas of control groups amount to, rounded up.

    Returns:
        At least 1; None without a quota.
    """
    quotas = []
    for group in control_groups("cpu"):
        with suppress(OSError, ValueError):  # a group without the file, or "max": no quota
            quota, period = _quota(group)
            if quota > 0 and period > 0:  # version 1 writes -1 for none
                quotas.append(-(-quota // period))
    return min(quotas, default=None)


def _quota(group: ControlGroup) -> tuple[int, int]:
    """Return microseconds of processor time, and in how many microseconds."""
    if group.version == 2:
        quota, period = (group.folder / "cpu.max").read_text().split()
    else:
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = ((group.folder / name).read_text() for name in files)
    return int(quota), int(period)
