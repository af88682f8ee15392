"""Statistics of the magnitudes that share a scale: of a tensor, of its rows, of groups in them.

A statistic is an array: (1, 1) for a tensor, (out_features, 1) for rows, (out_features, groups) for
groups of columns, of which the last may be shorter. Only a panel of rows is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rsr_formats.bf16 import widen_bf16
from rsr_formats.records import IndexedTensor

from .. import _native
from ..common.errors import OptionError
from ..source.tensor import SourceTensor
from .base import FLOATS, Scales
from .floats import row_panels
from .groups import Bits
from .scales import ScaleGrid

Per = Literal["tensor", "row"] | int  # what has a scale of its own; int: so many columns of a row

BLOCK = 1 << 16  # weights taken at a time: what is made of them stays in the processor's cache

_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}


def parse_per(text: str) -> Per:
    """Return what `--per` names.

    Raises:
        OptionError: it is neither "tensor" nor "row" nor "group:N" with N of 1 or more.
    """
    if text == "tensor":
        return "tensor"
    if text == "row":
        return "row"
    kind, _, columns = text.partition(":")
    plain = columns.isascii() and columns.isdecimal() and len(columns) < 10
    if kind == "group" and plain and int(columns):
        return int(columns)
    raise OptionError(
        f"per: found {text[:64]!r}, expected tensor, row or group:N with N columns, 1 or more"
    )


def per_of(record: IndexedTensor) -> Per:
    """Return what has a scale of its own by the record of a `.rsr` file."""
    if record.scale is None or (record.scale.columns is None and _is_one(record)):
        return "tensor"
    return record.scale.columns or "row"


def _is_one(record: IndexedTensor) -> bool:
    return record.scale is not None and record.scale.rows >= record.shape[0]


def narrowed(per: Per, columns: int) -> Per:
    """Return `per` for rows of `columns` columns: a group no narrower than a row is the row."""
    return "row" if isinstance(per, int) and per >= columns else per


def scale_grid(scales: Scales, per: Per, rows: int) -> ScaleGrid:
    """Return scales, a statistic of a matrix of `rows` rows, as the grid they are."""
    if per == "tensor":
        return ScaleGrid(scales, max(1, rows))
    return ScaleGrid(scales, 1, None if per == "row" else per)


def spread(statistic: Scales, per: Per, rows: slice, columns: slice) -> Scales:
    """Return the entry that belongs to each weight of a window, to be broadcast over it."""
    if per == "tensor":
        return statistic
    if per == "row":
        return statistic[rows]
    first = columns.start // per
    wide = np.repeat(statistic[rows, first : -(-columns.stop // per)], per, axis=1)
    return wide[:, columns.start - first * per : columns.stop - first * per]


def native_values(bits: Bits, dtype: str) -> Bits | Scales:
    """Return bit patterns as native code takes values: BF16 as it is, F32, and F16 as float32."""
    return bits if dtype == "BF16" else float_values(bits, dtype)


def float_values(bits: Bits, dtype: str) -> Scales:
    """Return bit patterns of a float type as float32, exactly; of F32 as a view."""
    if dtype == "BF16":
        return widen_bf16(bits)
    return bits.view(np.float32) if dtype == "F32" else bits.view(np.float16).astype(np.float32)


def panels(tensor: SourceTensor) -> Iterator[tuple[slice, Bits]]:
    """Read a float matrix in panels of whole rows: which rows, and their bit patterns."""
    first = 0
    for panel in row_panels(tensor):
        bits = panel.view(f"<u{FLOATS[tensor.dtype]}").reshape(-1, tensor.shape[1])
        yield slice(first, first + len(bits)), bits
        first += len(bits)


def blocks(tensor: SourceTensor) -> Iterator[tuple[slice, Bits]]:
    """Read a float matrix as `panels` does, in blocks of rows with about `BLOCK` weights."""
    step = max(1, BLOCK // max(1, tensor.shape[1]))
    for rows, bits in panels(tensor):
        for first in range(0, len(bits), step):
            block = bits[first : first + step]
            start = rows.start + first
            yield slice(start, start + len(block)), block


def means(tensor: SourceTensor, per: Per, above: Scales | None = None) -> Scales:
    """Return mean magnitudes, float32: sums in float64, their quotients rounded once.

    Args:
        tensor: F32, F16 or BF16, (out_features, in_features).
        per: what to average over.
        above: a statistic; only magnitudes above it count. The mean of nothing is 0.

    Returns:
        The statistic; NaN or infinite where a weight is.
    """
    shape = _shape(tensor, per)
    sums, counts = np.zeros(shape, np.float64), np.zeros(shape, np.int64)
    plain = above is None and not isinstance(per, int)
    for rows, bits in (panels if plain else blocks)(tensor):
        at = slice(0, 1) if per == "tensor" else rows
        values = (native_values if plain else float_values)(bits, tensor.dtype)
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
    """Return median magnitudes, float32: of an even number the lower of the two in the middle.

    That of a whole tensor is counted out: in one pass over 16-bit types and two over F32, with
    2^16 counters however large the tensor is.

    Returns:
        The statistic; NaN or infinite where a weight is.
    """
    found = np.zeros(_shape(tensor, per), f"<u{FLOATS[tensor.dtype]}")
    if per == "tensor":
        found[0, 0] = _counted_median(tensor)
    else:
        for rows, bits in blocks(tensor):
            for cells, to in _cells(bits & _magnitude_mask(tensor), per):
                last = cells.shape[1] - 1
                ordered = np.partition(cells, sorted({last // 2, last}), axis=1)
                most = ordered[:, last]
                finite = most < _EXPONENT[tensor.dtype]
                median = np.where(finite, ordered[:, last // 2], most)
                found[rows, to] = median.reshape(found[rows, to].shape)
    return float_values(found, tensor.dtype)


def _shape(tensor: SourceTensor, per: Per) -> tuple[int, int]:
    if per == "tensor":
        return 1, 1
    return tensor.shape[0], 1 if per == "row" else -(-tensor.shape[1] // per)


def _cells(matrix: npt.NDArray[Any], per: Per) -> Iterator[tuple[npt.NDArray[Any], slice]]:
    """Cut rows of a matrix into what shares a scale.

    Yields:
        (cells, weights of a cell), and the columns of the statistic that are theirs.
    """
    if not isinstance(per, int):
        yield matrix if per == "row" else matrix.reshape(1, -1), slice(0, 1)
        return
    whole, rest = divmod(matrix.shape[1], per)
    yield matrix[:, : whole * per].reshape(-1, per), slice(0, whole)
    if rest:
        yield matrix[:, whole * per :], slice(whole, whole + 1)


def _sums(cells: npt.NDArray[Any], per: Per) -> npt.NDArray[np.float64]:
    """Add magnitudes up in float64.

    A tensor and a row go through the same code, so that for a matrix of one row they are equal.
    """
    if isinstance(per, int):
        result: npt.NDArray[np.float64] = np.abs(cells).sum(axis=1, dtype=np.float64)
        return result
    return np.array([_native.sum_of_magnitudes(cell) for cell in cells], np.float64)


def _magnitude_mask(tensor: SourceTensor) -> int:
    return (1 << 8 * FLOATS[tensor.dtype] - 1) - 1


def _counted_median(tensor: SourceTensor) -> int:
    """Return the bits of the lower median, or of infinity where some weight is not finite."""
    mask, shift = _magnitude_mask(tensor), 8 * FLOATS[tensor.dtype] - 16
    upper = np.zeros(1 << 15, np.int64)
    for _, bits in blocks(tensor):
        upper += np.bincount((bits & mask).reshape(-1) >> shift, minlength=len(upper))
    if upper[_EXPONENT[tensor.dtype] >> shift :].any():
        return _EXPONENT[tensor.dtype]
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
