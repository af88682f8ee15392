"""A folder for files that nobody asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsr_formats.atomic import temporary


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that ends with the block, or with the process if a signal ends that."""
    folder = Path(tempfile.gettempdir(), f"rsrc-{os.urandom(6).hex()}")
    with temporary(folder):  # before it is there: a signal may come at any moment
        folder.mkdir(mode=0o700)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
