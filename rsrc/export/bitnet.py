"""The `bitnet` layout of Hugging Face: four rows to a byte, and `<name>_scale`: layouts/bitnet.py.

config.json says what the scale means. Where it does already (an offline `quantization_config`),
that stays. Otherwise layers are made `autobitlinear`, which multiplies: then the scale is stored as
it is, while 1 / scale, which `bitlinear` divides by, may have no float. But `autobitlinear` scales
a bias too (transformers, integrations/bitnet.py), so models with biases become `bitlinear`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.records import FLOAT_DTYPES, IndexedTensor
from rsr_formats.text import quoted

from ..common.errors import ExportError
from ..layouts.base import Bytes
from ..layouts.float_bits import from_float32, to_float32
from ..source.quantization import HEADS, Quantization
from .floats import SMALLEST_FIRST, as_floats, holds
from .tensors import (
    Config,
    Export,
    OutputTensor,
    as_bytes,
    decode,
    exported,
    of_array,
    of_dense,
    of_source,
    read_scales,
    row_windows,
    source_dtype,
)

# Embeddings: transformers makes no BitLinear of them. Of heads, config.json decides.
_EMBEDDINGS = ("*embed*", "*wte*", "*wpe*")
_ROWS_PER_BYTE = 4


def export(file: RsrFile, config: Config | None) -> Export:
    """Return matrices packed with their scales; embeddings and heads as floats; others as they are.

    Raises:
        ExportError: a matrix has several scales, or one that this layout cannot express; or there
            is no matrix to pack.
        SourceError: config.json has a `modules_to_not_convert` that cannot be followed.
    """
    said = Quantization({"quantization_config": _said(config)})
    packed = [
        t for t in file.header.tensors if isinstance(t, IndexedTensor) and _is_packed(t, said)
    ]
    if not packed:
        raise ExportError(f"{file.path}: no matrix of it is a linear layer that could be packed")
    quantization = _quantization(file, config, packed)
    divide = quantization["linear_class"] == "bitlinear"
    _check_rows(packed, divide)
    scales = _stored_scales(file, packed, divide)
    tensors: list[OutputTensor] = []
    notes = []
    for t in exported(file):
        if not isinstance(t, IndexedTensor):
            tensors.append(of_dense(file, t))
        elif t.name not in scales:
            tensors.append(as_floats(file, t))
            notes.append(t.name)
        else:
            tensors += [_packed(file, t), scales[t.name]]
    text = [f"written as floats, being no linear layers: {quoted(notes)}"] if notes else []
    new_config = _new_config(config, quantization)
    if new_config is not None:
        text.append(
            f"weight_scale {'divides' if divide else 'multiplies'}: config.json now says "
            f"linear_class {quantization['linear_class']!r} of quant_method 'bitnet'"
        )
    metadata = {**file.header.metadata, "format": "pt"}
    return Export(tensors, new_config, metadata, text)


def _is_packed(t: IndexedTensor, said: Quantization) -> bool:
    if t.source.layout in ("bitnet", "bitnet-unpacked"):
        return True
    module, _, parameter = t.name.rpartition(".")
    if module and parameter != "weight":  # such as ParetoQ's weight_clip_val
        return False
    if any(fnmatchcase(t.name.lower(), pattern) for pattern in _EMBEDDINGS):
        return False
    return said.converts(t.name)


# --- config.json --------------------------------------------------------------------------------


def _quantization(
    file: RsrFile, config: Config | None, packed: Sequence[IndexedTensor]
) -> dict[str, object]:
    """Return the `quantization_config` under which the tensors mean what they mean here."""
    before = _said(config)
    names = {t.name for t in file.header.tensors}
    if before and before.get("quantization_mode", "offline") == "offline":
        linear_class = before.get("linear_class", "bitlinear")
        if linear_class not in ("bitlinear", "autobitlinear"):
            raise ExportError(f"config.json: linear_class is {str(linear_class)[:64]!r}")
    else:
        biased = any(_module(t.name) + ".bias" in names for t in packed)
        linear_class = "bitlinear" if biased else "autobitlinear"
    quantization = {
        **before,
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": "offline",
    }
    kept = before.get("modules_to_not_convert")
    floats = _float_layers(file, {t.name for t in packed})
    said = Quantization({"quantization_config": before})
    dense = [name for name in floats if said.converts(f"{name}.weight")]
    if dense and isinstance(kept, list):
        quantization["modules_to_not_convert"] = [*kept, *dense]
    elif dense:  # a list replaces transformers' own, which has the output head
        heads = [name for name in floats if name.rpartition(".")[2].lower() in HEADS]
        quantization["modules_to_not_convert"] = list(dict.fromkeys(["lm_head", *heads, *dense]))
    return quantization


def _said(config: Config | None) -> Config:
    """Return the `quantization_config` if it is BitNet's, else {}."""
    found = (config or {}).get("quantization_config")
    return found if isinstance(found, dict) and found.get("quant_method") == "bitnet" else {}


