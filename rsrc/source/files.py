"""The small files of a source, and the check that an output replaces none of its files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rsr_formats.model_files import (
    LISTS,
    MAX_CONFIG,
    MAX_FILE,
    MODEL_FILES,
    check_size,
    path_in_model,
)

from ..common.errors import OptionError, SourceError
from .wrong_file import check_json, is_file, look


def read_limited(path: Path, limit: int) -> bytes:
    """Read a whole file.

    Raises:
        SourceError: it has more than `limit` bytes.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
        size = max(len(data), os.fstat(file.fileno()).st_size)
        check_size(size, str(path), limit, SourceError)
    return data


def config_in(folder: Path) -> Path | None:
    """Return the path of a directory's config.json, None if there is none.

    Raises:
        SourceError: the file is of another kind (see `wrong_file.look`).
    """
    path = folder / "config.json"
    if not is_file(path):
        return None
    look(path)
    return path


def model_files(folder: Path) -> dict[str, Path | bytes]:
    """Return the paths of the files in a directory that a `.rsr` file keeps, by their names there.

    Raises:
        SourceError: one of them exceeds its limit, is not a regular file, was not downloaded
            completely, or should be JSON and is not.
    """
    files: dict[str, Path | bytes] = {}
    for name in MODEL_FILES:
        path = folder / path_in_model(name)
        if is_file(path):
            limit = MAX_CONFIG if name == "config.json" else MAX_FILE
            check_size(path.stat().st_size, str(path), limit, SourceError)
            look(path)
            if path.suffix == ".json":
                check_json(path, list if name in LISTS else dict)
            files[name] = path
    return files


def check_not_source(output: Path, sources: Iterable[Path]) -> None:
    """Reject an output that would replace a file it is made from.

    Raises:
        OptionError: `output` is the same file as one of `sources`.
    """
    if output.exists() and any(output.samefile(s) for s in sources if s.exists()):
        raise OptionError(f"{output} is part of the source: choose another output")
