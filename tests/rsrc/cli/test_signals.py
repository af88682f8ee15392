"""Signals end a command soon, at any point, and leave no temporary files."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_testing.checkpoints import Kit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")

# The signal comes at the worst moment: the N-th lock of `threading` is taken, its `with` not begun.
AMID_A_LOCK = """
import os, signal, sys, threading
from rsrc.cli.main import main
number, count, *arguments = sys.argv[1:]
enter, seen = threading.Condition.__enter__, 0
def entered(self):
    global seen
    result = enter(self)
    if threading.get_ident() == threading.main_thread().ident:
        seen += 1
        if seen == int(count):
            os.kill(os.getpid(), int(number))
    return result
threading.Condition.__enter__ = entered
main(arguments)
"""


@pytest.mark.parametrize("count", range(1, 9))
def test_amid_a_lock(kit: Kit, tmp_path: Path, count: int) -> None:
    tensors: dict[str, Any] = {f"w{i}": np.ones((8, 8), np.int8) for i in range(9)}
    source = kit.save(tmp_path / "s.safetensors", tensors)
    arguments = ("compile", source, "-o", tmp_path / "x.rsr", "--threads", 2)
    done = kit.python(AMID_A_LOCK, int(signal.SIGTERM), count, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


UNDER_WAY = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from rsr_formats.atomic import atomic_file
from rsrc.export.folder import atomic_folder
from rsrc.common.scratch import scratch_folder
from rsrc.cli.signals import ending_at_once
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
place, name = Path(sys.argv[1]), sys.argv[2]
with ExitStack() as stack:
    stack.enter_context(ending_at_once())
    stack.enter_context(atomic_file(place / "done")).close()
    file = stack.enter_context(atomic_file(place / "a"))
    file.write(b"1234")
    folder = stack.enter_context(atomic_folder(place / "b"))
    (folder / "inner").mkdir()
    stack.enter_context(atomic_file(folder / "inner" / "c")).write(b"5678")
    scratch = stack.enter_context(scratch_folder())
    (scratch / "d").write_bytes(b"9")
    assert scratch.parent == place
    assert len(list(place.iterdir())) == 4
    os.kill(os.getpid(), getattr(signal, name))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_files_folders_and_scratch(
    kit: Kit, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = kit.python(UNDER_WAY, tmp_path, name)
    assert (done.returncode, done.stderr) == (128 + getattr(signal, name), "")
    assert list(tmp_path.iterdir()) == []


BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from rsrc.cli.signals import ending_at_once
from rsrc.export.folder import atomic_folder
place, count = Path(sys.argv[1]), int(sys.argv[2])
rename = Path.rename
def rename_and_end(path, to):
    global count
    found = rename(path, to)
    count -= 1
    if count == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return found
Path.rename = rename_and_end
with ending_at_once(), atomic_folder(place / "out", lambda _: True) as folder:
    (folder / "file").write_text("new")
"""


@pytest.mark.parametrize(("count", "found"), [(1, "old"), (2, "new")])
def test_between_the_renames_of_a_folder_that_is_replaced(
    kit: Kit, tmp_path: Path, count: int, found: str
) -> None:
    """One of the two folders is there, and nothing else."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")
    done = kit.python(BETWEEN_RENAMES, tmp_path, count)
    assert (done.returncode, done.stderr) == (143, "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == found


RAW = """
import fcntl, os, signal, termios, tty
from rsrc.cli.signals import ending_at_once
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
def is_raw():
    return not termios.tcgetattr(0)[3] & termios.ECHO
"""
FOREGROUND = """
with ending_at_once():
    tty.setraw(0)
    assert is_raw()
    os.kill(os.getpid(), signal.SIGTERM)
"""
BACKGROUND = """
begun, begins = os.pipe()
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    with ending_at_once():
        os.write(begins, b"x")
        signal.pause()
os.read(begun, 1)
tty.setraw(0)  # as an editor does that was started meanwhile
os.kill(job, signal.SIGTERM)
_, status = os.waitpid(job, 0)
assert is_raw()
os._exit(os.WEXITSTATUS(status))
"""


@pytest.mark.parametrize("where", [FOREGROUND, BACKGROUND])
def test_the_terminal_is_as_it_was(where: str) -> None:
    """Where it is the command's own, and not lent to another one meanwhile."""
    import pty
    import subprocess
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    assert int(before[3]) & termios.ECHO
    done = subprocess.run(
        [sys.executable, "-c", RAW + where], start_new_session=True,
        stdin=theirs, stdout=theirs, stderr=theirs, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 143
    is_restored = termios.tcgetattr(theirs) == before
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # how Linux says that nothing was
        written = os.read(ours, 1000)
    os.close(ours)
    assert written == (b"\x1b[?25h" if where == FOREGROUND else b"")
    assert is_restored == (where == FOREGROUND)


NO_STDERR = """
import os, signal, sys
from rsrc.cli import signals
sys.stderr = None
os.close(2)
def fail():
    raise OSError("the disk is gone")
signals.remove_temporaries = fail
with signals.ending_at_once():
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_it_ends_whatever_is_wrong(kit: Kit) -> None:
    assert kit.python(NO_STDERR).returncode == 143
