"""F32, F16 and BF16 matrices whose values are exactly -s, 0, +s.

The scales form the coarsest grid that gives every weight its s: one per tensor, per block of rows
and columns (shards of model-parallel training, each with its own scale), per row, or per row and
group of columns (`scales.coarsest_grid`).

Groups of columns are tried only if some row has several magnitudes: groups of 32 columns, which
`coarsest_grid` may join, and 2 to 8 equal parts of the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY

from .. import _native
from ..common.arrays import ByteArray
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, TernaryTensor
from .float_bits import FLOAT_BYTES, INFINITY, Bits, bits_of, float_values, is_float_matrix, panels
from .scales import GROUPS, coarsest_grid, per_tensor


class Floats(Layout):
    """Floats that are ternary already."""

    name = "float"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim matrices with at most one nonzero magnitude per row, or per group in a row."""
        if not is_float_matrix(tensor):
            return None
        rows, columns = tensor.shape
        if not tensor.nbytes:
            empty = per_tensor(0, rows)
            return TernaryTensor(tensor, self, (rows, columns), TERNARY, empty, empty.words)
        furthest, where = -1, ""  # the last row that a scan reached, for the message
        for width in _group_widths(columns):
            found = _scan(tensor, width)
            if (found.largest >= INFINITY[tensor.dtype]).any():
                return f"{tensor.dtype} with NaN or infinite values"
            if found.mixed_row is None:
                return self._with_scales(tensor, found, width)
            if found.mixed_row > furthest:
                furthest = found.mixed_row
                where = "" if width == columns else f" in a group of {width} columns"
        return f"{tensor.dtype}, not ternary: row {furthest} has several magnitudes{where}"

    def _with_scales(self, tensor: SourceTensor, found: _Scan, width: int) -> TernaryTensor | str:
        """Return the tensor; scales of groups of `width` columns become the coarsest grid."""
        rows, columns = tensor.shape
        finest = float_values(found.largest, tensor.dtype)
        scale = coarsest_grid(finest, 1, width, (rows, columns))
        if columns == 1 and scale.values.size > 1:
            return f"{tensor.dtype}, not ternary: one column, where each value is its own scale"
        return TernaryTensor(
            tensor,
            self,
            (rows, columns),
            alphabet(found.negative, found.zero, found.positive),
            scale,
            scale.words,
            negative_zeros=found.negative_zero,
        )

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window: the sign of a weight, or that it is 0, is its digit."""
        bits = bits_of(raw, t.tensor)[rows, columns]
        digits = np.empty(bits.shape, np.uint8)
        _native.sign_digits(bits, len(t.digits), t.digits[0], digits)
        return digits

    def negative_zeros(self, raw: ByteArray, t: TernaryTensor) -> ByteArray | None:
        """Return which zeros are stored as -0.0; see `Layout`."""
        if not t.negative_zeros:
            return None
        bits = bits_of(raw, t.tensor).reshape(-1)
        bitmap = np.empty(len(bits) // 8 + 8, np.uint8)
        zeros = _native.negative_zeros(bits, bitmap)
        return bitmap[: -(-zeros // 8)]


def alphabet(negative: bool, zero: bool, positive: bool) -> tuple[int, ...]:
    """Return the digit alphabet of a matrix with values of these signs.

    It is binary only if exactly its two values occur. A matrix of one value, or of {-s, 0}, is
    ternary, so that a small or empty matrix gets the alphabet of its model's larger ones.
    """
    if negative and positive and not zero:
        return BINARY_SIGNS
    if zero and positive and not negative:
        return BINARY_BITS
    return TERNARY


class _Scan(NamedTuple):
    """What one pass over a float matrix found, up to the first row with a mixed group."""

    largest: Bits  # (rows, groups): bits of the largest magnitude
    mixed_row: int | None  # the row that ended the scan: a group in it has several magnitudes
    negative: bool
    zero: bool
    positive: bool
    negative_zero: bool


def _scan(tensor: SourceTensor, width: int) -> _Scan:
    """Find the magnitude of every group of `width` columns in a matrix that is not empty."""
    rows, columns = tensor.shape
    whole, rest = divmod(columns, width)
    edge = whole * width
    largest = np.zeros((rows, whole + (rest != 0)), f"<u{FLOAT_BYTES[tensor.dtype]}")
    signs = [False] * 4
    for panel, bits in panels(tensor):
        found = largest[panel]
        parts = [(bits[:, :edge].reshape(-1, width), found[:, :whole])]
        if rest:
            parts.append((bits[:, edge:], found[:, whole:]))
        for part, to in parts:
            group_largest = np.zeros(len(part), bits.dtype)
            mixed, *now = _native.scan(part, group_largest)
            to[:] = group_largest.reshape(to.shape)
            if mixed < len(part):
                row = panel.start + mixed // to.shape[1]
                return _Scan(largest[: row + 1], row, *signs)
            signs = [a or b for a, b in zip(signs, now, strict=True)]
    return _Scan(largest, None, *signs)


def _group_widths(columns: int) -> Iterator[int]:
    """Yield the group widths to try in turn, each only if those before it fail."""
    yield columns
    if columns > GROUPS[0]:
        yield GROUPS[0]
    for parts in range(2, 9):  # shards whose edges are not multiples of 32
        width, rest = divmod(columns, parts)
        if width > GROUPS[0] and width % GROUPS[0] and not rest:
            yield width
