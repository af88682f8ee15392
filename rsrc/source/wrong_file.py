"""Reject files that a download left in place of those that a model has.

Every opener calls `look` or `expect` before it parses a file, so all of them say the same of a Git
LFS pointer, a web page, an unfinished download, or a link whose target is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rsr_formats.contents import GGUF, HEAD, RSR, SAFETENSORS, Contents, identify
from rsr_formats.text import shown_json

from ..common.errors import SourceError

_UNFINISHED = (".incomplete", ".aria2", ".part", ".partial", ".crdownload", ".download", ".tmp")
_HUB_DOWNLOADS = (
    ".cache/huggingface/download",
    "../../blobs",
)  # of a local directory, of the cache
_MAX_PARSED = 1 << 20  # bytes of JSON; parsing takes 30 times as many
_PIECE = 1 << 20


def is_file(path: Path) -> bool:
    """Return whether there is a file at `path`.

    Raises:
        SourceError: something else is there, or a link to nothing. Opening a FIFO would block
            forever.
    """
    if path.is_symlink() and not path.exists():
        raise SourceError(
            f"{path}: a link to a file that is missing ({_target(path)}): download it again"
        )
    if path.exists() and not path.is_file():
        raise SourceError(f"{path}: not a regular file")
    return path.is_file()


def look(path: Path) -> Contents | None:
    """Return what a file is by its first bytes; None if they do not show it.

    Raises:
        SourceError: it is none of a model's files, but what a failed download leaves.
        OSError: it cannot be read.
    """
    is_file(path)
    if is_unfinished(path):
        raise SourceError(f"{path}: an unfinished download: complete it, or download it again")
    if (marker := path.with_name(f"{path.name}.aria2")).exists():
        raise SourceError(
            f"{path}: an unfinished download ({marker.name} is beside it): continue it with "
            "aria2c, or download it again"
        )
    with path.open("rb") as file:
        contents = identify(file.read(HEAD))
    if contents is not None and contents.is_wrong:
        raise SourceError(f"{path}: {contents}")
    return contents


def expect(path: Path, expected: Contents) -> None:
    """Check that a file is not known to be something else than `expected`.

    Raises:
        SourceError: it is something else.
        OSError: it cannot be read.
    """
    found = look(path)
    if found not in (None, expected):
        raise SourceError(f"{path}: {found}, expected {expected}")


def is_unfinished(path: Path) -> bool:
    """Return whether a file is an unfinished download by its name."""
    return path.suffix in _UNFINISHED


def identified(path: Path) -> Contents | None:
    """Return what a file is by its first bytes; None if unknown, or if it is not a file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return identify(file.read(HEAD))


def is_compiled(path: Path) -> bool:
    """Return whether a file is a .rsr file by its first bytes."""
    return identified(path) is RSR


def is_gguf(path: Path) -> bool:
    """Return whether a file is a GGUF file by its first bytes, or else by its name."""
    found = identified(path)
    return found is GGUF or (found is None and path.suffix.lower() == ".gguf")


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a directory, or a file with the tensors of a model or their index.

    If the contents of a file do not show it, its name decides.
    """
    if path.is_dir():
        return True
    found = identified(path)
    if found is None or found.is_wrong:
        return path.name.lower().endswith((".safetensors", ".gguf", ".index.json"))
    return found in (GGUF, SAFETENSORS)


def check_json(path: Path, kind: type[dict[str, Any]] | type[list[Any]] = dict) -> None:
    """Check that a file of a model is JSON of a kind, as far as memory allows.

    Of a file above 1 MiB, which only a tokenizer has, both ends are examined: they show a download
    that ended early, and zeros show one in pieces that was not finished.

    Raises:
        SourceError: it is not.
    """
    size = path.stat().st_size
    if size <= _MAX_PARSED:
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path}: not valid JSON: {error}: download it again") from None
        if not isinstance(found, kind):
            expected = "object" if kind is dict else "list"
            raise SourceError(f"{path}: expected a JSON {expected}, found {shown_json(found)}")
        return
    first = last = b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            if b"\0" in piece:
                raise SourceError(f"{path}: not valid JSON: it contains zeros: download it again")
            first = first or piece.lstrip()[:1]
            last = piece.rstrip()[-1:] or last
    begin, end = "{}" if kind is dict else "[]"
    if (first, last) != (begin.encode(), end.encode()):
        what = "an object" if kind is dict else "a list"
        raise SourceError(
            f"{path}: not valid JSON: {what} that begins with {begin} and ends with {end} was "
            "expected: download it again"
        )


def unfinished_in(folder: Path) -> str | None:
    """Name a file that an unfinished download left in or near a folder, None if there is none."""
    places = (folder, *(folder / place for place in _HUB_DOWNLOADS))
    for place in places:
        found = _first_unfinished(place.iterdir() if place.is_dir() else ())
        if found is not None:
            return f"a download is not finished ({found.name[-80:]}): run it again"
    return None


def _first_unfinished(paths: Iterable[Path]) -> Path | None:
    return min(filter(is_unfinished, paths), default=None)


def _target(path: Path) -> str:
    try:
        return str(path.readlink())[:200]
    except OSError:
        return "unknown"