def _float_layers(file: RsrFile, packed: set[str]) -> list[str]:
    """Return the modules with a matrix that is written as floats."""
    return [
        _module(t.name)
        for t in of_source(file)
        if t.name not in packed
        and len(t.shape) == 2
        and (isinstance(t, IndexedTensor) or source_dtype(t) in FLOAT_DTYPES)
        and t.name.endswith(".weight")
    ]


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _new_config(config: Config | None, quantization: dict[str, object]) -> Config | None:
    """Return config.json with the settings in it, or None if it says the same already."""
    if config is None:
        return {"quantization_config": quantization}
    before = config.get("quantization_config")
    defaults = {"linear_class": "bitlinear", "quantization_mode": "offline"}
    if isinstance(before, dict) and {**defaults, **before} == quantization:
        return None
    kept = {key: value for key, value in config.items() if key != "quantization"}  # that of MLX
    return {**kept, "quantization_config": quantization}


# --- scales -------------------------------------------------------------------------------------


def _stored_scales(
    file: RsrFile, packed: Sequence[IndexedTensor], divide: bool
) -> dict[str, OutputTensor]:
    """Return the tensor `<name>_scale` of each matrix.

    Raises:
        ExportError: names the matrices that have several scales, or one no float expresses.
    """
    several, negative, inexact = [], [], []
    scales = {}
    for t in packed:
        grid = read_scales(file, t)
        values = np.ones(1, np.float32) if grid is None else np.unique(grid.values)
        if len(values) > 1:
            several.append(t.name)
            continue
        scale = values[0] if len(values) else np.float32(1)
        if scale == 0:
            scale = np.float32(1)  # of zeros alone; readers want a positive one
        stored = _reciprocal(scale) if divide else scale
        if scale < 0:
            negative.append(t.name)
        elif stored is None:
            inexact.append(t.name)
        else:
            scales[t.name] = _scale_tensor(t.name, stored)
    if several:
        raise ExportError(
            "the bitnet layout has one scale per matrix, and there are several for "
            f"{quoted(several)}: write them with --to int8, --to float or --to gguf"
        )
    if negative:
        raise ExportError(f"the bitnet layout has positive scales only: {quoted(negative)}")
    if inexact:
        raise ExportError(
            "layers are bitlinear, which divides by weight_scale, and no float32 gives the scale "
            f"of {quoted(inexact)} that way: write them with --to int8, --to float or --to gguf"
        )
    return scales


def _reciprocal(scale: np.float32) -> np.float32 | None:
    """Return the float of fewest bits that 1 is divided by to give `scale`, if there is one."""
    one = np.float32(1)
    with np.errstate(over="ignore", divide="ignore"):
        near = one / scale
        around = [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))]
        short = [
            to_float32(from_float32(near.reshape(1), d).view(np.uint8), d)[0]
            for d in SMALLEST_FIRST
        ]
        candidates = [*short, *around]
        return next((v for v in candidates if np.isfinite(v) and v > 0 and one / v == scale), None)


def _scale_tensor(name: str, value: np.float32) -> OutputTensor:
    values = value.reshape(1)
    dtype = next(dtype for dtype in SMALLEST_FIRST if holds(dtype, values))
    return of_array(f"{name}_scale", dtype, from_float32(values, dtype))


# --- codes --------------------------------------------------------------------------------------


def _check_rows(packed: Sequence[IndexedTensor], divide: bool) -> None:
    uneven = [t.name for t in packed if t.shape[0] % _ROWS_PER_BYTE]
    if divide and uneven:
        raise ExportError(
            "bitlinear layers have a multiple of 4 rows, which this has not: " + quoted(uneven)
        )


def _packed(file: RsrFile, t: IndexedTensor) -> OutputTensor:
    """Return codes in bytes; for rows that are no multiple of 4, floats, as transformers reads."""
    if t.shape[0] % _ROWS_PER_BYTE:
        return OutputTensor(t.name, "BF16", t.shape, partial(_unpacked_windows, file, t))
    shape = (t.shape[0] // _ROWS_PER_BYTE, t.shape[1])
    return OutputTensor(t.name, "U8", shape, partial(_packed_windows, file, t))


def _values(file: RsrFile, t: IndexedTensor) -> npt.NDArray[np.int8]:
    """Return what each digit stands for: nothing, where the scale is 0."""
    grid = read_scales(file, t)
    zero = grid is not None and not grid.values.any()
    return np.array([0] * len(t.digits) if zero else t.digits, np.int8)


def _packed_windows(file: RsrFile, t: IndexedTensor) -> Iterator[Bytes]:
    digits = decode(file, t).digits
    codes = (_values(file, t) + 1).astype(np.uint8)
    quarter = t.shape[0] // _ROWS_PER_BYTE
    for rows in row_windows((quarter, t.shape[1])):
        packed = codes[digits[rows]]
        for i in range(1, _ROWS_PER_BYTE):
            window = digits[i * quarter + rows.start : i * quarter + rows.stop]
            packed |= codes[window] << np.uint8(2 * i)
        yield as_bytes(packed)


def _unpacked_windows(file: RsrFile, t: IndexedTensor) -> Iterator[Bytes]:
    digits = decode(file, t).digits
    values = from_float32(_values(file, t).astype(np.float32), "BF16")
    for rows in row_windows(t.shape):
        yield as_bytes(values[digits[rows]])
