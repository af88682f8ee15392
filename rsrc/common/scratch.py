"""A folder for temporary files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsr_formats.atomic import temporary


@contextmanager
def scratch_folder(folder: Path | None = None) -> Iterator[Path]:
    """Yield a new folder that is removed with the block, or when a signal ends the process.

    Args:
        folder: its unused path; None for one among the temporary files of the system.
    """
    folder = folder or Path(tempfile.gettempdir(), f"rsrc-{os.urandom(6).hex()}")
    with temporary(folder):  # registered before it exists: a signal may arrive at any time
        folder.mkdir(mode=0o700)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
