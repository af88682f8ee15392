"""ParetoQ (arXiv 2502.02631) at 1.58 bits: a float master with a learned clip value per row.

With alpha = max(clip value, 1e-5), a weight w becomes

    round_half_even(clip(w / alpha, -0.99, 0.99) * 1.5) / 1.5 * alpha

which is 0 for |w| up to alpha / 3, and above that 2 alpha / 3 with the sign of w. The model
computes this in every forward pass, so compiling loses nothing. Each operation is done in float32,
in the model's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rsr_formats.records import TERNARY

from ..common.arrays import ByteArray
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, TernaryTensor
from .float_bits import (
    FLOAT_BYTES,
    bits_of,
    float_values,
    is_float_matrix,
    row_blocks,
    to_float32,
)
from .scales import Scales, per_row
from .stats import means

_MIN_ALPHA = np.float32(1e-5)
_LEVELS = np.float32(1.5)

_CLIP = "weight_clip_val"  # replaces "weight" in the name of the clip values
_FORK_CLIP = "scale"  # does so in a fork for MiniCPM


def is_ternary_paretoq(config: dict[str, Any]) -> bool:
    """Return whether config.json says that ParetoQ makes weights with clip values ternary."""
    w_bits = config.get("w_bits")
    return not isinstance(w_bits, bool) and w_bits in (0, 1.58)


def is_clip(name: str) -> bool:
    """Return whether `name` is that of a tensor of ParetoQ's clip values."""
    return name.endswith(_CLIP)


def clip_names(name: str) -> tuple[str, str]:
    """Return the two possible names of the clip values of the matrix `name`."""
    base = name.removesuffix("weight")
    return base + _CLIP, base + _FORK_CLIP


class ParetoQ(Layout):
    """Masters whose config.json has `w_bits` 0, ParetoQ's code for ternary, or 1.58.

    Args:
        alpha: of one tensor, (out_features, 1); required to decode it.
    """

    name = "paretoq"
    lossless = False

    def __init__(self, alpha: Scales | None = None) -> None:
        self._alpha = alpha

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim float matrices `<base>weight` that have a clip value for each row."""
        if not is_float_matrix(tensor) or not tensor.name.endswith("weight"):
            return None
        own, fork = (checkpoint.tensors.get(name) for name in clip_names(tensor.name))
        if own is None and "w_bits" not in checkpoint.config:
            return None  # a tensor named "scale" may be anything
        clip = own or fork
        if clip is None:
            return None
        if not is_ternary_paretoq(checkpoint.config):
            w_bits = checkpoint.config.get("w_bits")
            found = "no w_bits" if w_bits is None else f"w_bits {str(w_bits)[:64]}"
            return (
                f"has clip values {clip.name[:256]!r}, but config.json has {found}, expected "
                "w_bits 0 for ternary"
            )
        rows, columns = tensor.shape
        if clip.dtype not in FLOAT_BYTES or clip.shape not in ((rows,), (rows, 1)):
            return f"{clip.name} is {clip.dtype} {list(clip.shape)}, expected a float for each row"
        values = to_float32(clip.read(), clip.dtype).reshape(rows, 1)
        if not np.isfinite(values).all():
            return f"{clip.name} has NaN or infinite values"
        if not np.isfinite(means(tensor, "tensor")).all():
            return f"{tensor.dtype} with NaN or infinite values"
        alpha = np.maximum(values, _MIN_ALPHA)
        scale = per_row(np.float32(1) / _LEVELS * alpha)
        note = "paretoq per row, as the model computes: 2/3 of clip value (w_bits in config.json)"
        return TernaryTensor(tensor, ParetoQ(alpha), (rows, columns), TERNARY, scale, note)

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Quantize a window."""
        assert self._alpha is not None
        bits, alpha = bits_of(raw, t.tensor)[rows, columns], self._alpha[rows]
        digits = np.empty(bits.shape, np.uint8)
        for part in row_blocks(bits.shape):
            x = float_values(bits[part], t.tensor.dtype) / alpha[part]
            # The clip to +-0.99 is omitted: values beyond it round to +-1 or more, clipped below.
            x *= _LEVELS
            np.rint(x, out=x)
            np.clip(x, -1, 1, out=x)
            digits[part] = x + 1
        return digits
