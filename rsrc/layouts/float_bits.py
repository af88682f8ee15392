"""F32, F16 and BF16 tensors as bit patterns and as float32, read in panels and blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.numerics import narrow_bf16, widen_bf16

from ..common.arrays import ByteArray
from ..source.tensor import PIECE, SourceTensor

Bits = npt.NDArray[np.unsignedinteger[Any]]  # uint16 for F16 and BF16, uint32 for F32
Float32 = npt.NDArray[np.float32]

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
INFINITY = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # magnitudes from here on: inf, NaN

BLOCK = 1 << 16  # weights of a block: its float32 values and temporaries stay in the L2 cache


def is_float_matrix(tensor: SourceTensor) -> bool:
    """Return whether a tensor is two-dimensional and F32, F16 or BF16."""
    return tensor.dtype in FLOAT_BYTES and len(tensor.shape) == 2


def to_float32(raw: ByteArray, dtype: str) -> Float32:
    """Return F32, F16 or BF16 bytes as a new float32 array, exactly."""
    values = float_values(raw.view(f"<u{FLOAT_BYTES[dtype]}"), dtype)
    return values.copy() if dtype == "F32" else values


def from_float32(values: Float32, dtype: str) -> npt.NDArray[Any]:
    """Round float32 values to `dtype`, to nearest with ties to even; BF16 as uint16 bits."""
    if dtype == "BF16":
        return narrow_bf16(values).astype("<u2", copy=False)
    with np.errstate(over="ignore"):  # values beyond F16's range become infinite
        return values.astype("<f4" if dtype == "F32" else "<f2")


def float_values(bits: Bits, dtype: str) -> Float32:
    """Return bit patterns as float32 values of the same shape, exactly; F32 as a view."""
    if dtype == "BF16":
        return widen_bf16(bits.astype(np.uint16, copy=False))
    return bits.view(np.float32) if dtype == "F32" else bits.view(np.float16).astype(np.float32)


def native_values(bits: Bits, dtype: str) -> Bits | Float32:
    """Return values as `_native` takes them: BF16 as uint16 bits, F32 and F16 as float32."""
    return bits if dtype == "BF16" else float_values(bits, dtype)


def bits_of(raw: ByteArray, tensor: SourceTensor) -> Bits:
    """Return the bit patterns of a float matrix, (rows, columns), as a view of its bytes."""
    return raw.view(f"<u{FLOAT_BYTES[tensor.dtype]}").reshape(tensor.shape)


def row_panels(tensor: SourceTensor) -> Iterator[ByteArray]:
    """Read a matrix of any dtype in panels of whole rows, of about `PIECE` bytes.

    Yields:
        uint8 (rows * bytes per row,), valid until the next panel. No panel if a dimension is 0.
    """
    row_bytes = tensor.nbytes // tensor.shape[0] if tensor.shape[0] else 0
    if row_bytes:
        for piece in tensor.pieces(max(1, PIECE // row_bytes) * row_bytes):
            yield np.frombuffer(piece, np.uint8)


def panels(tensor: SourceTensor) -> Iterator[tuple[slice, Bits]]:
    """Read a float matrix in panels of whole rows.

    Yields:
        The rows of the panel, and their bit patterns, (rows, columns), valid until the next panel.
    """
    first = 0
    for panel in row_panels(tensor):
        bits = panel.view(f"<u{FLOAT_BYTES[tensor.dtype]}").reshape(-1, tensor.shape[1])
        yield slice(first, first + len(bits)), bits
        first += len(bits)


def blocks(tensor: SourceTensor) -> Iterator[tuple[slice, Bits]]:
    """Read a float matrix as `panels` does, in blocks of rows with about `BLOCK` weights."""
    for rows, bits in panels(tensor):
        for block in row_blocks(bits.shape):
            yield slice(rows.start + block.start, rows.start + block.stop), bits[block]


def row_blocks(shape: tuple[int, ...], size: int = BLOCK) -> Iterator[slice]:
    """Cut the rows of a matrix into blocks of about `size` weights; none if it has no columns."""
    rows, columns = shape
    if columns:  # a `.rsr` file may claim 2^31 rows without columns in a few bytes
        step = max(1, size // columns)
        for first in range(0, rows, step):
            yield slice(first, min(first + step, rows))
