"""The formula of Llama 3's RoPE scaling, which the compiler inverts and the runtime applies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def llama3_kept(
    wavelengths: npt.NDArray[np.float64], low: float, high: float, original: float
) -> npt.NDArray[np.float64]:
    """Return the share of each frequency that is kept; the rest is divided by `factor`.

    1 for short wavelengths, 0 for long ones, linear between (transformers, modeling_rope_utils.py).

    Args:
        wavelengths: positions per turn, (head_dim / 2,).
        low: `low_freq_factor`.
        high: `high_freq_factor`, greater than `low`.
        original: `original_max_position_embeddings`.
    """
    return np.clip((original / wavelengths - low) / (high - low), 0, 1)
