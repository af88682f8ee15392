"""The control groups of this process, by which Linux limits memory and processors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class ControlGroup(NamedTuple):
    """A group that this process belongs to, or a parent of one.

    Attributes:
        folder: where its files are.
        version: of control groups, 1 or 2, on which the names of the files depend.
    """

    folder: Path
    version: int


def control_groups(controller: str) -> Iterator[ControlGroup]:
    """Yield the groups that limit this process; none if the system has no such groups.

    Args:
        controller: what they limit, "memory" or "cpu".
    """
    try:
        lines = (_PROC / "self" / "cgroup").read_bytes().split(b"\n")
    except OSError:  # not Linux
        return
    for line in lines:
        # Names of groups are those of folders: bytes of any encoding, but no newlines.
        _, _, rest = os.fsdecode(line).partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:  # the end of the file
            continue
        if controllers == "":
            root, version = _CGROUPS, 2
        elif controller in controllers.split(","):
            root, version = _CGROUPS / controller, 1
        else:
            continue
        own = root / path.lstrip("/")
        # In a container the path may be that of its host: its own group is then the root.
        for group in [own, *own.parents]:
            yield ControlGroup(group, version)
            if group == root:
                break
