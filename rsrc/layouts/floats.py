"""F32, F16 and BF16 tensors whose values are exactly -s, 0, +s.

Of all grids that give every weight its s, the one with the fewest scales is taken: from one per
tensor over blocks of rows and columns (the shards in which a model was trained, each with its own
scale) and one per row to one per row and 32 columns (`scales.coarsest`).

Groups of columns are looked for only where a row has several magnitudes. Their edges are multiples
of 32, or those of 2 to 8 equal parts of the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.bf16 import widen_bf16
from rsr_formats.decode import apply_scales
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY

from .. import _native
from ..source.checkpoint import Checkpoint
from ..source.tensor import PIECE, SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, Scales, TernaryTensor
from .groups import Bits, Scan, scan_groups
from .scales import GROUPS, coarsest, per_tensor

_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}


def to_float32(raw: Bytes, dtype: str) -> Scales:
    """Return the values of F32, F16 or BF16 bytes as float32, exactly."""
    if dtype == "BF16":
        return widen_bf16(raw.view("<u2"))
    return raw.view("<f4" if dtype == "F32" else "<f2").astype(np.float32)


def from_float32(values: Scales, dtype: str) -> npt.NDArray[Any]:
    """Return float32 values rounded to `dtype` (to nearest, ties to even); BF16 as uint16 bits."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    with np.errstate(over="ignore"):  # what F16 cannot hold becomes infinite
        return values.astype("<f4" if dtype == "F32" else "<f2")


def digits_that_occur(negative: bool, zero: bool, positive: bool) -> tuple[int, ...]:
    """Return the smallest digit alphabet for the signs that occur.

    Binary only where exactly its two values occur: a matrix of one value, or of {-s, 0}, is
    ternary, so that small and empty matrices are what their neighbors are.
    """
    if negative and positive and not zero:
        return BINARY_SIGNS
    if zero and positive and not negative:
        return BINARY_BITS
    return TERNARY


def row_panels(tensor: SourceTensor) -> Iterator[Bytes]:
    """Read a matrix in panels of whole rows: uint8 (rows * row bytes,), valid until the next."""
    row_bytes = tensor.nbytes // tensor.shape[0] if tensor.shape[0] else 0
    if row_bytes:
        for piece in tensor.pieces(max(1, PIECE // row_bytes) * row_bytes):
            yield np.frombuffer(piece, np.uint8)


def _group_widths(columns: int) -> Iterator[int]:
    """Yield the columns of the groups to look for: narrower ones only where those before fail."""
    yield columns
    if columns > GROUPS[0]:
        yield GROUPS[0]
    for parts in range(2, 9):  # shards that groups of 32 cannot make up
        width, rest = divmod(columns, parts)
        if width > GROUPS[0] and width % GROUPS[0] and not rest:
            yield width


class Floats(Layout):
    """Floats that are ternary already."""

    name = "float"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim matrices whose rows, or groups in them, have one magnitude beside zero."""
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            return None
        rows, columns = tensor.shape
        if not tensor.nbytes:
            nothing = per_tensor(0, rows)
            return TernaryTensor(tensor, self, (rows, columns), TERNARY, nothing, nothing.words)
        bits = f"<u{FLOATS[tensor.dtype]}"
        furthest, among = -1, ""  # the row where the scan ended that came furthest
        for width in _group_widths(columns):
            panels = (panel.view(bits).reshape(-1, columns) for panel in row_panels(tensor))
            found = scan_groups(panels, tensor.shape, width)
            if (found.largest >= _EXPONENT[tensor.dtype]).any():
                return f"{tensor.dtype} with NaN or infinite values"
            if found.several is None:
                return self._with_scales(tensor, found, width)
            if found.several > furthest:
                furthest = found.several
                among = "" if width == columns else f" in a group of {width} columns"
        return f"{tensor.dtype}, not ternary: row {furthest} has several magnitudes{among}"

    def _with_scales(self, tensor: SourceTensor, found: Scan, width: int) -> TernaryTensor | str:
        """Return the tensor with the fewest scales; `width` is that of the groups found."""
        rows, columns = tensor.shape
        finest = to_float32(found.largest.reshape(-1).view(np.uint8), tensor.dtype)
        scale = coarsest(finest.reshape(found.largest.shape), 1, width, (rows, columns))
        if columns == 1 and scale.values.size > 1:
            return f"{tensor.dtype}, not ternary: one column, every value its own scale"
        return TernaryTensor(
            tensor,
            self,
            (rows, columns),
            digits_that_occur(found.negative, found.zero, found.positive),
            scale,
            scale.words,
            negative_zeros=found.negative_zero,
        )

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window from sign and zero alone."""
        bits = bits_of(raw, t.tensor)[rows, columns]
        digits = np.empty(bits.shape, np.uint8)
        _native.sign_digits(bits, len(t.digits), t.digits[0], digits)
        return digits

    def negative_zeros(self, raw: Bytes, t: TernaryTensor) -> Bytes | None:
        """Return one bit per zero weight, row-major: set for -0.0."""
        if not t.negative_zeros:
            return None
        bits = bits_of(raw, t.tensor).reshape(-1)
        bitmap = np.empty(len(bits) // 8 + 8, np.uint8)
        zeros = _native.negative_zeros(bits, bitmap)
        return bitmap[: -(-zeros // 8)]

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return digit value * scale in the source's dtype, with its negative zeros."""
        values = restore_floats(r)
        if r.negative_zeros is not None:
            zeros = np.flatnonzero(r.digits.reshape(-1) == r.record.digits.index(0))
            signs = np.unpackbits(r.negative_zeros, count=len(zeros), bitorder="little")
            flat = values.reshape(-1).view(f"<u{values.itemsize}")
            flat[zeros[signs != 0]] = 1 << (8 * values.itemsize - 1)
        return values


def restore_floats(r: Restored) -> npt.NDArray[Any]:
    """Return digit value * scale in the source's dtype; zeros are +0.0."""
    values = np.array(r.record.digits, np.float32)[r.digits]
    if r.scale is not None:
        apply_scales(r.record, values, r.scale)
    return from_float32(values, r.record.source.dtype)


def bits_of(raw: Bytes, tensor: SourceTensor) -> Bits:
    """Return the bit patterns of a float matrix, uint16 or uint32, as a view of its bytes."""
    return raw.view(f"<u{FLOATS[tensor.dtype]}").reshape(tensor.shape)
