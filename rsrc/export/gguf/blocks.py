"""Blocks of TQ1_0 and TQ2_0, the ternary types of ggml (ggml-common.h, gguf/quants.py).

A block holds 256 weights of a row as codes 0, 1, 2 (value + 1), followed by one float16 scale.
TQ2_0 has two bits per code. TQ1_0 packs five codes into a byte: as digits of a number in base 3,
stored as a fraction of 3^5 = 243, so that each multiplication by 3 carries out the next code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...common.arrays import ByteArray

BLOCK = 256  # weights
BLOCK_BYTES = {"TQ1_0": 54, "TQ2_0": 66}

_POWERS = np.array([81, 27, 9, 3, 1], np.uint8)
# n / 243 in units of 1 / 256, rounded up: rounded down, a reader would decode the code below.
_FRACTIONS = ((np.arange(243) * 256 + 242) // 243).astype(np.uint8)


def encode(kind: str, codes: ByteArray, scales: npt.NDArray[np.float16]) -> ByteArray:
    """Return blocks, uint8 (n, bytes of a block).

    Args:
        kind: "TQ1_0" or "TQ2_0".
        codes: 0, 1, 2, uint8 (n, 256).
        scales: float16 (n,).
    """
    blocks = np.empty((len(codes), BLOCK_BYTES[kind]), np.uint8)
    (_tq1_0 if kind == "TQ1_0" else _tq2_0)(codes, blocks[:, :-2])
    blocks[:, -2:] = scales.astype("<f2").reshape(-1, 1).view(np.uint8)
    return blocks


def _tq2_0(codes: ByteArray, out: ByteArray) -> None:
    """Code 128 g + 32 l + m goes to bits 2l and 2l + 1 of byte 32 g + m."""
    planes = codes.reshape(-1, 2, 4, 32)
    packed = planes[:, :, 0] | planes[:, :, 1] << 2 | planes[:, :, 2] << 4 | planes[:, :, 3] << 6
    out[:] = packed.reshape(out.shape)


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
