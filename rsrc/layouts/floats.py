"""F32, F16 and BF16 matrices whose values are exactly -s, 0, +s, or also -2s and +2s.

The scales form the coarsest grid that gives every weight its s: one per tensor, per block of rows
and columns (shards of model-parallel training, each with its own scale), per row, or per row and
group of columns (`scales.coarsest_grid`).

Groups of columns are tried only if some row has several magnitudes: groups of 32 columns, which
`coarsest_grid` may join, and 2 to 8 equal parts of the columns. Two magnitudes s and 2s are tried
last, because a rank then covers two columns instead of three, and only of matrices with many
weights: a small one may have such values by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from rsr_formats.records import (
    BINARY_BITS,
    BINARY_SIGNS,
    QUATERNARIES,
    QUINARY,
    TERNARY,
    largest_digit,
)

from .. import _native
from ..common.arrays import ByteArray
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, TernaryTensor
from .float_bits import (
    FLOAT_BYTES,
    INFINITY,
    Bits,
    Float32,
    bits_of,
    blocks,
    float_values,
    is_float_matrix,
    panels,
)
from .scales import GROUPS, coarsest_grid, per_tensor

_MIN_DOUBLED = 4096  # weights of a matrix with values s and 2s


class Floats(Layout):
    """Floats that have few values already."""

    name = "float"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim matrices with one nonzero magnitude per row or group in a row, or s and 2s."""
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
        for width in _group_widths(columns) if rows * columns >= _MIN_DOUBLED else ():
            doubled = _scan_doubles(tensor, width)
            if doubled is not None:
                return self._with_doubles(tensor, doubled, width)
        return f"{tensor.dtype}, not ternary: row {furthest} has several magnitudes{where}"

    def _with_doubles(self, tensor: SourceTensor, found: _Doubles, width: int) -> TernaryTensor:
        rows, columns = tensor.shape
        scale = coarsest_grid(found.scales, 1, width, (rows, columns))
        return TernaryTensor(
            tensor,
            self,
            (rows, columns),
            wide_alphabet(found.values),
            scale,
            scale.words,
            negative_zeros=found.negative_zero,
        )

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
        """Decode a window: the sign of a weight, or that it is 0, is its digit; or x / s is."""
        bits = bits_of(raw, t.tensor)[rows, columns]
        if largest_digit(t.digits) > 1:
            assert t.scale is not None
            multiples = _multiples(
                float_values(bits, t.tensor.dtype), t.scale.window(rows, columns)
            )
            return digit_table(t.digits)[multiples.astype(np.int8).view(np.uint8)]
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


def wide_alphabet(values: Iterable[int]) -> tuple[int, ...]:
    """Return the smallest alphabet with values of magnitude 2 that has these values."""
    wanted = set(values)
    by_span = sorted(QUATERNARIES, key=lambda digits: (digits[-1] - digits[0], -digits[0]))
    return next((digits for digits in by_span if wanted <= set(digits)), QUINARY)


def digit_table(alphabet: tuple[int, ...]) -> ByteArray:
    """Return the digit of each int8, by its bits: 255, which encoders reject, for other values."""
    table = np.full(256, 255, np.uint8)
    table[np.array(alphabet, np.int8).view(np.uint8)] = np.arange(len(alphabet))
    return table


def _multiples(values: Float32, scales: Float32) -> Float32:
    """Return values / scales, 0 where the scale is 0; 3 where that is not -2 to 2."""
    with np.errstate(invalid="ignore", over="ignore"):  # values may be infinite or NaN
        found = np.divide(values, scales, out=np.zeros_like(values), where=scales != 0)
        found[(found * scales != values) | ~np.isin(found, QUINARY)] = 3
    return found


class _Doubles(NamedTuple):
    """The scales of a matrix of values 0, s and 2s."""

    scales: Float32  # (rows, groups)
    values: frozenset[int]  # the multiples of s that occur
    negative_zero: bool


def _scan_doubles(tensor: SourceTensor, width: int) -> _Doubles | None:
    """Find s of every group of `width` columns; None if a group has other magnitudes."""
    rows, columns = tensor.shape
    starts = np.arange(0, columns, width)
    scales = np.zeros((rows, len(starts)), np.float32)
    occurring: set[int] = set()
    negative_zero = False
    for panel, bits in blocks(tensor):
        x = float_values(bits, tensor.dtype)
        sizes = np.abs(x)
        largest = np.maximum.reduceat(sizes, starts, axis=1)
        half = largest / np.float32(2)
        by_column = np.repeat(half, width, axis=1)[:, :columns]
        has_half = np.maximum.reduceat(sizes == by_column, starts, axis=1)
        found = np.where(has_half & (2 * half == largest), half, largest)
        multiples = _multiples(x, np.repeat(found, width, axis=1)[:, :columns])
        occurring |= set(np.unique(multiples).astype(int).tolist())
        if 3 in occurring:
            return None
        scales[panel] = found
        negative_zero = negative_zero or bool((np.signbit(x) & (x == 0)).any())
    return _Doubles(scales, frozenset(occurring), negative_zero)


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
