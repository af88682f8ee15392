"""Open a GGUF file as a checkpoint with the names, row order and config.json of Hugging Face."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import of_gguf
from rsr_formats.numerics import widen_bf16
from rsr_formats.text import counted, listed

from ...common.errors import SourceError
from ..checkpoint import Checkpoint
from ..rotation import PREFIX, read_basis
from ..tensor import SourceTensor
from ..wrong_file import unfinished_in
from .config import hf_config
from .names import hf_name, is_linear, permuted_heads
from .pooling import pooling_files
from .reader import Header, TensorInfo, Value, read_header
from .rope import ROPE_TENSORS
from .scales import exact_factors
from .tensor import GgufTensor, dequantized
from .tokenizer_files import tokenizer_files
from .types import GgmlType, resolve
from .value_heads import ValueHeads

_PART = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
_MAX_FACTORS = 1 << 15  # half of the largest head_dim
_FLOATS = ("F32", "F16", "BF16")
_MAX_DESCRIPTION = 1 << 16  # characters of a metadata string that is kept


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, or all parts of a split model if it is one of them.

    The checkpoint keeps the `general.*` metadata. If the architecture is known, it also has a
    config.json and tokenizer files made from the metadata.

    Raises:
        SourceError: a file is damaged or missing, or its contents are not supported.
    """
    headers = _read_parts(path)
    metadata = headers[0].metadata
    _refuse(path, metadata)
    architecture = str(metadata.get("general.architecture"))
    found = [info for header in headers for info in header.tensors]
    shapes = {info.name: info.shape for info in found}
    if len(shapes) < len(found):
        raise SourceError(f"{path}: two parts of the model have a tensor of the same name")
    types = {name: kind for header in headers for name, kind in resolve(header).items()}
    try:
        config = hf_config(metadata, shapes, _rope_tensors(found, types)) or {}
        exact = exact_factors(metadata)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    if "rope_scaling" in config:  # config.json replaces the tensors
        found = [info for info in found if info.name not in ROPE_TENSORS]
    declared = {key: value for key, value in metadata.items() if key.startswith(PREFIX)}
    basis = read_basis(declared, f"{path}: metadata", shapes) if declared else None
    factors = _scale_factors(found, types, architecture)
    converter = _Converter(architecture, metadata, set() if basis is None else basis.names)
    names: dict[str, str] = {}
    tensors: dict[str, SourceTensor] = {}
    for info in found:
        if info.name.removesuffix("scale") + "weight" in factors:
            continue
        names[info.name] = name = hf_name(info.name, architecture)
        if name in tensors:
            raise SourceError(f"{path}: tensor {name[:80]!r} occurs under two names")
        heads = _heads(info, types[info.name], architecture, config)
        factor = factors.get(info.name)
        if factor is None and types[info.name].codec is not None:
            factor = exact.get(info.name)
        tensor = _tensor(info, types[info.name], name, heads, factor)
        tensors[name] = converter.convert(tensor, info.name)
    notes: list[str] = []
    if factors:
        notes.append(f"multiplied by their .scale tensors: {counted(len(factors), 'weight')}")
    files = _model_files(metadata, config, notes)
    return Checkpoint(
        path,
        tensors,
        metadata=_description(metadata),
        files=files,
        notes=tuple(notes),
        basis=None if basis is None else basis.renamed(names),
    )


def first_parts(paths: list[Path]) -> list[Path]:
    """Return the files that are not later parts of a split model."""
    return [p for p in paths if not (part := _PART.fullmatch(p.name)) or int(part[2]) == 1]


