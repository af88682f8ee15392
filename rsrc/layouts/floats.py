"""F32, F16 and BF16 tensors whose values are exactly -s, 0, +s.

There is one s per tensor, per row, or per row and group of 32, 64, 128 or 256 columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.decode import apply_scales

from .. import _native
from ..checkpoint import PIECE, Checkpoint, SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, Scales, TernaryTensor
from .groups import find_groups
from .int8 import digits_that_occur
from .scales import ScaleGrid, per_row, per_tensor

Bits = npt.NDArray[np.unsignedinteger[Any]]

_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}


def to_float32(raw: Bytes, dtype: str) -> Scales:
    """Return the values of F32, F16 or BF16 bytes as float32, exactly."""
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view("<f4" if dtype == "F32" else "<f2").astype(np.float32)


def from_float32(values: Scales, dtype: str) -> npt.NDArray[Any]:
    """Return float32 values rounded to `dtype` (to nearest, ties to even); BF16 as uint16 bits."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    with np.errstate(over="ignore"):  # what F16 cannot hold becomes infinite
        return values.astype("<f4" if dtype == "F32" else "<f2")


def row_panels(tensor: SourceTensor) -> Iterator[Bytes]:
    """Read a matrix in panels of whole rows: uint8 (rows * row bytes,), valid until the next."""
    row_bytes = tensor.nbytes // tensor.shape[0] if tensor.shape[0] else 0
    if row_bytes:
        for piece in tensor.pieces(max(1, PIECE // row_bytes) * row_bytes):
            yield np.frombuffer(piece, np.uint8)


class Floats(Layout):
    """Floats that are ternary already."""

    name = "float"

    def recognise(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim matrices whose rows, or groups in them, have one magnitude beside zero."""
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            return None
        rows, columns = tensor.shape
        item = FLOATS[tensor.dtype]
        largest = np.zeros(rows if columns else 0, f"<u{item}")  # rows without data cost nothing
        seen = [False] * 4
        first = 0
        for panel in row_panels(tensor):
            bits = panel.view(f"<u{item}").reshape(-1, columns)
            most = largest[first : first + len(bits)]
            several, *found = _native.scan(bits, most)
            if (most[: several + 1] >= _EXPONENT[tensor.dtype]).any():
                return f"{tensor.dtype} with NaN or infinite values"
            if several < len(bits):
                row = first + several
                reason = f"{tensor.dtype}, not ternary: row {row} has several magnitudes"
                return self._grouped(tensor) or reason
            seen = [before or now for before, now in zip(seen, found, strict=True)]
            first += len(bits)
        negative, zero, positive, negative_zeros = seen
        scales = to_float32(largest.view(np.uint8), tensor.dtype)
        different = np.unique(scales[scales != 0])
        if len(different) > 1 and columns == 1:
            return f"{tensor.dtype}, not ternary: one column, every value its own scale"
        scale = (
            per_row(scales)
            if len(different) > 1
            else per_tensor(different[0] if len(different) else 0, rows)
        )
        return TernaryTensor(
            tensor,
            self,
            (rows, columns),
            digits_that_occur(negative, zero, positive),
            scale,
            scale.words,
            negative_zeros=negative_zeros,
        )

    def _grouped(self, tensor: SourceTensor) -> TernaryTensor | None:
        rows, columns = tensor.shape
        bits = f"<u{FLOATS[tensor.dtype]}"
        panels = (panel.view(bits).reshape(-1, columns) for panel in row_panels(tensor))
        found = find_groups(panels, tensor.shape)
        if found is None or (found.largest >= _EXPONENT[tensor.dtype]).any():
            return None
        values = to_float32(found.largest.reshape(-1).view(np.uint8), tensor.dtype)
        scale = ScaleGrid(values.reshape(found.largest.shape), 1, found.columns)
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
