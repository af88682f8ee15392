"""A folder for files that nobody asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsr_formats.atomic import temporary


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that ends with the block, or with the process if a signal ends that."""
    with tempfile.TemporaryDirectory(prefix="rsrc-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with temporary(folder):
            yield folder
