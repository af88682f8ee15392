"""A GGUF file as a checkpoint: names, row order and settings as Hugging Face has them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.text import listed

from ...common.errors import SourceError
from ..checkpoint import Checkpoint, SourceTensor
from .config import hf_config
from .names import hf_name, permuted_heads
from .reader import Header, TensorInfo, Value, read_header
from .tensor import GgufTensor, dequantized
from .tokenizer import tokenizer_files
from .types import GgmlType, resolve

_PART = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
_ROPE_FACTORS = "rope_freqs.weight"
_MOST_FACTORS = 1 << 15  # half a head
_LONGEST_NOTE = 1 << 16  # characters of a string in the metadata that is kept


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, or the first of the parts it was split into.

    The checkpoint has a config.json made from the metadata if the architecture is a known one, and
    the metadata that describe the model (general.*).

    Raises:
        SourceError: a file is damaged or missing, or of a kind that is not read.
    """
    headers = _read_parts(path)
    metadata = headers[0].metadata
    _refuse(path, metadata)
    found = [(header.path, info) for header in headers for info in header.tensors]
    shapes = {info.name: info.shape for _, info in found}
    if len(shapes) < len(found):
        raise SourceError(f"{path}: parts of the model have tensors of the same name")
    types = {name: kind for header in headers for name, kind in resolve(header).items()}
    factors = _rope_factors(found, types)
    config = hf_config(metadata, shapes, factors) or {}
    if factors is not None and "rope_scaling" in config:  # that says it all
        found = [(part, info) for part, info in found if info.name != _ROPE_FACTORS]
    tensors: dict[str, SourceTensor] = {}
    for part, info in found:
        name = hf_name(info.name, str(metadata.get("general.architecture")))
        if name in tensors:
            raise SourceError(f"{path}: tensor {name[:80]!r} is there under two names")
        heads = _heads(path, metadata, config, info, types[info.name])
        tensors[name] = _tensor(part, info, types[info.name], name, heads)
    notes: list[str] = []
    files = _model_files(metadata, config, notes)
    return Checkpoint(
        path, tensors, metadata=_description(metadata), files=files, notes=tuple(notes)
    )


def first_parts(paths: list[Path]) -> list[Path]:
    """Leave out the parts behind the first of every model that is split into files."""
    return [p for p in paths if not (part := _PART.fullmatch(p.name)) or int(part[2]) == 1]


def _read_parts(path: Path) -> list[Header]:
    first = read_header(path)
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return [first]
    number = first.metadata.get("split.no")
    name = _PART.fullmatch(path.name)
    if name is None or int(name[3]) != count:
        raise SourceError(
            f"{path}: one of {count} parts, which are found by name, NAME-00001-of-{count:05}.gguf "
            "and so on: rename it, or merge them with llama-gguf-split --merge"
        )
    parts = [path.with_name(f"{name[1]}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    if not _is(number, 0) or int(name[2]) != 1:
        raise SourceError(f"{path}: not the first of {count} parts: name {parts[0].name}")
    missing = [p.name for p in parts if not p.is_file()]
    if missing:
        raise SourceError(f"{path}: {len(missing)} of {count} parts missing: {listed(missing)}")
    headers = [first]
    for i, part in enumerate(parts[1:], 1):
        header = read_header(part)
        said = header.metadata.get("split.no"), header.metadata.get("split.count")
        if not (_is(said[0], i) and _is(said[1], count)):
            raise SourceError(
                f"{part}: says it is part {str(said[0])[:20]} of {str(said[1])[:20]} (counted from "
                f"0), expected {i} of {count}"
            )
        headers.append(header)
    return headers


def _is(value: Value, expected: Value) -> bool:
    """Compare a value of any type: an array compares element by element."""
    return type(value) is type(expected) and bool(value == expected)


def _refuse(path: Path, metadata: Mapping[str, Value]) -> None:
    """Refuse what looks like a model and cannot be multiplied by as one."""
    if any(key.startswith("prism.hadamard.") for key in metadata):
        raise SourceError(
            f"{path}: its weights are in a rotated basis (metadata prism.hadamard.*): activations "
            "would have to be rotated before every product, which no .rsr file says. Compile the "
            "unrotated checkpoint"
        )
    if _is(metadata.get("general.type"), "adapter"):
        raise SourceError(f"{path}: a LoRA adapter, not a model: merge it into its model first")


def _heads(
    path: Path, metadata: Mapping[str, Value], config: Mapping[str, Any], info: TensorInfo,
    kind: GgmlType,
) -> int | None:  # fmt: skip
    """Return how many heads' rows the file reorders in a tensor, None if none."""
    architecture = str(metadata.get("general.architecture"))
    heads, kv_heads = (config.get(f"num_{k}_heads", 0) for k in ("attention", "key_value"))
    found = permuted_heads(info.name, architecture, heads, kv_heads)
    if found is None:
        return None
    what = f"{path}: rows of {info.name!r} are ordered by heads (architecture {architecture})"
    if len(info.shape) not in (1, 2):
        raise SourceError(f"{what}, but it has {len(info.shape)} dimensions")
    if not found or info.shape[0] % (2 * found):
        raise SourceError(f"{what}, but {info.shape[0]} rows are no pairs in each of {found} heads")
    if kind.is_flat and info.shape[-1] % kind.block:
        raise SourceError(f"{what}, but blocks of {kind.name} straddle them")
    return found


def _rope_factors(
    found: list[tuple[Path, TensorInfo]], types: Mapping[str, GgmlType]
) -> npt.NDArray[np.float32] | None:
    for part, info in found:
        kind = types[info.name]
        if info.name != _ROPE_FACTORS or kind.dtype != "F32" or len(info.shape) != 1:
            continue
        if info.shape[0] <= _MOST_FACTORS:
            return _tensor(part, info, kind, info.name, None).read().view(np.float32)
    return None


def _tensor(
    path: Path, info: TensorInfo, kind: GgmlType, name: str, heads: int | None
) -> GgufTensor:
    dtype = kind.dtype or kind.name
    tensor = GgufTensor(
        name, dtype, info.shape, path, info.offset, kind.nbytes(info.shape), kind, heads
    )
    return tensor if kind.dtype or kind.codec else dequantized(tensor)


def _description(metadata: Mapping[str, Value]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith("general.") and isinstance(value, str) and len(value) <= _LONGEST_NOTE
    }


def _model_files(
    metadata: Mapping[str, Value], config: dict[str, Any], notes: list[str]
) -> dict[str, Path | bytes]:
    """Make the files that a model directory has beside its tensors; say in `notes` what lacks."""
    if not config:
        architecture = str(metadata.get("general.architecture"))[:64]
        notes.append(
            f"no config.json and no tokenizer files: architecture {architecture!r} is not known, "
            "so tensors keep their GGUF names"
        )
        return {}
    made = tokenizer_files(metadata, notes.append)
    return {"config.json": (json.dumps(config, indent=2) + "\n").encode(), **made}
