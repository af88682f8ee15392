"""Write files atomically: under a temporary name, renamed when they are complete."""

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

_temporaries: dict[Path, list[BinaryIO]] = {}  # files and folders to remove; open files in each
_IN_USE = (5, 32, 1224)  # Windows: access denied, sharing violation, mapped into memory
_aside: dict[Path, Path] = {}  # folders under temporary names, and their own names
_foreign: list[tuple[Path, str, set[Path]]] = []  # folders, patterns, and files to keep


@contextmanager
def temporary(path: Path, target: Path | None = None) -> Iterator[list[BinaryIO]]:
    """Remove a file or folder if the block raises, or if `remove_temporaries` is called in it.

    Args:
        path: the file or folder, which need not exist yet.
        target: what it is renamed to in the end; an OSError of the block names it instead of the
            temporary one.

    Yields:
        A list for the open files in `path`, because Windows cannot remove an open file.
    """
    opened = _temporaries[path] = []
    try:
        yield opened
    except BaseException as error:
        _remove(path)
        if target is not None and isinstance(error, OSError):
            _name_target(error, path, target)
        raise
    finally:
        del _temporaries[path]


@contextmanager
def moved_aside(target: Path) -> Iterator[None]:
    """Rename a folder for the block, which puts another one in its place, and remove it then.

    If there is no other at the end, or when `remove_temporaries` is called, it gets its name back.
    """
    replaced = beside(target)
    _aside[replaced] = target
    try:
        target.rename(replaced)
        yield
    finally:
        _settle(replaced, target)
        del _aside[replaced]


def remove_temporaries() -> None:
    """Remove all temporary files and folders, for a signal handler that ends the process.

    It takes no lock and does not block.
    """
    for path, opened in reversed(tuple(_temporaries.items())):  # files before their folders
        if os.name == "nt":
            for file in opened:
                with suppress(OSError, ValueError):
                    os.close(file.fileno())  # unlike file.close(), does not flush
        _remove(path)
    for replaced, target in tuple(_aside.items()):  # after a folder that did not replace it
        _settle(replaced, target)
    for folder, pattern, kept in tuple(_foreign):
        for path in folder.glob(pattern):
            if path not in kept:
                _remove(path)


@contextmanager
def foreign_temporaries(folder: Path, pattern: str) -> Iterator[None]:
    """Remove the temporary files of another library if `remove_temporaries` is called in the block.

    An exception leaves them to that library.

    Args:
        folder: where it makes them; need not exist.
        pattern: that their names match. Files that exist already belong to another process.
    """
    entry = (folder, pattern, set(folder.glob(pattern)))
    _foreign.append(entry)
    try:
        yield
    finally:
        _foreign.remove(entry)


def beside(target: Path) -> Path:
    """Return an unused temporary name in the folder of `target`."""
    # Cut, because a file system that takes a name of 255 bytes takes no longer one.
    return target.with_name(f".{target.name[:50]}.{os.urandom(6).hex()}.tmp")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, which replaces `target`: as a hard link, else as a copy.

    Raises:
        OSError: copying failed; `target` is unchanged.
    """
    source = source.resolve()  # the link is to the file itself
    if target.exists() and target.samefile(source):
        return
    unfinished = beside(target)
    with temporary(unfinished, target):
        try:
            unfinished.hardlink_to(source)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, unfinished)
        unfinished.replace(target)


def _name_target(error: OSError, path: Path, target: Path) -> None:
    """Replace the temporary path in an error, and explain the reasons that need it."""
    if type(error) is OSError and error.errno is None:  # numpy.ndarray.tofile on a full disk
        error.strerror = f"writing failed: {error}"
    if getattr(error, "winerror", None) in _IN_USE and target.exists():
        error.strerror = f"{error.strerror}: Windows replaces no file that a program has open"
    for attribute in ("filename", "filename2"):
        name = str(getattr(error, attribute) or "")
        if name.startswith(str(path)):
            setattr(error, attribute, f"{target}{name.removeprefix(str(path))}")


def _settle(replaced: Path, target: Path) -> None:
    """Remove a folder that another one has replaced, or else give it its name back."""
    if target.exists():
        _remove(replaced)
    elif replaced.exists():
        replaced.rename(target)


def _remove(path: Path) -> None:
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir may raise)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def check_output(path: str | os.PathLike[str], force: bool) -> Path:
    """Check that a file may be written; return its path with links resolved.

    Raises:
        OutputExistsError: `path` exists and `force` is not set, or it is not a regular file.
        FileNotFoundError: its folder does not exist.
        OSError: it is a circular link.
    """
    try:
        target = Path(path).resolve()
    except RuntimeError:  # circular link, before Python 3.13; later versions return it
        target = Path(path)
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    if target.exists():
        if not stat.S_ISREG(target.stat().st_mode):
            what = "is a directory," if target.is_dir() else "exists and is"
            raise OutputExistsError(f"{path} {what} not a regular file: choose another name")
        if not force:
            raise OutputExistsError(f"{path} already exists: use --force to replace it")
    return target


@contextmanager
def atomic_file(
    path: str | os.PathLike[str], force: bool = False, sync: bool = True
) -> Iterator[BinaryIO]:
    """Open a new binary file that replaces `path` only if the block ends without an exception.

    The data goes to a temporary file in the same folder, which is flushed to disk and renamed over
    `path`. No reader ever sees a partial file.

    Args:
        path: the file.
        force: replace an existing file.
        sync: wait until the data is on the disk. Without it, a file may be damaged if the system
            fails soon after.

    Raises:
        OutputExistsError: `path` exists and `force` is not set, or it is not a regular file.
        OSError: the folder does not exist, or writing fails (for example, the disk is full).
    """
    target = check_output(path, force)
    unfinished = beside(target)
    with temporary(unfinished, target) as opened:
        with unfinished.open("x+b") as file:
            opened.append(file)
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        check_output(path, force)
        unfinished.replace(target)
    if not sync:
        return
    with suppress(OSError):  # not every system can sync a folder; the rename is done
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
