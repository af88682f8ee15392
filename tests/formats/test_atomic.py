"""A file appears under its name complete or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rsr_formats.atomic import atomic_file, beside, link_or_copy, temporary
from rsr_formats.errors import OutputExistsError


class Interrupt(BaseException):
    """Not a subclass of Exception, like KeyboardInterrupt."""


def write(path: Path, force: bool = False) -> None:
    with atomic_file(path, force) as file:
        file.write(b"new")


def write_and_fail(path: Path, force: bool = False) -> None:
    with pytest.raises(Interrupt), atomic_file(path, force) as file:  # noqa: PT012
        file.write(bytes(10_000))
        raise Interrupt


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.rsr"
    write(path)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    write_and_fail(tmp_path / "a.rsr")
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.rsr"
    path.write_bytes(b"old")
    write_and_fail(path, force=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_windows_replaces_no_file_that_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(path: Path, target: Path) -> None:
        error = PermissionError(errno.EACCES, "Access is denied", str(path))
        error.winerror = 5  # type: ignore[attr-defined, unused-ignore]
        raise error

    path = tmp_path / "a.rsr"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError, match="no file that a program has open"):
        write(path, force=True)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "a.rsr"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="--force"):
        write(path)
    assert path.read_bytes() == b"old"
    write(path, force=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_during_the_write_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.rsr"
    with pytest.raises(OutputExistsError), atomic_file(path) as file:  # noqa: PT012
        file.write(b"new")
        path.write_bytes(b"old")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.rsr"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path(os.devnull)
    with pytest.raises(OutputExistsError, match="not a regular file"):
        write(path, force=True)
    assert not path.is_file()


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "a.rsr", tmp_path / "elsewhere" / "b.rsr"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link, force=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        write(tmp_path / "a.rsr")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.rsr").stat().st_mode) == 0o666 & ~umask


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "missing" / "a.rsr")


KILLED = """
import sys
from rsr_formats.atomic import atomic_file, beside, link_or_copy, temporary
with atomic_file(sys.argv[1], force=True) as file:
    file.write(bytes(100_000))
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_sigkill_leaves_no_partial_file(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "a.rsr"
    if old is not None:
        path.write_bytes(old)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert (path.read_bytes() if path.exists() else None) == old


def fail_with(path: Path, error: OSError) -> None:
    with atomic_file(path) as file:
        if error.filename == "temporary":
            error.filename = file.name
        raise error


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    def fail(error: OSError) -> OSError:
        with pytest.raises(type(error), match=r"\w") as caught:
            fail_with(tmp_path / "out", error)
        assert not list(tmp_path.iterdir())
        return caught.value

    out = str(tmp_path / "out")
    denied = fail(OSError(errno.EACCES, "denied", "temporary"))
    assert (denied.filename, str(denied)) == (out, f"[Errno 13] denied: {out!r}")
    full = fail(OSError(errno.ENOSPC, "full"))  # perhaps of another file: name none
    assert (full.filename, full.strerror) == (None, "full")
    short = fail(OSError("9 requested and 4 written"))
    assert (short.filename, short.strerror) == (None, "writing failed: 9 requested and 4 written")
    assert fail(OSError(errno.EIO, "of a source", "source")).filename == "source"
    assert fail(OSError(errno.EIO, "of a source")).filename is None


@pytest.mark.parametrize("name", ["n" * 255, "ö" * 127])
def test_the_longest_names_have_room_for_a_temporary_one(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_errors_within_a_temporary_folder_name_the_folder(tmp_path: Path) -> None:
    unfinished, target = beside(tmp_path / "out"), tmp_path / "out"

    def fail() -> None:
        with temporary(unfinished, target):
            unfinished.mkdir()
            fail_with(unfinished / "config.json", OSError(errno.EIO, "failed", "temporary"))

    with pytest.raises(OSError, match="failed") as caught:
        fail()
    assert caught.value.filename == str(target / "config.json")


def test_a_second_name(tmp_path: Path) -> None:
    """As a link to the file itself, in place of another file that other names keep."""
    source, target, other = (tmp_path / name for name in ("source", "target", "other"))
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    other.hardlink_to(target)
    (tmp_path / "symbolic").symlink_to(source)
    for _ in range(2):
        link_or_copy(tmp_path / "symbolic", target)
        assert target.samefile(source)
        assert not target.is_symlink()
    assert other.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "other", "symbolic"}


def test_a_copy_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")

    def fail(*call: object) -> None:
        raise OSError(errno.EXDEV, "no links")

    monkeypatch.setattr(Path, "hardlink_to", fail)
    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(OSError, match="no links"):
        link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"
    monkeypatch.undo()
    monkeypatch.setattr(Path, "hardlink_to", fail)
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert not (tmp_path / "target").samefile(tmp_path / "source")
