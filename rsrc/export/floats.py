"""The "float" form: every matrix as digit * scale, which any software reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.records import FLOAT_DTYPES, IndexedTensor

from ..common.arrays import ByteArray
from ..layouts.float_bits import from_float32, row_blocks, to_float32
from ..source.tensor import PIECE
from .model_files import Config, without_packing
from .self_quantizing import without_self_quantizing
from .tensors import Export, OutputTensor, as_bytes, convert_matrices, decode, read_scales

BY_SIZE = ("BF16", "F16", "F32")  # BF16 first: most checkpoints have it


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every matrix as digit * scale, exactly; dense tensors are unchanged.

    config.json loses its settings for packed weights, and those that make a model quantize its
    weights itself: it would quantize these again, with smaller scales.
    """
    tensors = convert_matrices(file, lambda t: [as_floats(file, t)])
    return Export(tensors, without_self_quantizing(without_packing(file, config)))


def as_floats(file: RsrFile, t: IndexedTensor) -> OutputTensor:
    """Return a matrix as digit * scale, with its negative zeros."""
    dtype = float_dtype(file, t)
    return OutputTensor(t.name, dtype, t.shape, partial(_pieces, file, t, dtype))


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


def _pieces(file: RsrFile, t: IndexedTensor, dtype: str) -> Iterator[ByteArray]:
    r = decode(file, t)
    negative = r.negative_zero_mask()
    for rows in row_blocks(t.shape, PIECE):
        values = r.weights(rows) + np.float32(0)  # -1 * 0.0 and 0 * -s are -0.0
        if negative is not None:
            values[negative[rows]] = -0.0
        yield as_bytes(from_float32(values, dtype))
