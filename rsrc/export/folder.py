"""Write a model directory beside its final name, and rename it only when it is whole."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsr_formats import RsrFile
from rsr_formats.atomic import atomic_file, beside, temporary
from rsr_formats.errors import OutputExistsError
from rsr_formats.model_files import MODEL_FILES

from .tensors import Config


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return `path` resolved.

    Raises:
        OutputExistsError: it exists and is no empty folder: one with files is never replaced.
        FileNotFoundError: the folder it would be in does not exist.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    if target.exists() and not target.is_dir():
        raise OutputExistsError(
            f"{path} exists and is no folder: choose another name, or one that ends in "
            ".safetensors for a file"
        )
    if target.exists() and any(target.iterdir()):
        raise OutputExistsError(f"{path} is a folder with files in it: choose another name")
    return target


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder that takes the name `path` only if the block ends without an exception.

    Raises:
        OutputExistsError: `path` exists and is no empty folder.
        OSError: its folder does not exist, the disk is full, ...
    """
    target = check_folder(path)
    unfinished = beside(target)
    with temporary(unfinished):
        unfinished.mkdir()
        yield unfinished
        check_folder(path)
        if target.exists():
            target.rmdir()  # which removes nothing but an empty folder
        unfinished.rename(target)


def write_model_files(file: RsrFile, folder: Path, config: Config | None) -> None:
    """Write config.json and the tokenizer's files into `folder`.

    Args:
        file: the .rsr file that holds them.
        folder: where they go. A name that is none of a model's files is not written: it is a
            stranger's.
        config: config.json, or None: as it is in the file.
    """
    for entry in file.header.files:
        if entry.name in MODEL_FILES and (config is None or entry.name != "config.json"):
            with atomic_file(folder / entry.name) as out:
                out.write(file.section(entry.section).data)
    if config is not None:
        with atomic_file(folder / "config.json") as out:
            out.write(json.dumps(config, indent=2).encode() + b"\n")
