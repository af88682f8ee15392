"""ParetoQ (arXiv 2502.02631) at 1.58 bits: a float master and a learned clip value for each row.

With alpha = max(clip value, 1e-5), a weight w counts as

    round_half_even(clip(w / alpha, -0.99, 0.99) * 1.5) / 1.5 * alpha

which is 0 up to alpha / 3, and 2 alpha / 3 with the sign of w beyond. The model computes that in
every forward pass, so nothing is lost; here in float32, operation by operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import TERNARY

from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, Scales, TernaryTensor
from .cells import BLOCK, float_values, means
from .floats import bits_of, restore_floats, to_float32
from .scales import per_row

_LEAST = np.float32(1e-5)
_LEVELS = np.float32(1.5)

_CLIP = "weight_clip_val"  # in place of "weight" in the clip values' name
_FORK = "scale"  # what a fork for MiniCPM calls it


def says_paretoq(config: dict[str, Any]) -> bool:
    """Return whether config.json says that ParetoQ makes weights with clip values ternary."""
    w_bits = config.get("w_bits")
    return not isinstance(w_bits, bool) and w_bits in (0, 1.58)


def is_clip(name: str) -> bool:
    """Return whether `name` is that of ParetoQ's clip values."""
    return name.endswith(_CLIP)


def clip_names(name: str) -> tuple[str, str]:
    """Return what the clip values of the matrix `name` may be called."""
    base = name.removesuffix("weight")
    return base + _CLIP, base + _FORK


class ParetoQ(Layout):
    """Masters whose config.json has `w_bits` 0, ParetoQ's word for ternary, or 1.58."""

    name = "paretoq"
    lossless = False

    def __init__(self, alpha: Scales | None = None) -> None:
        self._alpha = alpha  # (out_features, 1)

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim float matrices `<name>weight` that have a clip value for each row."""
        base = tensor.name.removesuffix("weight")
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2 or base == tensor.name:
            return None
        if (clip := checkpoint.tensors.get(base + _CLIP)) is None:
            clip = checkpoint.tensors.get(base + _FORK)
            if clip is None or "w_bits" not in checkpoint.config:
                return None  # anyone may call anything a scale
        w_bits = checkpoint.config.get("w_bits")
        if not says_paretoq(checkpoint.config):
            found = "no w_bits" if w_bits is None else f"w_bits {str(w_bits)[:64]}"
            return f"beside {clip.name[:256]!r}, but config.json has {found}; 0 would be ternary"
        rows, columns = tensor.shape
        if clip.dtype not in FLOATS or clip.shape not in ((rows,), (rows, 1)):
            return f"{clip.name} is {clip.dtype} {list(clip.shape)}, expected a float for each row"
        values = to_float32(clip.read(), clip.dtype).reshape(rows, 1)
        if not np.isfinite(values).all():
            return f"{clip.name} has NaN or infinite values"
        if not np.isfinite(means(tensor, "tensor")).all():
            return f"{tensor.dtype} with NaN or infinite values"
        alpha = np.maximum(values, _LEAST)
        scale = per_row(np.float32(1) / _LEVELS * alpha)
        note = "paretoq per row, as the model computes: 2/3 of clip value, by w_bits in config.json"
        return TernaryTensor(tensor, ParetoQ(alpha), (rows, columns), TERNARY, scale, note)

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Quantize a window."""
        assert self._alpha is not None
        bits, alpha = bits_of(raw, t.tensor)[rows, columns], self._alpha[rows]
        digits = np.empty(bits.shape, np.uint8)
        step = max(1, BLOCK // max(1, bits.shape[1]))
        for first in range(0, len(bits), step):
            part = slice(first, first + step)
            x = float_values(bits[part], t.tensor.dtype) / alpha[part]
            x *= _LEVELS  # clipping to 0.99 comes to the same: beyond it, all round to 1 as well
            np.rint(x, out=x)
            np.clip(x, -1, 1, out=x)
            digits[part] = x + 1
        return digits

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return digit value * scale in the source's dtype: what the model computes."""
        return restore_floats(r)
