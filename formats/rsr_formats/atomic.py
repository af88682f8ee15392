"""Write a file beside its final name, and rename it only when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import OutputExistsError

_temporaries: dict[Path, list[BinaryIO]] = {}  # what must not outlive the process; opened in each


@contextmanager
def temporary(path: Path) -> Iterator[list[BinaryIO]]:
    """Remove a file or folder if the block ends by an exception, or by `remove_temporaries`.

    Args:
        path: nothing need be there yet.

    Yields:
        Where to put files that are open in `path`: Windows removes none before it is closed.
    """
    opened = _temporaries[path] = []
    try:
        yield opened
    except BaseException:
        _remove(path)
        raise
    finally:
        del _temporaries[path]


def remove_temporaries() -> None:
    """Remove all that is under way: only for a process that ends at once, from a signal handler.

    It takes no lock and waits for nothing.
    """
    for path, opened in reversed(tuple(_temporaries.items())):  # files before their folders
        if os.name == "nt":  # which removes no open file
            for file in opened:
                with suppress(OSError, ValueError):
                    os.close(file.fileno())  # without writing what is buffered, as `close` would
        _remove(path)


def beside(target: Path) -> Path:
    """Return a name in the same folder that nothing has yet."""
    return target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")


def _remove(path: Path) -> None:
    if os.path.isdir(path):  # noqa: PTH112 (unlike the method it never raises)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


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
    unfinished = beside(target)
    with temporary(unfinished) as opened:
        with unfinished.open("x+b") as file:
            opened.append(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        check_output(path, force)
        unfinished.replace(target)
    with suppress(OSError):  # some systems cannot open or sync a folder; the rename stands
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
