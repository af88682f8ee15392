"""Write a folder under a temporary name, and rename it once it is complete."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rsr_formats.atomic import beside, moved_aside, temporary
from rsr_formats.errors import OutputExistsError

Replaces = Callable[[Path], bool]  # whether a folder with files may be replaced


def check_folder(path: str | os.PathLike[str], replaces: Replaces | None = None) -> Path:
    """Return `path` resolved.

    Args:
        path: the folder to write.
        replaces: says whether a folder with files may be replaced; None: no such folder.

    Raises:
        OutputExistsError: it is a file, which is never replaced, or a folder with files that may
            not be replaced.
        FileNotFoundError: its parent folder does not exist.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    if target.exists() and not target.is_dir():
        raise OutputExistsError(
            f"{path} exists and is not a directory: choose another name, or one that ends in "
            ".safetensors to write a file"
        )
    if _has_files(target) and not (replaces is not None and replaces(target)):
        raise OutputExistsError(f"{path} is a directory with files in it: choose another name")
    return target


@contextmanager
def atomic_folder(path: str | os.PathLike[str], replaces: Replaces | None = None) -> Iterator[Path]:
    """Create a folder that is renamed to `path` if the block ends without an exception.

    Args:
        path: the folder to write.
        replaces: as for `check_folder`. A folder that is replaced is removed last.

    Raises:
        OutputExistsError: as for `check_folder`.
        OSError: the parent folder does not exist, or writing failed.
    """
    target = check_folder(path, replaces)
    unfinished = beside(target)
    with temporary(unfinished, target):
        unfinished.mkdir()
        yield unfinished
        check_folder(path, replaces)
        if not _has_files(target):
            if target.exists():
                target.rmdir()  # fails if files have appeared in it
            unfinished.rename(target)
            return
        with moved_aside(target):
            unfinished.rename(target)


def _has_files(path: Path) -> bool:
    return path.exists() and any(path.iterdir())
