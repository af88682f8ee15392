"""Make float masters ternary: absmean, absmedian, Ternary Weight Networks.

A weight w becomes sign(w) where |w * factor| > threshold in float32, else 0, times a scale. Factor,
threshold and scale are those of its tensor, its row or its group of columns.

These are rules for training with: on weights that were not trained with one it is post-training
quantization, and loses much of any model. What a model itself computes is in online.py.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from fnmatch import fnmatchcase
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsr_formats.records import TERNARY, IndexedTensor

from .. import _native
from ..source.checkpoint import Checkpoint
from ..source.quantization import HEADS
from ..source.tensor import SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Quality, Restored, Scales, TernaryTensor
from .cells import (
    BLOCK,
    Per,
    blocks,
    float_values,
    means,
    medians,
    narrowed,
    native_values,
    per_of,
    scale_grid,
    spread,
)
from .floats import bits_of, restore_floats
from .groups import Bits

# Matrices that models keep in floating point: embeddings, output heads, norms, routers (which are
# also called gates). Layers inside a model may be called "output", too.
KEPT = (
    *("*embed*", "*wte*", "*wpe*", "*lm_head*", "*norm*", "*router*"),
    *("gate.weight", "*.gate.weight"),
    *(f"{head}.weight" for head in HEADS),
    *(f"*.{head}.weight" for head in HEADS if head != "output"),
)

_LEAST = np.float32(1e-5)  # what absmean and absmedian divide by at least
_HALF = np.float32(0.5)  # rounds to zero, the even neighbor: only what is beyond becomes 1
_SHARE = np.float32(0.7)  # of the mean magnitude: the threshold of Ternary Weight Networks


class Cut(NamedTuple):
    """How weights become digits: statistics (see cells.py) of float32."""

    factor: Scales
    threshold: Scales
    scale: Scales


class Quantizer(Layout):
    """A rule, and what has a scale of its own.

    Args:
        per: "tensor", "row" or so many columns of a row.
        chosen: whether the user named the tensors, so that names are no reason to keep one.
        cut: what the rule found in one tensor.
    """

    lossless = False

    def __init__(self, per: Per = "tensor", chosen: bool = False, cut: Cut | None = None) -> None:
        self.per = per
        self._chosen = chosen
        self._cut = cut

    @abstractmethod
    def cut(self, tensor: SourceTensor, per: Per) -> Cut:
        """Find how to quantize a float matrix; not finite where a weight is not."""

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim float matrices that are weights of linear layers by their names."""
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            return None
        if not self._chosen:
            if not tensor.name.endswith("weight"):
                return "not quantized: the name does not end in 'weight' (--include overrides)"
            if any(fnmatchcase(tensor.name.lower(), pattern) for pattern in KEPT):
                return "not quantized: no linear layer by its name (--include overrides)"
        found = self.quantize(tensor, " (post-training, lossy)")
        return found if isinstance(found, str) else replace(found, quality=_quality(found))

    def again(
        self, checkpoint: Checkpoint, tensor: SourceTensor, record: IndexedTensor
    ) -> TernaryTensor | str | None:
        """Quantize a master again as its record in a `.rsr` file says that it was."""
        return type(self)(per_of(record)).quantize(tensor, "")

    def quantize(self, tensor: SourceTensor, why: str) -> TernaryTensor | str:
        """Return a float matrix as ternary, or why that cannot be; `why` ends the report's note."""
        rows, columns = tensor.shape
        per = narrowed(self.per, columns)
        with np.errstate(all="ignore"):  # what is not finite is found below
            cut = self.cut(tensor, per)
        if not all(np.isfinite(part).all() for part in cut):
            return f"{tensor.dtype} with NaN or infinite values"
        scale = scale_grid(cut.scale, per, rows)
        note = f"{self.name} {scale.words}{why}"
        layout = type(self)(per, self._chosen, cut)
        return TernaryTensor(tensor, layout, (rows, columns), TERNARY, scale, note)

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Quantize a window."""
        return self.cut_digits(bits_of(raw, t.tensor)[rows, columns], t, rows, columns)

    def cut_digits(self, bits: Bits, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Quantize a window, given as the bit patterns of its weights."""
        assert self._cut is not None
        digits = np.empty(bits.shape, np.uint8)
        factor, threshold, _ = self._cut
        if self.per == "tensor" and threshold[0, 0] == _HALF:
            values = native_values(bits, t.tensor.dtype)
            _native.rounded_digits(values, float(factor[0, 0]), digits)
            return digits
        step = max(1, BLOCK // max(1, bits.shape[1]))
        for first in range(0, len(bits), step):
            part = slice(first, min(first + step, len(bits)))
            at = slice(rows.start + part.start, rows.start + part.stop)
            with np.errstate(over="ignore"):  # infinite is beyond any threshold, too
                x = float_values(bits[part], t.tensor.dtype) * spread(factor, self.per, at, columns)
            limit = spread(threshold, self.per, at, columns)
            np.subtract(x > limit, x < -limit, dtype=np.int8, out=digits[part].view(np.int8))
            digits[part] += 1
        return digits

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return digit value * scale in the source's dtype: what was kept of the master."""
        return restore_floats(r)


class AbsMean(Quantizer):
    """BitNet b1.58 (arXiv 2402.17764): clip(round_half_even(W s), -1, 1) / s.

    s = 1 / max(mean|W|, 1e-5) in float32; the mean is accumulated in float64 and rounded once.
    """

    name = "absmean"

    def cut(self, tensor: SourceTensor, per: Per) -> Cut:
        """Return s, one half, 1 / s."""
        return _rounding(means(tensor, per))


class AbsMedian(Quantizer):
    """The same with the median of |W| (of an even number, the lower of the two in the middle)."""

    name = "absmedian"

    def cut(self, tensor: SourceTensor, per: Per) -> Cut:
        """Return s, one half, 1 / s."""
        return _rounding(medians(tensor, per))


class TWN(Quantizer):
    """Ternary Weight Networks (arXiv 1605.04711).

    Weights beyond 0.7 mean|W| keep their sign; their mean magnitude is the scale, 0 without any.
    """

    name = "twn"

    def cut(self, tensor: SourceTensor, per: Per) -> Cut:
        """Return one, the threshold, the scale."""
        threshold = _SHARE * means(tensor, per)
        scale = means(tensor, per, above=threshold) if np.isfinite(threshold).all() else threshold
        return Cut(np.broadcast_to(np.float32(1), scale.shape), threshold, scale)


QUANTIZERS: dict[str, type[Quantizer]] = {q.name: q for q in (AbsMean, AbsMedian, TWN)}


def _rounding(typical: Scales) -> Cut:
    s: Scales = np.divide(1, np.maximum(typical, _LEAST), dtype=np.float32)
    return Cut(s, np.broadcast_to(_HALF, s.shape), np.divide(1, s, dtype=np.float32))


def _quality(t: TernaryTensor) -> Quality:
    """Compare what is kept of a master with the master, in float64."""
    assert isinstance(t.layout, Quantizer)
    assert t.scale is not None
    layout, per = t.layout, t.layout.per
    whole = slice(0, t.shape[1])
    zeros = 0
    master = kept = product = difference = 0.0
    for rows, bits in blocks(t.tensor):
        digits = layout.cut_digits(bits, t, rows, whole)
        zeros += int(np.count_nonzero(digits == TERNARY.index(0)))
        w = float_values(bits, t.tensor.dtype).astype(np.float64)
        q = (digits - 1.0) * spread(t.scale.values, per, rows, whole)
        master += float(np.vdot(w, w))
        kept += float(np.vdot(q, q))
        product += float(np.vdot(w, q))
        w -= q
        difference += float(np.vdot(w, w))
    return Quality(
        zero_share=zeros / max(1, t.shape[0] * t.shape[1]),
        relative_error=sqrt(difference / master) if master else 0.0,
        cosine=product / sqrt(master * kept) if master * kept else float(master == kept),
    )
