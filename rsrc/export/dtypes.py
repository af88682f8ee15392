"""Float dtypes: the smallest that holds values exactly, and one for all tensors of a model.

transformers loads a model in the dtype that its config.json names, or in that of its first tensors.
It casts the tensors of most models, but those of packed ones keep their own dtypes, and PyTorch
multiplies no float16 by a float32 matrix. So an exported model has one dtype, which its config.json
names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from rsr_formats.records import FLOAT_DTYPES

from ..common.arrays import ByteArray
from ..layouts.float_bits import from_float32, to_float32
from ..source.tensor import PIECE
from .model_files import Config
from .tensors import Export, OutputTensor, as_bytes

BY_SIZE = ("BF16", "F16", "F32")  # BF16 first: most checkpoints have it
_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # in config.json
_KEYS = ("dtype", "torch_dtype")  # of transformers 5 and 4


def holds(dtype: str, values: npt.NDArray[np.float32]) -> bool:
    """Return whether F32, F16 or BF16 holds float32 values exactly."""
    values = np.ascontiguousarray(values).reshape(-1)
    rounded = to_float32(from_float32(values, dtype).view(np.uint8), dtype)
    return bool((rounded.view(np.uint32) == values.view(np.uint32)).all())


def smallest(values: npt.NDArray[np.float32], *preferred: str) -> str:
    """Return the first dtype that holds all values: of `preferred`, else the smallest."""
    return next(dtype for dtype in (*preferred, *BY_SIZE) if holds(dtype, values))


def with_one_dtype(export: Export, before: Config | None) -> Export:
    """Return a model with one dtype for all floats, which its config.json names.

    It is the smallest of their dtypes that holds all of them exactly, or F32. A config.json that
    the form has not changed is left as it is if it names no dtype and all tensors have the same.

    Args:
        export: the model in its form.
        before: the config.json of the `.rsr` file; None if it has none and is not a whole model.
    """
    config = export.config
    floats = [t for t in export.tensors if t.dtype in FLOAT_DTYPES]
    if before is None or config is None or not floats:
        return export
    floats.sort(key=lambda t: t.nbytes)  # a small tensor that does not fit saves reading large ones
    found = {t.dtype for t in floats}
    candidates = [dtype for dtype in BY_SIZE if dtype in found]
    target = next((d for d in candidates if all(_fits(t, d) for t in floats)), "F32")
    tensors = [_cast(t, target) if t.dtype in FLOAT_DTYPES else t for t in export.tensors]
    named = config.get("dtype", config.get("torch_dtype"))
    if named is None and config is before and found == {target}:
        return export
    notes = [*export.notes]
    if named != _NAMES[target] and isinstance(named, str) and named in _NAMES.values():
        notes.append(
            f"float tensors are written as {_NAMES[target]}, which holds all of them exactly, "
            f"and config.json now says so: it said {named}"
        )
    return replace(export, tensors=tensors, config=_named(config, _NAMES[target]), notes=notes)


def _named(config: Config, dtype: str) -> Config:
    """Return config.json with the dtype in it: itself if it has it already."""
    keys = [key for key in _KEYS if key in config] or ["torch_dtype"]  # which both versions read
    if all(config.get(key) == dtype for key in keys):
        return config
    return {**config, **dict.fromkeys(keys, dtype)}


def _fits(t: OutputTensor, dtype: str) -> bool:
    if t.dtype == dtype:
        return True
    if t.magnitudes is not None:
        return holds(dtype, t.magnitudes)
    return all(holds(dtype, values) for values in _values(t))


def _cast(t: OutputTensor, dtype: str) -> OutputTensor:
    return t if t.dtype == dtype else replace(t, dtype=dtype, pieces=partial(_pieces, t, dtype))


def _pieces(t: OutputTensor, dtype: str) -> Iterator[ByteArray]:
    for values in _values(t):
        yield as_bytes(from_float32(values, dtype))


def _values(t: OutputTensor) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the values of a float tensor, at most `PIECE` bytes of it at a time."""
    for data in t.pieces():
        for start in range(0, len(data), PIECE):
            yield to_float32(data[start : start + PIECE], t.dtype)
