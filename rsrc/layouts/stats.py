"""Mean and median magnitudes of the weights that share a scale.

A statistic is a float32 array: (1, 1) per tensor, (out_features, 1) per row, (out_features, groups)
per group of columns, of which the last may be narrower. Memory holds one panel of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _native
from ..source.tensor import SourceTensor
from .float_bits import FLOAT_BYTES, INFINITY, blocks, float_values, native_values, panels
from .scales import Per, Scales


def means(tensor: SourceTensor, per: Per, above: Scales | None = None) -> Scales:
    """Return mean magnitudes: sums in float64, each quotient rounded once to float32.

    Args:
        tensor: F32, F16 or BF16, (out_features, in_features).
        per: what to average over.
        above: a statistic; only magnitudes above it count. The mean of none is 0.

    Returns:
        The statistic; NaN or infinite where a weight is.
    """
    shape = _shape(tensor, per)
    sums, counts = np.zeros(shape, np.float64), np.zeros(shape, np.int64)
    is_native = above is None and not isinstance(per, int)
    for rows, bits in (panels if is_native else blocks)(tensor):
        at = slice(0, 1) if per == "tensor" else rows
        values = (native_values if is_native else float_values)(bits, tensor.dtype)
        for cells, to in _cells(values, per):
            here = sums[at, to].shape
            if above is None:
                counts[at, to] += cells.shape[1]
            else:
                cells = np.where(np.abs(cells) > above[at, to].reshape(-1, 1), cells, np.float32(0))
                counts[at, to] += np.count_nonzero(cells, axis=1).reshape(here)
            sums[at, to] += _sums(cells, per).reshape(here)
    return (sums / np.maximum(1, counts)).astype(np.float32)


def medians(tensor: SourceTensor, per: Per) -> Scales:
    """Return median magnitudes; of an even number, the lower of the two in the middle.

    The median of a whole tensor comes from a histogram of 2^16 counters at most: one pass over
    16-bit types, two over F32.

    Args:
        tensor: F32, F16 or BF16, (out_features, in_features).
        per: what to take the median of.

    Returns:
        The statistic; NaN or infinite where a weight is.
    """
    found = np.zeros(_shape(tensor, per), f"<u{FLOAT_BYTES[tensor.dtype]}")
    if per == "tensor":
        found[0, 0] = _tensor_median(tensor)
    else:
        for rows, bits in blocks(tensor):
            for cells, to in _cells(bits & _magnitude_mask(tensor), per):
                last = cells.shape[1] - 1
                ordered = np.partition(cells, sorted({last // 2, last}), axis=1)
                largest = ordered[:, last]
                finite = largest < INFINITY[tensor.dtype]
                median = np.where(finite, ordered[:, last // 2], largest)
                found[rows, to] = median.reshape(found[rows, to].shape)
    return float_values(found, tensor.dtype)


def _shape(tensor: SourceTensor, per: Per) -> tuple[int, int]:
    if per == "tensor":
        return 1, 1
    return tensor.shape[0], 1 if per == "row" else -(-tensor.shape[1] // per)


def _cells(matrix: npt.NDArray[Any], per: Per) -> Iterator[tuple[npt.NDArray[Any], slice]]:
    """Cut rows of a matrix into the cells that share a scale.

    Yields:
        An array (cells, weights per cell), and the columns of the statistic for these cells.
    """
    if not isinstance(per, int):
        yield matrix if per == "row" else matrix.reshape(1, -1), slice(0, 1)
        return
    whole, rest = divmod(matrix.shape[1], per)
    yield matrix[:, : whole * per].reshape(-1, per), slice(0, whole)
    if rest:
        yield matrix[:, whole * per :], slice(whole, whole + 1)


def _sums(cells: npt.NDArray[Any], per: Per) -> npt.NDArray[np.float64]:
    """Sum the magnitudes of each cell in float64.

    Tensors and rows share one code path: for a matrix of one row, both sums have the same bits.
    """
    if isinstance(per, int):
        result: npt.NDArray[np.float64] = np.abs(cells).sum(axis=1, dtype=np.float64)
        return result
    return np.array([_native.sum_of_magnitudes(cell) for cell in cells], np.float64)


def _magnitude_mask(tensor: SourceTensor) -> int:
    return (1 << 8 * FLOAT_BYTES[tensor.dtype] - 1) - 1


def _tensor_median(tensor: SourceTensor) -> int:
    """Return the bits of the lower median, or of infinity if some weight is not finite."""
    mask, shift = _magnitude_mask(tensor), 8 * FLOAT_BYTES[tensor.dtype] - 16
    upper = np.zeros(1 << 15, np.int64)
    for _, bits in blocks(tensor):
        upper += np.bincount((bits & mask).reshape(-1) >> shift, minlength=len(upper))
    if upper[INFINITY[tensor.dtype] >> shift :].any():
        return INFINITY[tensor.dtype]
    position = max(0, prod(tensor.shape) - 1) // 2
    ends = np.cumsum(upper)
    half = int(np.searchsorted(ends, position, side="right")) if ends[-1] else 0
    if not shift:
        return half
    position -= int(ends[half] - upper[half])
    lower = np.zeros(1 << 16, np.int64)
    for _, bits in blocks(tensor):
        magnitudes = bits & mask
        lower += np.bincount(magnitudes[magnitudes >> 16 == half] & 0xFFFF, minlength=len(lower))
    return half << 16 | int(np.searchsorted(np.cumsum(lower), position, side="right"))
