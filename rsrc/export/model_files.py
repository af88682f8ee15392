"""config.json and the tokenizer's files: read from a `.rsr` file, written to a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsr_formats import RsrFile
from rsr_formats.atomic import atomic_file
from rsr_formats.model_files import (
    MAX_CONFIG,
    MAX_TOKENIZER,
    MODEL_FILES,
    check_size,
    parse_object,
    path_in_model,
)
from rsr_formats.records import MLX_BITS, FileEntry, IndexedTensor

from ..common.errors import SourceError
from ..source.quantization import Quantization

Config = dict[str, Any]

CONFIG = "config.json"
GENERATION = "generation_config.json"


def find_file(file: RsrFile, name: str) -> FileEntry | None:
    """Return the entry of the model file `name`, or None."""
    return next((entry for entry in file.header.files if entry.name == name), None)


def read_json(file: RsrFile, entry: FileEntry) -> Config:
    """Return a model file that is a JSON object.

    Raises:
        SourceError: it is not a JSON object, or above the size limit.
    """
    where = f"{file.path}: {entry.name}"
    limit = MAX_CONFIG if entry.name == CONFIG else MAX_TOKENIZER
    # Before decompressing it: a small .rsr file may hold gigabytes of zeros.
    check_size(file.header.sections[entry.section].size, where, limit, SourceError)
    return parse_object(file.section(entry.section).tobytes(), where, limit, SourceError)


def read_config(file: RsrFile) -> Config | None:
    """Return the config.json in a `.rsr` file, or None if it has none.

    Raises:
        SourceError: it is not a JSON object, or above the size limit.
    """
    entry = find_file(file, CONFIG)
    return None if entry is None else read_json(file, entry)


def bitnet_settings(config: Config | None) -> Config:
    """Return the `quantization_config` of a config.json if its method is BitNet's, else {}."""
    found = (config or {}).get("quantization_config")
    return found if isinstance(found, dict) and found.get("quant_method") == "bitnet" else {}


def bitnet_rules(config: Config | None) -> Quantization:
    """Return which layers a config.json of BitNet converts, and how.

    Raises:
        SourceError: a setting is not known, or `modules_to_not_convert` has an unsupported regular
            expression.
    """
    return Quantization({"quantization_config": bitnet_settings(config)})


def without_mlx(file: RsrFile, config: Config | None) -> Config | None:
    """Return config.json without MLX's settings for packed weights."""
    matrices = (t for t in file.header.tensors if isinstance(t, IndexedTensor))
    if any(t.source.layout in MLX_BITS for t in matrices):
        return without(config, "quantization_config", "quantization")  # MLX writes both
    return config


def without(config: Config | None, *keys: str) -> Config | None:
    """Return config.json without some keys: itself if it has none of them."""
    if config is None or config.keys().isdisjoint(keys):
        return config
    return {key: value for key, value in config.items() if key not in keys}


def write_model_files(file: RsrFile, folder: Path, config: Config | None) -> None:
    """Write the model files of a `.rsr` file into a folder.

    Args:
        file: the .rsr file. Only names in `MODEL_FILES` are written: others are untrusted.
        folder: an existing folder.
        config: the new config.json; None writes the file's, if it has one.
    """
    for entry in file.header.files:
        if entry.name in MODEL_FILES and (config is None or entry.name != CONFIG):
            path = folder / path_in_model(entry.name)
            path.parent.mkdir(exist_ok=True)
            with atomic_file(path) as out:
                out.write(file.section(entry.section).data)
    if config is not None:
        with atomic_file(folder / CONFIG) as out:
            out.write(json.dumps(config, indent=2).encode() + b"\n")
