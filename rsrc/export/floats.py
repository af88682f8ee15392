"""Plain floats: what the matrices mean, as any software reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.decode import apply_scales
from rsr_formats.records import FLOAT_DTYPES, DenseTensor, IndexedTensor

from ..layouts.base import Bytes, Restored
from ..layouts.float_bits import from_float32, to_float32
from ..layouts.paretoq import is_ternary_paretoq
from ..layouts.self_quantizing import config_evidence
from .tensors import (
    Config,
    Export,
    OutputTensor,
    as_bytes,
    decode,
    exported,
    of_dense,
    read_scales,
    row_windows,
)

SMALLEST_FIRST = ("BF16", "F16", "F32")


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every matrix as digit * scale, exactly, and what else there is as it is.

    What config.json says of quantized weights goes: there are none any more. So does what makes a
    model quantize its weights itself, as far as config.json does: the scales would shrink.
    """
    tensors = [
        of_dense(file, t) if isinstance(t, DenseTensor) else as_floats(file, t)
        for t in exported(file)
    ]
    metadata = {**file.header.metadata, "format": "pt"}
    new_config = without_quantization(file, config)
    found = config if new_config is None else new_config
    gone = []
    if found is not None and config_evidence(found) is not None:
        gone.append("weight_bits")  # 1bitLLM's: what quantization_config said is gone
    if found is not None and is_ternary_paretoq(found):
        gone.append("w_bits")
    if found is not None and gone:
        new_config = {key: value for key, value in found.items() if key not in gone}
    return Export(tensors, new_config, metadata)


def as_floats(file: RsrFile, t: IndexedTensor) -> OutputTensor:
    """Return a matrix as digit * scale, with its negative zeros."""
    dtype = float_dtype(file, t)
    return OutputTensor(t.name, dtype, t.shape, partial(float_windows, file, t, dtype))


def float_dtype(file: RsrFile, t: IndexedTensor) -> str:
    """Return the source's dtype if that is a float which holds every scale, else the smallest."""
    grid = read_scales(file, t)
    values = np.ones(1, np.float32) if grid is None else grid.values
    own = [t.source.dtype] if t.source.dtype in FLOAT_DTYPES else []
    return next(dtype for dtype in (*own, *SMALLEST_FIRST) if holds(dtype, values))


def holds(dtype: str, values: npt.NDArray[np.float32]) -> bool:
    """Return whether F32, F16 or BF16 holds float32 values exactly."""
    rounded = from_float32(np.ascontiguousarray(values).reshape(-1), dtype)
    return bool((to_float32(rounded.view(np.uint8), dtype) == values.reshape(-1)).all())


def float_windows(file: RsrFile, t: IndexedTensor, dtype: str) -> Iterator[Bytes]:
    """Yield the bytes of digit * scale, some rows at a time."""
    r = decode(file, t)
    zeros = _NegativeZeros(r)
    for rows in row_windows(t.shape):
        values = from_float32(row_values(r, rows), dtype)
        zeros.restore(r.digits[rows], values)
        yield as_bytes(values)


def row_values(r: Restored, rows: slice | npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Return digit * scale of some rows, float32 (rows, in_features); every zero is +0.0."""
    values = np.array(r.record.digits, np.float32)[r.digits[rows]]
    if r.scale is not None:
        scale = r.scale if len(r.scale) == 1 and r.scale.ndim == 1 else r.scale[rows]
        apply_scales(r.record, values, scale)
        values += 0.0  # -1 * 0.0 and 0 * -s are -0.0
    return values


class _NegativeZeros:
    """Puts back the signs of zeros, windows of rows in order."""

    def __init__(self, r: Restored) -> None:
        self._bitmap = r.negative_zeros
        self._zero = None if r.negative_zeros is None else r.record.digits.index(0)
        self._done = 0  # zeros in the windows before

    def restore(self, digits: npt.NDArray[np.uint8], values: npt.NDArray[np.generic]) -> None:
        if self._bitmap is None:
            return
        zeros = np.flatnonzero(digits.reshape(-1) == self._zero)
        first, stop = self._done // 8, -(-(self._done + len(zeros)) // 8)
        bits = np.unpackbits(self._bitmap[first:stop], bitorder="little")
        signs = bits[self._done - 8 * first :][: len(zeros)]
        self._done += len(zeros)
        flat = values.reshape(-1).view(f"<u{values.itemsize}")
        flat[zeros[signs != 0]] = 1 << (8 * values.itemsize - 1)


def without_quantization(file: RsrFile, config: Config | None) -> Config | None:
    """Return config.json without what it says of packed weights, or None: it says nothing."""
    if config is None:
        return None
    gone: Sequence[str] = ()
    found = config.get("quantization_config")
    if isinstance(found, dict) and found.get("quant_method") == "bitnet":
        gone = ("quantization_config",)
    elif any(
        isinstance(t, IndexedTensor) and t.source.layout == "mlx" for t in file.header.tensors
    ):
        gone = ("quantization_config", "quantization")  # MLX writes both
    if not any(key in config for key in gone):
        return None
    return {key: value for key, value in config.items() if key not in gone}
