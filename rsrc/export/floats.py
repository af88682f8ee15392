"""The "float" form: every matrix as digit * scale, which any software reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.decode import apply_scales
from rsr_formats.records import FLOAT_DTYPES, IndexedTensor

from ..layouts.base import Bytes, Restored
from ..layouts.float_bits import from_float32, to_float32
from .model_files import Config, without_packing
from .self_quantizing import without_self_quantizing
from .tensors import (
    Export,
    OutputTensor,
    as_bytes,
    convert_matrices,
    decode,
    read_scales,
    row_windows,
)

BY_SIZE = ("BF16", "F16", "F32")  # BF16 first: most checkpoints have it


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every matrix as digit * scale, exactly; dense tensors are unchanged.

    config.json loses its settings for packed weights, and those that make a model quantize its
    weights itself: it would quantize these again, with smaller scales.
    """
    tensors = convert_matrices(file, lambda t: [as_floats(file, t)])
    unpacked = without_packing(file, config)
    plain = without_self_quantizing(config if unpacked is None else unpacked)
    return Export(tensors, unpacked if plain is None else plain)


def as_floats(file: RsrFile, t: IndexedTensor) -> OutputTensor:
    """Return a matrix as digit * scale, with its negative zeros."""
    dtype = float_dtype(file, t)
    return OutputTensor(t.name, dtype, t.shape, partial(_windows, file, t, dtype))


def float_dtype(file: RsrFile, t: IndexedTensor) -> str:
    """Return the source's dtype if it is a float that holds every scale exactly, else the smallest.

    A quantized matrix has scales that the source's dtype may not hold.
    """
    grid = read_scales(file, t)
    values = np.ones(1, np.float32) if grid is None else grid.values
    preferred = [t.source.dtype] if t.source.dtype in FLOAT_DTYPES else []
    return next(dtype for dtype in (*preferred, *BY_SIZE) if holds(dtype, values))


def holds(dtype: str, values: npt.NDArray[np.float32]) -> bool:
    """Return whether F32, F16 or BF16 holds float32 values exactly."""
    rounded = from_float32(np.ascontiguousarray(values).reshape(-1), dtype)
    return bool((to_float32(rounded.view(np.uint8), dtype) == values.reshape(-1)).all())


def _windows(file: RsrFile, t: IndexedTensor, dtype: str) -> Iterator[Bytes]:
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
        values += 0.0  # makes +0.0 of the -0.0 that -1 * 0.0 and 0 * -s give
    return values


class _NegativeZeros:
    """Restores the signs of zeros in consecutive windows of rows."""

    def __init__(self, r: Restored) -> None:
        self._bitmap = r.negative_zeros
        self._zero_digit = None if r.negative_zeros is None else r.record.digits.index(0)
        self._done = 0  # zeros in previous windows

    def restore(self, digits: npt.NDArray[np.uint8], values: npt.NDArray[np.generic]) -> None:
        if self._bitmap is None:
            return
        zeros = np.flatnonzero(digits.reshape(-1) == self._zero_digit)
        first, stop = self._done // 8, -(-(self._done + len(zeros)) // 8)
        bits = np.unpackbits(self._bitmap[first:stop], bitorder="little")
        signs = bits[self._done - 8 * first :][: len(zeros)]
        self._done += len(zeros)
        flat = values.reshape(-1).view(f"<u{values.itemsize}")
        flat[zeros[signs != 0]] = 1 << (8 * values.itemsize - 1)
