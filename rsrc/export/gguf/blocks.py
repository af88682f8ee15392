"""Blocks of the ternary types of ggml (ggml-common.h, gguf/quants.py) and of PrismML's llama.cpp.

A block holds consecutive weights of a row as codes 0, 1, 2 (value + 1), with two bits per code in
blocks of Q2_0 and PQ2_0 also 3, and one float16 scale.

* TQ2_0: 256 weights, two bits per code, the scale last.
* TQ1_0: 256 weights, five codes per byte, the scale last. The codes are the digits of a number in
  base 3, stored as a fraction of 3^5 = 243, so that each multiplication by 3 carries out the next
  code.
* Q2_0: 64 weights, the scale first, two bits per code, four neighbors per byte.
* PQ2_0 of PrismML's llama.cpp: as Q2_0, with 128 weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...common.arrays import ByteArray

_POWERS = np.array([81, 27, 9, 3, 1], np.uint8)
# n / 243 in units of 1 / 256, rounded up: rounded down, a reader would decode the code below.
_FRACTIONS = ((np.arange(243) * 256 + 242) // 243).astype(np.uint8)
_SCALE = 2  # bytes


@dataclass(frozen=True)
class BlockType:
    """A tensor type whose rows consist of blocks.

    Attributes:
        number: of the type in a file's tensor table.
        file_type: `general.file_type` of a file in which most weights have this type.
        weights: in a block.
        nbytes: of a block.
        write: writes codes, (n, weights), into the bytes of the blocks without their scales.
        is_scale_first: whether the scale precedes the codes.
        highest: the largest value that a reader takes a code for.
    """

    number: int
    file_type: int
    weights: int
    nbytes: int
    write: Callable[[ByteArray, ByteArray], None]
    is_scale_first: bool = False
    highest: int = 1

    def encode(self, codes: ByteArray, scales: npt.NDArray[np.float16]) -> ByteArray:
        """Return blocks, uint8 (n, nbytes).

        Args:
            codes: 0 to `highest` + 1, uint8 (n, weights).
            scales: float16 (n,).
        """
        blocks = np.empty((len(codes), self.nbytes), np.uint8)
        data, scale = blocks[:, :-_SCALE], blocks[:, -_SCALE:]
        if self.is_scale_first:
            data, scale = blocks[:, _SCALE:], blocks[:, :_SCALE]
        self.write(codes, data)
        scale[:] = scales.astype("<f2").reshape(-1, 1).view(np.uint8)
        return blocks


def _four(planes: ByteArray) -> ByteArray:
    """Pack planes[:, :, i], (a, b, 4, c), into bits 2i and 2i + 1: (a, b, c)."""
    shifted = planes << np.array([0, 2, 4, 6], np.uint8)[:, None]
    packed: ByteArray = np.bitwise_or.reduce(shifted, axis=2)
    return packed


def _tq2_0(codes: ByteArray, out: ByteArray) -> None:
    """Code 128 g + 32 l + m goes to bits 2l and 2l + 1 of byte 32 g + m."""
    out[:] = _four(codes.reshape(-1, 2, 4, 32)).reshape(out.shape)


def _q2_0(codes: ByteArray, out: ByteArray) -> None:
    """Code 4 m + l goes to bits 2l and 2l + 1 of byte m."""
    out[:] = _four(codes.reshape(len(codes), -1, 4, 1)).reshape(out.shape)


def _tq1_0(codes: ByteArray, out: ByteArray) -> None:
    """Pack 5 planes of 32 codes into 32 bytes, 5 of 16 into 16, and 4 of 4 into 4."""
    byte = code = 0
    for width, planes in ((32, 5), (16, 5), (4, 4)):
        part = codes[:, code : code + width * planes].reshape(-1, planes, width)
        number = np.zeros((len(codes), width), np.uint8)  # at most 242
        for plane in range(planes):
            number += part[:, plane] * _POWERS[plane]
        out[:, byte : byte + width] = _FRACTIONS[number]
        byte, code = byte + width, code + width * planes


TYPES = {
    "TQ1_0": BlockType(34, 36, 256, 54, _tq1_0),
    "TQ2_0": BlockType(35, 37, 256, 66, _tq2_0),
    "Q2_0": BlockType(42, 41, 64, 18, _q2_0, is_scale_first=True, highest=2),
    "PQ2_0": BlockType(142, 141, 128, 34, _q2_0, is_scale_first=True, highest=2),
}
# Types to choose from if the user names none: those that llama.cpp itself reads, smallest first.
DEFAULT = ("TQ2_0", "Q2_0")
