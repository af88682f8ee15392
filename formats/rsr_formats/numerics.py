"""Arithmetic that the compiler and the runtime share."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def widen_bf16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return BF16 numbers, given as their bits, as float32 of the same shape.

    A BF16 number is the upper half of a float32, so this is exact.
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return finite float32 values rounded to BF16, to nearest with ties to even, as their bits."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def llama3_kept(
    wavelengths: npt.NDArray[np.float64], low: float, high: float, original: float
) -> npt.NDArray[np.float64]:
    """Return the share of each RoPE frequency that Llama 3's scaling keeps, (head_dim / 2,).

    A frequency f becomes (1 - kept) f / factor + kept f. The share is 1 for short wavelengths, 0
    for long ones and linear between (`modeling_rope_utils.py` in transformers). The runtime applies
    the formula, and the GGUF reader inverts it.

    Args:
        wavelengths: positions per turn, (head_dim / 2,).
        low: `low_freq_factor`.
        high: `high_freq_factor`, greater than `low`.
        original: `original_max_position_embeddings`.
    """
    return np.clip((original / wavelengths - low) / (high - low), 0, 1)


def yarn_pair(turns: float, original: float, theta: float, head_dim: int) -> float:
    """Return the pair of features that makes so many turns within the original context.

    Pairs are counted from 0; the result lies between them. Yarn stretches those after one such
    bound and keeps those before another (`modeling_rope_utils.py` in transformers).

    Args:
        turns: `beta_fast` or `beta_slow`, above 0.
        original: `original_max_position_embeddings`, above 0.
        theta: base of the frequencies, above 1.
        head_dim: features that RoPE rotates.
    """
    return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
