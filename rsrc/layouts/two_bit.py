"""2-bit codes, four in a byte, the first in the low bits: a code is a digit.

Of the alphabet -1, 0, 1, code 3 is invalid.
"""

from __future__ import annotations

import numpy as np

from ..common.arrays import ByteArray
from ..source.tensor import PIECE, SourceTensor


def pack(codes: ByteArray) -> ByteArray:
    """Pack codes, uint8 (4, ...), along the first axis: codes[i] goes to bits 2i and 2i + 1."""
    packed: ByteArray = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    return packed


def find_code_3(tensor: SourceTensor) -> tuple[int, int] | None:
    """Return the byte and the place in it, 0 to 3, of the first code 3; None if there is none."""
    scratch = np.empty(PIECE, np.uint8)  # allocating per piece would take most of the time
    start = 0
    for piece in tensor.pieces():
        data = np.frombuffer(piece, np.uint8)
        both = np.right_shift(data, 1, out=scratch[: len(data)])
        both &= data  # bit 2i is set if bits 2i and 2i + 1 of the byte are
        if np.bitwise_or.reduce(both) & 0x55:
            at = int(np.flatnonzero(both & 0x55)[0])
            return start + at, next(i for i in range(4) if both[at] >> 2 * i & 1)
        start += len(data)
    return None
