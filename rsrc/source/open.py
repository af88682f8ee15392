"""Open a source; its path decides how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from rsr_formats.contents import GGUF, PICKLE, RSR, SAFETENSORS, Contents
from rsr_formats.model_files import MODEL_FILES
from rsr_formats.text import listed

from ..common.errors import SourceError
from ..common.progress import ProgressFunction
from .checkpoint import Checkpoint, CheckpointReference
from .files import model_files
from .gguf.beside import contradiction
from .gguf.open import first_parts, open_gguf
from .hub.cache import cached_models, resolved
from .hub.download import download
from .hub.name import hub_name, possible_name
from .mlx_codes import with_floats
from .mlx_hybrid import as_in_transformers
from .refuse import PICKLES, is_pickle, refuse_by_config, refuse_pickles, refuse_unsupported
from .rotated_folder import with_basis
from .safetensors import check_all_there, is_shard_of, open_index, open_shards
from .shapes import is_linear, missing_weights
from .shards import numbered_set
from .stacks import cut_stacks
from .text_only import text_only
from .wrong_file import (
    identified,
    is_checkpoint,
    is_compiled,
    is_file,
    is_unfinished,
    look,
    unfinished_in,
)

_SINGLE = "model.safetensors"
_BY_SUFFIX = {".safetensors": SAFETENSORS, ".gguf": GGUF}
_LOOKED_AT = 100  # entries of a directory that has no model


def open_checkpoint(
    source: str | os.PathLike[str], progress: ProgressFunction | None = None
) -> Checkpoint:
    """Open a source and check that it is complete and supported. No tensor is read.

    Args:
        source: a safetensors file, a .safetensors.index.json, a GGUF file or a model directory. One
            shard or part of a model stands for all of them. `hf://org/name` is downloaded to the
            Hugging Face cache.
        progress: shows the download, as `hub.download.download`.

    Raises:
        SourceError: it does not exist, is damaged or incomplete, or is not supported; or it cannot
            be downloaded.
        MissingPackageError: downloading needs huggingface_hub.
    """
    name = hub_name(source)
    if name is not None:
        found = download(name, progress)
        checkpoint = checked(_open(found.path), found.note)
        return replace(checkpoint, origin=str(found.origin))
    path, note = resolved(Path(source))
    if not path.is_dir() and not is_file(path):
        raise SourceError(_absent(path))
    return checked(_open(path), note)


def checked(checkpoint: Checkpoint, note: str | None = None) -> Checkpoint:
    """Check that a checkpoint is complete and supported; return its decoder as transformers has it.

    Args:
        checkpoint: as its files have it.
        note: a sentence for the user on where it is.

    Raises:
        SourceError: it is not.
    """
    checkpoint = cut_stacks(checkpoint)
    if note is not None:
        checkpoint = replace(checkpoint, notes=(note, *checkpoint.notes))
    checkpoint = with_basis(checkpoint)
    refuse_unsupported(checkpoint)
    checkpoint = with_floats(as_in_transformers(text_only(checkpoint)))
    missing = _missing(checkpoint)
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


def is_source(source: str | os.PathLike[str]) -> bool:
    """Return whether something is to be opened as a source, rather than as a .rsr file."""
    path = Path(source)
    if hub_name(source) is not None or possible_name(path) is not None:
        return True
    return is_checkpoint(path) or (path.suffix in (".json", *PICKLES) and not is_compiled(path))


def _absent(path: Path) -> str:
    """Say that there is no source of this path, and which model of the Hub may be meant."""
    found = possible_name(path)
    advice = "" if found is None else f"; {found} names a model of the Hugging Face Hub"
    return f"{path}: no such file or directory{advice}"


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        return _open_directory(path)
    if path.name.endswith(".index.json"):
        return open_index(path)
    if is_pickle(path):
        refuse_pickles(path, [path.name])
    contents = look(path)
    if contents is None:  # damaged at its beginning: its name says what it should be
        contents = _BY_SUFFIX.get(path.suffix.lower())
    if contents is SAFETENSORS:
        return _open_safetensors(path)
    if contents is GGUF:
        return open_gguf(path)
    if contents is PICKLE:
        refuse_pickles(path, [path.name])
    if contents is RSR:
        raise SourceError(
            f"{path}: {contents}: run it with `rsrc run {path}`, or compile the checkpoint that it "
            "was made from"
        )
    if path.name in MODEL_FILES:
        raise SourceError(
            f"{path}: has no tensors: give its directory, {path.parent}, as the source"
        )
    raise SourceError(
        f"{path}: expected a .safetensors file, a .safetensors.index.json, a .gguf file or a model "
        "directory"
    )


def _open_safetensors(path: Path) -> Checkpoint:
    """Open a file by itself, or if it is one shard of a model, the whole model."""
    shards = numbered_set(path)
    if path.name != _SINGLE:
        index = next((i for i in _indexes(path.parent) if is_shard_of(i, path.name)), None)
        if index is not None:
            return open_index(index)
    return open_shards(path, [path], {}) if len(shards) == 1 else _open_set(path, shards)


def _open_set(source: Path, shards: list[Path]) -> Checkpoint:
    """Open the shards of a model that has no index."""
    check_all_there(source, shards)
    folder = shards[0].parent
    checkpoint = open_shards(source, shards, model_files(folder))
    if len(shards) == 1:
        return checkpoint
    note = f"no {_SINGLE}.index.json: all {len(shards)} shards are read, by their numbers"
    return replace(checkpoint, notes=(*checkpoint.notes, note))


def _open_directory(folder: Path) -> Checkpoint:
    # As in transformers, a single model.safetensors takes precedence over an index.
    single, indexes = folder / _SINGLE, _indexes(folder)
    others = _with_suffix(folder, ".safetensors")
    if is_file(single):
        checkpoint = open_shards(folder, [single], model_files(folder))
        if not any(len(numbered_set(p)) > 1 for p in others):
            return checkpoint
        note = f"{_SINGLE} is the model, as in transformers: the shards beside it are not read"
        return replace(checkpoint, notes=(*checkpoint.notes, note))
    if indexes:
        main = [i for i in indexes if i.name == f"{_SINGLE}.index.json"]
        return open_index(_only(folder, main or indexes))
    others = others or _misnamed(folder, SAFETENSORS)
    if others:
        return _open_set(folder, _only_set(folder, others))
    refuse_by_config(folder)
    if ggufs := _with_suffix(folder, ".gguf") or _misnamed(folder, GGUF):
        return _open_gguf_directory(folder, ggufs)
    refuse_pickles(folder, sorted(p.name for p in folder.iterdir() if is_pickle(p)))
    raise SourceError(
        f"{folder}: no .safetensors or .gguf file in this directory{_elsewhere(folder)}"
    )


def _only_set(folder: Path, found: Sequence[Path]) -> list[Path]:
    """Return the shards of the only model in a directory, or of the one that transformers reads."""
    sets = list({tuple(numbered_set(p)): None for p in found})
    if len(sets) > 1:
        sets = [s for s in sets if len(s) > 1 and s[0].name.startswith("model-")] or sets
    if len(sets) > 1:
        _only(folder, [next(p for p in shards if p in found) for shards in sets])
    return list(sets[0])


def _indexes(folder: Path) -> list[Path]:
    return _with_suffix(folder, ".safetensors.index.json")


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    names = (p for p in folder.iterdir() if not p.name.startswith("."))  # macOS writes ._NAME
    return sorted(p for p in names if p.name.lower().endswith(suffix))


def _misnamed(folder: Path, contents: Contents) -> list[Path]:
    """Return the files that have the name of a pickle but other contents."""
    found = (p for p in folder.iterdir() if p.name.endswith(PICKLES))
    return sorted(p for p in found if identified(p) is contents)


def _elsewhere(folder: Path) -> str:
    """Say where the model may be that a directory does not contain; "" if nothing shows it."""
    if models := cached_models(folder):
        return f": give one of {listed(models)} as the source"
    for path in sorted(folder.iterdir())[:_LOOKED_AT]:
        if path.is_dir() and any(_with_suffix(path, s) for s in (".safetensors", ".gguf")):
            return f": give {path} as the source"
        if is_compiled(path):
            return f"; {path.name} is compiled already"
        if path.is_file() and not is_unfinished(path) and is_checkpoint(path):
            return f": give {path} as the source"
    if unfinished := unfinished_in(folder):
        return f": {unfinished}"
    return ": download the weights, too" if (folder / "config.json").exists() else ""


def _open_gguf_directory(folder: Path, ggufs: list[Path]) -> Checkpoint:
    """Open the only GGUF model in a folder; files beside it replace those made from metadata."""
    model = open_gguf(_only(folder, first_parts(ggufs) or ggufs))
    beside = model_files(folder)
    config = folder / "config.json"
    is_told = "tokenizer.json" not in beside  # else notes on the one in the metadata are moot
    notes = [note for note in model.notes if is_told or "tokenizer." not in note]
    found = replace(
        model,
        path=folder,
        config_path=config if config.name in beside else None,
        files={**model.files, **beside},
    )
    if found.config_path is not None and model.config:
        notes += filter(None, [contradiction(model.config, found.config)])
    return replace(found, notes=tuple(notes))


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