def _read_parts(path: Path) -> list[Header]:
    """Read the headers of a model: of one file, or of all parts if the file is one of them."""
    named = read_header(path)
    count = named.metadata.get("split.count", 1)
    name = _PART.fullmatch(path.name)
    if not isinstance(count, int) or count <= 1:
        if name is not None and int(name[3]) > 1:
            raise SourceError(
                f"{path}: part {int(name[2])} of {int(name[3])} by its name, but not by its "
                "metadata (split.count): download all parts again, or rename the file if it is a "
                "whole model"
            )
        return [named]
    if name is None or int(name[3]) != count:
        raise SourceError(
            f"{path}: one of {count} parts, which must be named NAME-00001-of-{count:05}.gguf "
            "and so on: rename them, or merge them with llama-gguf-split --merge"
        )
    parts = [path.with_name(f"{name[1]}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    missing = [p.name for p in parts if not p.is_file()]
    if missing:
        raise SourceError(
            f"{path}: {len(missing)} of {count} parts missing: {listed(missing)}; "
            + (unfinished_in(path.parent) or "download them")
        )
    headers = []
    for i, part in enumerate(parts):
        header = named if part == path else read_header(part)
        found = header.metadata.get("split.no"), header.metadata.get("split.count")
        if not (_equals(found[0], i) and _equals(found[1], count)):
            raise SourceError(
                f"{part}: its metadata says part {str(found[0])[:20]} of {str(found[1])[:20]} "
                f"(counted from 0), expected {i} of {count}"
            )
        headers.append(header)
    return headers


def _equals(value: Value, expected: Value) -> bool:
    """Compare type and value; == on arrays would compare element by element."""
    return type(value) is type(expected) and bool(value == expected)


def _refuse(path: Path, metadata: Mapping[str, Value]) -> None:
    """Reject files whose weights alone are not a model."""
    if _equals(metadata.get("general.type"), "adapter"):
        raise SourceError(
            f"{path}: a LoRA adapter, not a model: compile its base model, and run that with "
            "--lora DIR, the folder of PEFT (adapter_config.json, adapter_model.safetensors) that "
            "this file was converted from"
        )


def _heads(
    info: TensorInfo, kind: GgmlType, architecture: str, config: Mapping[str, Any]
) -> int | None:
    """Return over how many heads the file permutes a tensor's rows, None if it does not."""
    heads, kv_heads = (config.get(f"num_{k}_heads", 0) for k in ("attention", "key_value"))
    found = permuted_heads(info.name, architecture, heads, kv_heads)
    if found is None:
        return None
    what = f"{info.path}: rows of {info.name!r} are permuted by heads (architecture {architecture})"
    if len(info.shape) not in (1, 2):
        raise SourceError(f"{what}, but it has {len(info.shape)} dimensions")
    if not found or info.shape[0] % (2 * found):
        raise SourceError(
            f"{what}, but {info.shape[0]} rows are not a multiple of 2 x {found} heads"
        )
    if kind.is_flat and info.shape[-1] % kind.block:
        raise SourceError(f"{what}, but blocks of {kind.name} straddle rows")
    return found


class _Converter:
    """Makes tensors those of Hugging Face where GGUF files store other values or orders."""

    def __init__(
        self, architecture: str, metadata: Mapping[str, Value], rotated: Container[str]
    ) -> None:
        self._known = of_gguf(architecture)
        self._rotated = rotated
        self._heads = None
        if self._known is not None:
            self._heads = ValueHeads.of_metadata(metadata, f"{architecture}.")

    def convert(self, tensor: GgufTensor, gguf_name: str) -> GgufTensor:
        """Return the tensor as Hugging Face has it.

        Raises:
            SourceError: its shape or type does not fit the metadata.
        """
        known, heads = self._known, self._heads
        if known is None:
            return tensor
        if known.is_zero_centered(tensor.name.removeprefix("model.")):
            tensor = dequantized(replace(tensor, value="x - 1"))
        if tensor.name.endswith(".A_log"):
            tensor = dequantized(replace(tensor, value="log(-x)"))
        if heads is None:
            return tensor
        shape = tensor.shape
        if tensor.name.endswith(".conv1d.weight") and len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        rows = heads.rows(gguf_name)
        # In a rotated basis, columns are in the order of Hugging Face (see rotation.py).
        columns = None if gguf_name in self._rotated else heads.columns(gguf_name)
        if rows is not None and (not shape or shape[0] != rows.total):
            raise _unfit(tensor, gguf_name, f"{rows.total} rows")
        if columns is not None and shape[1:] != (columns.total,):
            raise _unfit(tensor, gguf_name, f"{columns.total} columns")
        kind = tensor.kind
        if rows is not None and kind.is_flat and shape[-1] % kind.block:
            raise _unfit(tensor, gguf_name, f"rows of whole blocks of {kind.name}")
        if columns is not None and (columns.size % kind.block or kind.row_header):
            tensor = dequantized(tensor)
        return replace(tensor, shape=shape, rows=rows, columns=columns)


def _unfit(tensor: GgufTensor, gguf_name: str, expected: str) -> SourceError:
    return SourceError(
        f"{tensor.path}: {gguf_name!r} is {list(tensor.shape)}, but its value heads (metadata "
        f"ssm.*) need {expected}"
    )


def _rope_tensors(
    found: list[TensorInfo], types: Mapping[str, GgmlType]
) -> dict[str, npt.NDArray[np.float32]]:
    """Read the tensors that scale RoPE."""
    result = {}
    for info in found:
        if info.name not in ROPE_TENSORS:
            continue
        if len(info.shape) != 1 or info.shape[0] > _MAX_FACTORS:
            raise SourceError(f"{info.name} is {list(info.shape)}, expected at most {_MAX_FACTORS}")
        result[info.name] = _floats(info, types[info.name])
    return result


def _scale_factors(
    found: list[TensorInfo], types: Mapping[str, GgmlType], architecture: str
) -> dict[str, float]:
    """Read the factors of weights, by the GGUF name of the weight.

    As in llama.cpp, a linear layer of any architecture may have one, a tensor NAME.scale.
    """
    if of_gguf(architecture) is None:
        return {}
    names = {info.name for info in found}
    factors = {}
    for info in found:
        weight = info.name.removesuffix("scale") + "weight"
        if not info.name.endswith(".scale") or weight not in names or not is_linear(weight):
            continue
        if types[weight].dtype not in (None, *_FLOATS):
            raise SourceError(
                f"{info.path}: {weight!r} is {types[weight].name}, but {info.name!r} multiplies "
                "it: expected floats or blocks"
            )
        if prod(info.shape) != 1:
            raise SourceError(
                f"{info.path}: {info.name!r} is {list(info.shape)}, expected one number, the "
                "factor of a weight"
            )
        factor = float(_floats(info, types[info.name])[0])
        if not isfinite(factor):
            raise SourceError(f"{info.path}: {info.name!r} is {factor}, expected a finite number")
        factors[weight] = factor
    return factors


def _floats(info: TensorInfo, kind: GgmlType) -> npt.NDArray[np.float32]:
    """Read a small tensor of plain floats as float32, (elements,)."""
    if kind.dtype not in _FLOATS:
        raise SourceError(f"{info.path}: {info.name!r} is {kind.name}, expected floats")
    raw = _tensor(info, kind, info.name, None).read()
    if kind.dtype == "BF16":
        return widen_bf16(raw.view("<u2"))
    return raw.view("<f4" if kind.dtype == "F32" else "<f2").astype(np.float32)


def _tensor(
    info: TensorInfo, kind: GgmlType, name: str, heads: int | None, factor: float | None = None
) -> GgufTensor:
    dtype, nbytes = kind.dtype or kind.name, kind.nbytes(info.shape)
    tensor = GgufTensor(
        name, dtype, info.shape, info.path, info.offset, nbytes, kind, heads, factor
    )
    is_plain = kind.dtype is not None and factor is None
    return tensor if is_plain or kind.codec else dequantized(tensor)


def _description(metadata: Mapping[str, Value]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith("general.") and isinstance(value, str) and len(value) <= _MAX_DESCRIPTION
    }


def _model_files(
    metadata: Mapping[str, Value], config: dict[str, Any], notes: list[str]
) -> dict[str, Path | bytes]:
    """Make config.json and the tokenizer files; explain in `notes` what could not be made."""
    if not config:
        name = metadata.get("general.architecture")
        why = (
            f"architecture {name[:64]!r} is unknown"
            if isinstance(name, str)
            else "general.architecture is missing or not a string"
        )
        notes.append(
            f"no config.json and no tokenizer files: {why}, so tensors keep their GGUF names"
        )
        return {}
    made = tokenizer_files(metadata, notes.append)
    made |= pooling_files(metadata, config.get("hidden_size"), notes.append)
    return {"config.json": (json.dumps(config, indent=2) + "\n").encode(), **made}
