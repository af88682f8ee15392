"""The directories of the cache of the Hugging Face Hub, given as paths."""

from __future__ import annotations

from pathlib import Path

from rsr_formats.text import listed

from ...common.errors import SourceError

_MAX_REF = 200  # bytes of refs/main, which has 40


def resolved(path: Path) -> tuple[Path, str | None]:
    """Return where a source is if a path names a place in the cache of the Hub, and a note on it.

    A directory models--ORG--NAME stands for the snapshot that refs/main names, or for its only one.
    A blob stands for the file of a snapshot that links to it, which has a name and other files
    beside it.

    Raises:
        SourceError: there is no snapshot, or none of several is the main one.
    """
    if path.is_dir():
        if path.name == "snapshots" and path.parent.name.startswith("models--"):
            path = path.parent
        if (path / "snapshots").is_dir() and not (path / "config.json").exists():
            snapshot = _snapshot(path)
            return snapshot, f"read from {snapshot}"
    elif path.parent.name == "blobs":
        links = sorted(path.parent.parent.glob("snapshots/*/*"))
        link = next((p for p in links if p.exists() and p.samefile(path)), None)
        if link is not None:
            return link, f"read as {link}"
    return path, None


def cached_models(folder: Path) -> list[str]:
    """Return the names of the models in a directory if it is the Hub's cache."""
    return sorted(p.name for p in folder.glob("models--*") if p.is_dir())


def _snapshot(cache: Path) -> Path:
    snapshots = sorted(p for p in (cache / "snapshots").iterdir() if p.is_dir())
    main = cache / "refs" / "main"
    if main.is_file():
        with main.open("rb") as file:
            name = file.read(_MAX_REF).decode(errors="replace").strip()
        found = [p for p in snapshots if p.name == name]
        if found:
            return found[0]
    if not snapshots:
        raise SourceError(f"{cache}: no model in this directory of the cache: download it again")
    if len(snapshots) > 1:
        raise SourceError(
            f"{cache}: a directory of the Hugging Face cache with several snapshots: name one of "
            + listed([f"snapshots/{p.name}" for p in snapshots])
        )
    return snapshots[0]
