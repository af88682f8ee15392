"""The block types of GGUF files with few values; source/gguf/types.py decodes their blocks."""

from __future__ import annotations

import numpy as np

from rsr_formats.records import TERNARY, largest_digit

from ..common.arrays import ByteArray
from ..common.errors import SourceError
from ..source.checkpoint import Checkpoint
from ..source.gguf.i2_s import holds_four_rows_a_byte
from ..source.gguf.tensor import GgufTensor, scales_of
from ..source.gguf.types import Codec
from ..source.tensor import PIECE, SourceTensor
from .base import DigitArray, TernaryTensor
from .floats import Floats
from .scales import ScaleGrid, Scales, coarsest_grid, per_tensor

_ZERO = TERNARY.index(0)  # also in the alphabet with code 3
_LARGEST_F16 = float(np.finfo(np.float16).max)
_AT_ONCE = 1 << 14  # weights of narrow rows to decode at once, if rows straddle blocks


class Gguf(Floats):
    """Blocks of digits with their scales.

    Block types have no name outside GGUF, so layout float restores a tensor as the floats it stands
    for: in F16 if scales are F16, in which digit * scale is exact, else in F32. A factor of the
    whole tensor multiplies its scales.
    """

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim matrices of the ternary and binary block types.

        Raises:
            SourceError: a scale is not finite, or a code is not one of the type's.
        """
        if not isinstance(tensor, GgufTensor) or tensor.codec is None:
            return None
        kind, codec = tensor.kind, tensor.codec
        if len(tensor.shape) != 2:
            return f"{len(tensor.shape)}-dimensional"
        scales, digits = _scan(tensor, codec)
        factor = tensor.factor
        if factor is not None:
            scales = _times(tensor, scales, factor)
        rows, columns = tensor.shape
        if kind.tail:
            scale = per_tensor(scales[0], rows)
        else:
            width = columns if kind.row_header else kind.block
            grid = scales.reshape(rows, -1 if scales.size else 0)
            if 0 in digits or scales.all():
                scale = coarsest_grid(grid, 1, width, (rows, columns))
            else:  # binary digits cannot be 0: a block of scale 0 must keep it
                scale = ScaleGrid(grid, 1, width if width < columns else None)
        return TernaryTensor(
            tensor,
            self,
            (rows, columns),
            digits,
            scale,
            f"{kind.name}{kind.assumed}, {scale.words}{'' if factor is None else ' in float32'}",
            restored_dtype=_float_dtype(codec, scales, digits) if factor is None else "F32",
        )

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode the blocks of a window; ternary weights of scale 0 become the digit of 0."""
        assert isinstance(t.tensor, GgufTensor)
        kind, codec = t.tensor.kind, t.tensor.codec
        assert codec is not None
        shape = rows.stop - rows.start, columns.stop - columns.start
        if 0 in shape:
            return np.empty(shape, np.uint8)
        tail = raw[len(raw) - kind.tail :]
        if kind.is_flat and t.shape[1] % kind.block:
            return _straddling_digits(raw, t.tensor, codec, rows, columns)
        matrix = raw[: len(raw) - kind.tail].reshape(t.shape[0], kind.row_bytes(t.shape[1]))[rows]
        first, stop = columns.start // kind.block, -(-columns.stop // kind.block)
        start = kind.row_header + first * kind.block_bytes
        window = matrix[:, start : kind.row_header + stop * kind.block_bytes]
        blocks = window.reshape(-1, kind.block_bytes)
        codes = codec.decode(blocks)
        if 0 in codec.digits:
            scales = scales_of(kind, codec, matrix if kind.row_header else blocks, tail)
            if not scales.all():
                codes.reshape(len(scales), -1)[scales == 0] = _ZERO
        skip = columns.start - first * kind.block
        codes = codes.reshape(len(matrix), (stop - first) * kind.block)
        return codes[:, skip : skip + shape[1]]


def _times(tensor: GgufTensor, scales: Scales, factor: float) -> Scales:
    """Multiply the scales by the factor of the tensor.

    Raises:
        SourceError: a product overflows.
    """
    with np.errstate(over="ignore"):
        result: Scales = (scales * np.float64(factor)).astype(np.float32)
    if not np.isfinite(result).all():
        raise SourceError(f"{tensor.name}: its scales times {factor:g} overflow float32")
    return result


