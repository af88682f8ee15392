"""Matrices as MLX stores them: words of codes, with scales and biases for groups of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .models import FloatArray, Tensor

Parts = dict[str, Tensor]  # "weight", "scales" and "biases"


def ternary(w: npt.NDArray[Any], width: int) -> Parts:
    """Return ternary values as 2-bit codes with scales for `width` columns."""
    groups = w.astype(np.float32).reshape(len(w), -1, width)
    scales = np.abs(groups).max(axis=2)
    codes = np.rint(groups / scales[:, :, None] + 1).astype(np.uint8)
    return _parts(codes.reshape(len(w), -1), 2, scales, -scales)


def quantized(w: npt.NDArray[Any], bits: int, width: int) -> tuple[Parts, FloatArray]:
    """Return values rounded to codes of 4 or 8 bits, and the float16 values of these."""
    groups = w.astype(np.float32).reshape(len(w), -1, width)
    biases = groups.min(axis=2).astype(np.float16).astype(np.float32)
    scales = (groups.max(axis=2) - biases) / ((1 << bits) - 1)
    scales = scales.astype(np.float16).astype(np.float32)
    codes = np.rint((groups - biases[:, :, None]) / scales[:, :, None])
    codes = np.clip(codes, 0, (1 << bits) - 1)
    values = codes * scales[:, :, None] + biases[:, :, None]
    parts = _parts(codes.astype(np.uint8).reshape(len(w), -1), bits, scales, biases)
    return parts, values.reshape(w.shape).astype(np.float16)


def _parts(
    codes: npt.NDArray[np.uint8], bits: int, scales: FloatArray, biases: FloatArray
) -> Parts:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed = (codes.reshape(len(codes), -1, len(shifts)) << shifts).sum(axis=2, dtype=np.uint8)
    return {
        "weight": Tensor("U32", np.ascontiguousarray(packed).view("<u4")),
        "scales": Tensor.of(scales, "F16"),
        "biases": Tensor.of(biases, "F16"),
    }
