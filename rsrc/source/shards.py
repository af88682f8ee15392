"""The shards of a model that has no index: their numbers are in their names."""

from __future__ import annotations

import re
from pathlib import Path

_NUMBERED = re.compile(r"(.*?)([0-9]{1,5})(-of-)([0-9]{1,5})((?:\..*)?\.safetensors)", re.DOTALL)


def numbered_set(path: Path) -> list[Path]:
    """Return all files of the set that a shard belongs to by its name, whether or not they exist.

    model-00002-of-00003.safetensors belongs to a set of three. Other names are a set of one.
    """
    name = _NUMBERED.fullmatch(path.name)
    if name is None:
        return [path]
    folder, (stem, number, of, count, suffix) = path.parent, name.groups()

    def shard(i: int) -> Path:
        return folder / f"{stem}{i:0{len(number)}}{of}{count}{suffix}"

    first = 0 if int(number) == 0 or shard(0).exists() else 1
    numbers = range(first, first + int(count))
    return [shard(i) for i in numbers] if int(number) in numbers else [path]