def _straddling_digits(
    raw: ByteArray, tensor: GgufTensor, codec: Codec, rows: slice, columns: slice
) -> DigitArray:
    """Decode a window of rows that begin inside blocks.

    Narrow rows are decoded whole, several at once; wide rows only in the window's columns.
    """
    kind, width = tensor.kind, tensor.shape[1]
    body, tail = raw[: len(raw) - kind.tail], raw[len(raw) - kind.tail :]
    digits = np.full((rows.stop - rows.start, columns.stop - columns.start), _ZERO, np.uint8)
    if not codec.scales(tail[None]).all():
        return digits
    blocks = body.reshape(-1, kind.block_bytes)
    step = max(1, _AT_ONCE // width)
    part = slice(0, width) if step > 1 else columns
    for row in range(rows.start, rows.stop, step):
        count = min(step, rows.stop - row)
        start, stop = row * width + part.start, (row + count - 1) * width + part.stop
        first = start // kind.block
        flat = codec.decode(blocks[first : -(-stop // kind.block)]).reshape(-1)
        codes = flat[start - first * kind.block :][: stop - start].reshape(count, -1)
        to = row - rows.start
        digits[to : to + count] = codes[:, columns] if step > 1 else codes
    return digits


def _check_order(t: GgufTensor, codes: ByteArray) -> None:
    if holds_four_rows_a_byte(codes, t.shape[1]):
        raise SourceError(
            f"{t.name}: {t.kind.name} with four rows in each byte, judging by the zeros in its "
            "columns: bitnet.cpp writes it when built without ACT_PARALLEL. Expected blocks of 128 "
            "weights. Convert the model with an x86 build that has ACT_PARALLEL, or to TQ2_0"
        )


def _float_dtype(codec: Codec, scales: Scales, digits: tuple[int, ...]) -> str:
    """Return a float dtype in which digit * scale is exact and finite."""
    largest = np.abs(scales).max(initial=0) * largest_digit(digits)
    return "F16" if codec.scale_dtype == "<f2" and largest <= _LARGEST_F16 else "F32"


def _scan(t: GgufTensor, codec: Codec) -> tuple[Scales, tuple[int, ...]]:
    """Return all scales in order, (blocks,), (rows,) or (1,), and the digits.

    Raises:
        SourceError: a scale is not finite, or a code is not one of the type's.
    """
    kind = t.kind
    unit = kind.row_bytes(t.shape[1]) if kind.row_header else kind.block_bytes
    left = t.nbytes - kind.tail
    found: list[Scales] = []
    tail = b""
    code_3 = False
    for piece in t.pieces(max(1, PIECE // unit) * unit):
        data = np.frombuffer(piece, np.uint8)
        if kind.tail and t.heads is None and left == t.nbytes - kind.tail:  # the first piece
            _check_order(t, data[:left])
        units, tail = data[:left].reshape(-1, unit), tail + data[left:].tobytes()
        left -= units.size
        blocks = units[:, kind.row_header :].reshape(-1, kind.block_bytes)
        if not kind.tail:
            scales = scales_of(kind, codec, units, data[:0])
            found.append(scales)
            if not scales.all():  # any code is allowed where the scale is 0
                blocks = blocks.reshape(len(scales), -1)[scales != 0].reshape(-1, kind.block_bytes)
        code_3 = code_3 or codec.holds_code_3(blocks)
    if kind.tail:
        found.append(codec.scales(np.frombuffer(tail, np.uint8)[None]))
        code_3 = code_3 and bool(found[-1].all())
    result = np.concatenate([np.zeros(0, np.float32), *found])
    finite = np.isfinite(result)
    if not finite.all():
        worst = int(np.argmin(finite))
        raise SourceError(
            f"{t.name}: {kind.name} with scale {result[worst]} (number {worst} of {len(result)}), "
            "expected finite scales: the file is damaged"
        )
    if code_3 and codec.digits_with_3 is None:
        raise SourceError(
            f"{t.name}: {kind.name} with the invalid code 3: the file is damaged, or its "
            f"blocks are not in the layout of {kind.name}"
        )
    return result, codec.digits_with_3 if code_3 and codec.digits_with_3 else codec.digits
