"""Quantise float masters to ternary by BitNet b1.58's absmean rule (arXiv 2402.17764). Lossy."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.layout import TERNARY

from .. import _native
from ..checkpoint import Checkpoint, SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, Scales, TernaryTensor
from .floats import bits_of, restore_floats, row_panels
from .groups import Bits
from .scales import per_tensor

# Matrices that BitNet models keep in floating point: embeddings, output heads, norms, routers.
KEPT = ("*embed*", "*wte*", "*wpe*", "*lm_head*", "output.weight", "*norm*", "*router*")


class AbsMean(Layout):
    """t = clip(round_half_even(W s), -1, 1), s = 1 / max(mean|W|, 1e-5), in float32, per tensor.

    The mean is accumulated in float64 and rounded once. `chosen` says that the user named the
    tensors (--include), so that names are no reason to keep one; `s` is that of one tensor.
    """

    name = "absmean"
    lossless = False

    def __init__(self, chosen: bool = False, s: np.float32 | None = None) -> None:
        self._chosen = chosen
        self._s = s

    def recognise(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim float matrices that are weights of linear layers by their names."""
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            return None
        if not self._chosen:
            if not tensor.name.endswith("weight"):
                return "not quantised: the name does not end in 'weight' (--include overrides)"
            if any(fnmatchcase(tensor.name.lower(), pattern) for pattern in KEPT):
                return "not quantised: no linear layer by its name (--include overrides)"
        bits, total = f"<u{FLOATS[tensor.dtype]}", 0.0
        for panel in row_panels(tensor):
            total += _native.sum_of_magnitudes(_values(panel.view(bits), tensor.dtype))
        if not np.isfinite(total):
            return f"{tensor.dtype} with NaN or infinite values"
        mean = np.float32(total / max(1, tensor.shape[0] * tensor.shape[1]))
        s = np.float32(1) / max(mean, np.float32(1e-5))
        return TernaryTensor(
            tensor,
            AbsMean(self._chosen, s),
            (tensor.shape[0], tensor.shape[1]),
            TERNARY,
            per_tensor(np.float32(1) / s, tensor.shape[0]),
            "absmean per tensor (lossy)",
        )

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Quantise a window."""
        assert self._s is not None
        values = _values(bits_of(raw, t.tensor)[rows, columns], t.tensor.dtype)
        digits = np.empty(values.shape, np.uint8)
        _native.rounded_digits(values, float(self._s), digits)
        return digits

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return digit value * scale in the source's dtype: what was kept of the master."""
        return restore_floats(r)


def _values(bits: Bits, dtype: str) -> Bits | Scales:
    """Return bit patterns as native code takes values: BF16 as it is, F32, and F16 as float32."""
    if dtype == "BF16":
        return bits
    return bits.view(np.float32) if dtype == "F32" else bits.view(np.float16).astype(np.float32)
