"""Blocks of TQ1_0 and TQ2_0, the ternary types of ggml (ggml-common.h, gguf/quants.py).

A block holds 256 weights of a row as codes 0, 1, 2 (value + 1), and one scale, float16, at its end.
TQ2_0 has two bits for a code. TQ1_0 has five codes to a byte, as the fraction of 243 that begins
with them in base 3, so that each multiplication by 3 carries the next one out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

BLOCK = 256
BLOCK_BYTES = {"TQ1_0": 54, "TQ2_0": 66}

_WEIGHTS = np.array([81, 27, 9, 3, 1], np.uint8)
# Rounded up, so that what the division lost does not end one below the code.
_FRACTION = ((np.arange(243) * 256 + 242) // 243).astype(np.uint8)


def encode(kind: str, codes: Bytes, scales: npt.NDArray[np.float16]) -> Bytes:
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


def _tq2_0(codes: Bytes, out: Bytes) -> None:
    """Code 128 g + 32 l + m goes to bits 2 l of byte 32 g + m."""
    planes = codes.reshape(-1, 2, 4, 32)
    packed = planes[:, :, 0] | planes[:, :, 1] << 2 | planes[:, :, 2] << 4 | planes[:, :, 3] << 6
    out[:] = packed.reshape(out.shape)


def _tq1_0(codes: Bytes, out: Bytes) -> None:
    """32 bytes of 5 planes of 32 codes, 16 of 5 planes of 16, and 4 of 4 planes of 4."""
    byte = code = 0
    for width, planes in ((32, 5), (16, 5), (4, 4)):
        part = codes[:, code : code + width * planes].reshape(-1, planes, width)
        number = np.zeros((len(codes), width), np.uint8)  # below 243
        for plane in range(planes):
            number += part[:, plane] * _WEIGHTS[plane]
        out[:, byte : byte + width] = _FRACTION[number]
        byte, code = byte + width, code + width * planes
