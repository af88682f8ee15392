"""Write a file beside its final name, and rename it only when it is whole."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import OutputExistsError


def check_output(path: str | os.PathLike[str], force: bool) -> Path:
    """Return `path` resolved.

    Raises:
        OutputExistsError: it exists and `force` is not set, or it is not a regular file.
        FileNotFoundError: its folder does not exist.
        OSError: links go round in a circle.
    """
    try:
        target = Path(path).resolve()
    except RuntimeError:  # Python before 3.13; later ones return the link
        target = Path(path)
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    if target.exists():
        if not stat.S_ISREG(target.stat().st_mode):
            raise OutputExistsError(f"{path} exists and is not a regular file: choose another name")
        if not force:
            raise OutputExistsError(
                f"{path} exists already: use --force (force=True) to replace it"
            )
    return target


@contextmanager
def atomic_file(path: str | os.PathLike[str], force: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that takes the name `path` only if the block ends without an exception.

    The bytes go to a temporary file in the same folder, are flushed to the disk and renamed over
    `path` in one step: nobody ever sees half a file, and an existing one stays whole until then.

    Raises:
        OutputExistsError: `path` exists and `force` is not set, or it is not a regular file.
        OSError: the folder does not exist, the disk is full, ...
    """
    target = check_output(path, force)
    temporary = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check_output(path, force)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    with suppress(OSError):  # some systems cannot open or sync a folder; the rename stands
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
