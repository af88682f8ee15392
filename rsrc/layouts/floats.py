"""F32, F16 and BF16 tensors whose values are exactly -s, 0, +s, one s per tensor or per row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.layout import BINARY_BITS, BINARY_SIGNS

from ..checkpoint import PIECE, Checkpoint, SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, Scales, TernaryTensor
from .int8 import digits_that_occur

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
    """Read a matrix in panels of whole rows: uint8 (rows * row bytes,)."""
    row_bytes = tensor.nbytes // tensor.shape[0] if tensor.shape[0] else 0
    if row_bytes == 0:
        return
    # pieces() may return less than asked for, so rows are put together here
    left = np.empty(0, np.uint8)
    for piece in tensor.pieces(max(1, PIECE // row_bytes) * row_bytes):
        joined = np.concatenate([left, np.frombuffer(piece, np.uint8)])
        whole = len(joined) // row_bytes * row_bytes
        left = joined[whole:]
        if whole:
            yield joined[:whole]


class Floats(Layout):
    """Floats that are ternary already."""

    name = "float"

    def recognise(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim matrices in which every row has one magnitude beside zero, bit for bit."""
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            return None
        rows, columns = tensor.shape
        item = FLOATS[tensor.dtype]
        magnitude_mask = (1 << (8 * item - 1)) - 1
        largest = [np.empty(0, f"<u{item}")]
        negative = zero = positive = False
        first = 0
        for panel in row_panels(tensor):
            bits = panel.view(f"<u{item}").reshape(-1, columns)
            magnitudes = bits & bits.dtype.type(magnitude_mask)
            most = magnitudes.max(axis=1, initial=0)
            if (most >= _EXPONENT[tensor.dtype]).any():
                return f"{tensor.dtype} with NaN or infinite values"
            nonzero = magnitudes != 0
            other = (nonzero & (magnitudes != most[:, None])).any(axis=1)
            if other.any():
                row = first + int(np.argmax(other))
                return f"{tensor.dtype}, not ternary: row {row} has several magnitudes"
            below = bits > magnitude_mask
            negative |= bool((below & nonzero).any())
            positive |= bool((~below & nonzero).any())
            zero |= not nonzero.all()
            largest.append(most)
            first += len(bits)
        scales = to_float32(np.concatenate(largest).view(np.uint8), tensor.dtype)
        different = np.unique(scales[scales != 0])
        if len(different) > 1 and columns == 1:
            return f"{tensor.dtype}, not ternary: one column, every value its own scale"
        per_row = len(different) > 1
        scale = scales if per_row else different if len(different) else np.zeros(1, np.float32)
        return TernaryTensor(
            tensor,
            self,
            (rows, columns),
            digits_that_occur(negative, zero, positive),
            scale,
            "per row" if per_row else "per tensor",
        )

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window from sign and zero alone."""
        bits = _bits(raw, t.tensor)[rows, columns]
        sign = (bits >> (8 * bits.itemsize - 1)).astype(np.uint8)
        if t.digits == BINARY_SIGNS:
            return np.subtract(1, sign, dtype=np.uint8)
        nonzero: DigitArray = ((bits << bits.dtype.type(1)) != 0).view(np.uint8)
        if t.digits == BINARY_BITS:
            return nonzero
        return np.add(1, nonzero - 2 * (nonzero & sign), dtype=np.uint8)

    def negative_zeros(self, raw: Bytes, t: TernaryTensor) -> Bytes | None:
        """Return one bit per zero weight, row-major: set for -0.0."""
        bits = _bits(raw, t.tensor).reshape(-1)
        packed: list[Bytes] = []
        left = np.empty(0, np.bool_)  # fewer than eight
        for start in range(0, len(bits), PIECE):
            piece = bits[start : start + PIECE]
            zeros = piece[piece << bits.dtype.type(1) == 0] != 0  # -0.0 has its sign bit alone
            left = np.concatenate([left, zeros])
            whole = len(left) // 8 * 8
            packed.append(np.packbits(left[:whole], bitorder="little"))
            left = left[whole:]
        bitmap = np.concatenate([*packed, np.packbits(left, bitorder="little")])
        return bitmap if bitmap.any() else None

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
        values *= r.scale.reshape(-1, 1)
    return from_float32(values, r.record.source.dtype)


def _bits(raw: Bytes, tensor: SourceTensor) -> Bits:
    return raw.view(f"<u{FLOATS[tensor.dtype]}").reshape(tensor.shape)
