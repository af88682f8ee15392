"""Open a source; its path decides how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from rsr_formats.text import listed

from ..common.errors import SourceError
from .checkpoint import Checkpoint, CheckpointReference
from .files import model_files
from .gguf.open import first_parts, open_gguf
from .refuse import PICKLES, refuse_by_config, refuse_pickles, refuse_unsupported
from .safetensors import open_index, open_shards
from .shapes import is_linear, missing_weights


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Open a source and check that it is complete and supported. No tensor is read.

    Args:
        source: a .safetensors file, a .safetensors.index.json, a .gguf file or a model directory.

    Raises:
        SourceError: it does not exist, is damaged or incomplete, or is not supported.
    """
    path = Path(source)
    if not path.exists():
        raise SourceError(f"{path}: no such file or directory")
    checkpoint = _open(path)
    refuse_unsupported(checkpoint)
    # A .safetensors file named by itself may be one shard of a model.
    missing = None if path.suffix == ".safetensors" and path.is_file() else _missing(checkpoint)
    if missing is not None:
        raise SourceError(f"{checkpoint.path}: {missing}")
    return checkpoint


@lru_cache(maxsize=2)
def reopen(reference: CheckpointReference) -> Checkpoint:
    """Open in a worker the checkpoint that `Checkpoint.reference` describes, once per process.

    Raises:
        SourceError: it cannot be opened, or has other tensors here than where the reference was
            made.
    """
    checkpoint = open_checkpoint(reference.path)
    if checkpoint.digest != reference.digest:
        raise SourceError(
            f"{reference.path}: a worker finds other tensors or another config.json there: workers "
            "read the source themselves, from the same paths"
        )
    return checkpoint


def is_source(path: Path) -> bool:
    """Return whether a path looks like a source by its name, rather than like a .rsr file."""
    return path.is_dir() or path.suffix in (".safetensors", ".gguf", ".json", *PICKLES)


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        return _open_directory(path)
    if path.name.endswith(".index.json"):
        return open_index(path)
    if path.suffix == ".safetensors":
        return open_shards(path, [path], {})
    if path.suffix == ".gguf":
        return open_gguf(path)
    refuse_pickles(path, [path.name])
    raise SourceError(
        f"{path}: expected a .safetensors file, a .safetensors.index.json, a .gguf file or a model "
        "directory"
    )


def _open_directory(folder: Path) -> Checkpoint:
    # As in transformers, a single model.safetensors takes precedence over an index.
    single = folder / "model.safetensors"
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    others = sorted(folder.glob("*.safetensors"))
    if single.is_file() or (not indexes and len(others) == 1):
        shard = single if single.is_file() else others[0]
        return open_shards(folder, [shard], model_files(folder))
    if others or indexes:
        return open_index(_only(folder, indexes or others))
    refuse_by_config(folder)
    if ggufs := sorted(folder.glob("*.gguf")):
        return _open_gguf_directory(folder, ggufs)
    refuse_pickles(folder, sorted(p.name for p in folder.iterdir()))
    raise SourceError(f"{folder}: no .safetensors or .gguf file in this directory")


def _open_gguf_directory(folder: Path, ggufs: list[Path]) -> Checkpoint:
    """Open the only GGUF model in a folder; files beside it replace those made from metadata."""
    model = open_gguf(_only(folder, first_parts(ggufs) or ggufs))
    beside = model_files(folder)
    config = folder / "config.json"
    return replace(
        model,
        path=folder,
        config_path=config if config.name in beside else None,
        files={**model.files, **beside},
    )


def _only(folder: Path, found: Sequence[Path]) -> Path:
    if len(found) > 1:
        names = listed([p.name for p in found])
        raise SourceError(f"{folder}: which of {names}? Name one of them as the source")
    return found[0]


def _missing(checkpoint: Checkpoint) -> str | None:
    """Name the weights that config.json or other tensors show to be missing, if any."""
    names = checkpoint.tensors
    if any(map(is_linear, names)):
        missing = missing_weights(checkpoint.config, names)
        if missing is not None:
            return missing
    weights = [name.removesuffix("_scale") for name in names if name.endswith(".weight_scale")]
    absent = [repr(name[:120]) for name in weights if name not in names]
    if absent and checkpoint.quantization.is_bitnet:
        return f"weights are missing whose scales are there: {listed(absent)}"
    return None
