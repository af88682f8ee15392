"""Write a folder under a temporary name, and rename it once it is complete."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsr_formats.atomic import beside, temporary
from rsr_formats.errors import OutputExistsError


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return `path` resolved.

    Raises:
        OutputExistsError: it is a file, or a folder with files: neither is ever replaced.
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
    if target.exists() and any(target.iterdir()):
        raise OutputExistsError(f"{path} is a directory with files in it: choose another name")
    return target


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a folder that is renamed to `path` if the block ends without an exception.

    Raises:
        OutputExistsError: `path` is a file, or a folder with files.
        OSError: the parent folder does not exist, or writing failed.
    """
    target = check_folder(path)
    unfinished = beside(target)
    with temporary(unfinished, target):
        unfinished.mkdir()
        yield unfinished
        check_folder(path)
        if target.exists():
            target.rmdir()  # fails if files have appeared in it
        unfinished.rename(target)
