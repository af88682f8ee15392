"""Post-training quantization of float masters: absmean, absmedian, Ternary Weight Networks.

A weight w becomes sign(w) if |w * factor| > threshold, computed in float32, and else 0, times a
scale. Factor, threshold and scale belong to the tensor, the row or the group of columns.

Models are trained with these rules. Applied to other models, they lose much accuracy.
self_quantizing.py handles masters that the model itself quantizes.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from fnmatch import fnmatchcase
from math import sqrt
from typing import NamedTuple

import numpy as np

from rsr_formats.records import TERNARY, IndexedTensor

from .. import _native
from ..common.arrays import ByteArray
from ..source.checkpoint import Checkpoint
from ..source.quantization import HEADS
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, Quality, TernaryTensor
from .float_bits import (
    Bits,
    bits_of,
    blocks,
    float_values,
    is_float_matrix,
    native_values,
    row_blocks,
)
from .scales import Per, ScaleGrid, Scales
from .stats import means, medians

# Matrices that models keep in floating point: embeddings, output heads, norms and the routers of
# mixtures of experts, also called gates. "output" is a head only as a whole name: layers inside a
# model have names that end with it.
DENSE_NAMES = (
    *("*embed*", "*wte*", "*wpe*", "*lm_head*", "*norm*", "*router*"),
    *("gate.weight", "*.gate.weight"),
    *(f"{head}.weight" for head in HEADS),
    *(f"*.{head}.weight" for head in HEADS if head != "output"),
)

_MIN_MAGNITUDE = np.float32(1e-5)  # lower bound of the mean or median, as in BitNet's code
_HALF = np.float32(0.5)  # half to even: 0.5 rounds to 0, anything above to 1
_TWN_SHARE = np.float32(0.7)  # the threshold of TWN as a share of the mean magnitude


class QuantParams(NamedTuple):
    """How weights become digits: three statistics (see stats.py) of one shape."""

    factor: Scales
    threshold: Scales
    scale: Scales


class Quantizer(Layout):
    """A quantization rule with its granularity.

    Args:
        per: what shares a scale.
        chosen: whether the user chose the tensors by name, which overrides `DENSE_NAMES`.
        params: the parameters of one tensor; required to decode it.
    """

    lossless = False

    def __init__(
        self, per: Per = "tensor", chosen: bool = False, params: QuantParams | None = None
    ) -> None:
        self.per = per
        self._chosen = chosen
        self._params = params

    @abstractmethod
    def fit(self, tensor: SourceTensor, per: Per) -> QuantParams:
        """Compute the parameters of a float matrix; not finite where a weight is not."""

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim float matrices that are weights of linear layers by their names."""
        if not is_float_matrix(tensor):
            return None
        if not self._chosen:
            if not tensor.name.endswith("weight"):
                return "not quantized: its name does not end in 'weight' (--include overrides)"
            if any(fnmatchcase(tensor.name.lower(), pattern) for pattern in DENSE_NAMES):
                return "not quantized: its name is not a linear layer's (--include overrides)"
        found = self.quantize(tensor, " (post-training, lossy)")
        return found if isinstance(found, str) else replace(found, quality=_quality(found))

    def requantize(
        self, checkpoint: Checkpoint, tensor: SourceTensor, record: IndexedTensor
    ) -> TernaryTensor | str | None:
        """Quantize a master with the granularity that its record in a `.rsr` file states."""
        return type(self)(_per_of(record)).quantize(tensor, "")

    def quantize(self, tensor: SourceTensor, remark: str) -> TernaryTensor | str:
        """Quantize a float matrix of any name.

        Args:
            tensor: F32, F16 or BF16, (out_features, in_features).
            remark: ends the note of the result.

        Returns:
            The ternary tensor, or the reason why it cannot be quantized.
        """
        rows, columns = tensor.shape
        # A group as wide as a row is the row.
        per = "row" if isinstance(self.per, int) and self.per >= columns else self.per
        with np.errstate(all="ignore"):  # values that are not finite are found below
            params = self.fit(tensor, per)
        if not all(np.isfinite(part).all() for part in params):
            return f"{tensor.dtype} with NaN or infinite values"
        scale = _grid(params.scale, per, rows)
        note = f"{self.name} {scale.words}{remark}"
        layout = type(self)(per, self._chosen, params)
        return TernaryTensor(tensor, layout, (rows, columns), TERNARY, scale, note)

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Quantize a window."""
        return self.quantize_window(bits_of(raw, t.tensor)[rows, columns], t, rows, columns)

    def quantize_window(
        self, bits: Bits, t: TernaryTensor, rows: slice, columns: slice
    ) -> DigitArray:
        """Quantize a window, given as the bit patterns of its weights, (rows, columns)."""
        assert self._params is not None
        digits = np.empty(bits.shape, np.uint8)
        factor, threshold, _ = self._params
        if self.per == "tensor" and threshold[0, 0] == _HALF:
            values = native_values(bits, t.tensor.dtype)
            _native.rounded_digits(values, float(factor[0, 0]), digits)
            return digits
        factors, thresholds = (_grid(part, self.per, t.shape[0]) for part in (factor, threshold))
        for part in row_blocks(bits.shape):
            at = slice(rows.start + part.start, rows.start + part.stop)
            with np.errstate(over="ignore"):  # infinity exceeds any threshold, too
                x = float_values(bits[part], t.tensor.dtype) * factors.window(at, columns)
            limit = thresholds.window(at, columns)
            np.subtract(x > limit, x < -limit, dtype=np.int8, out=digits[part].view(np.int8))
            digits[part] += 1
        return digits


class AbsMean(Quantizer):
    """BitNet b1.58 (arXiv 2402.17764): clip(round_half_even(W s), -1, 1) / s.

    s = 1 / max(mean|W|, 1e-5) in float32; the mean is accumulated in float64 and rounded once.
    """

    name = "absmean"

    def fit(self, tensor: SourceTensor, per: Per) -> QuantParams:
        """Return s, 1/2, 1/s."""
        return _rounding(means(tensor, per))


class AbsMedian(Quantizer):
    """AbsMean with the median of |W|: of an even number, the lower of the two in the middle."""

    name = "absmedian"

    def fit(self, tensor: SourceTensor, per: Per) -> QuantParams:
        """Return s, 1/2, 1/s."""
        return _rounding(medians(tensor, per))


class TWN(Quantizer):
    """Ternary Weight Networks (arXiv 1605.04711).

    Weights above 0.7 mean|W| in magnitude become their sign. The scale is the mean of these
    magnitudes, 0 if there are none.
    """

    name = "twn"

    def fit(self, tensor: SourceTensor, per: Per) -> QuantParams:
        """Return 1, the threshold, the scale."""
        threshold = _TWN_SHARE * means(tensor, per)
        scale = means(tensor, per, above=threshold) if np.isfinite(threshold).all() else threshold
        return QuantParams(np.broadcast_to(np.float32(1), scale.shape), threshold, scale)


QUANTIZERS: dict[str, type[Quantizer]] = {q.name: q for q in (AbsMean, AbsMedian, TWN)}


def _rounding(typical: Scales) -> QuantParams:
    """Return the parameters of rounding W / typical; `typical` is a statistic."""
    s: Scales = np.divide(1, np.maximum(typical, _MIN_MAGNITUDE), dtype=np.float32)
    return QuantParams(s, np.broadcast_to(_HALF, s.shape), np.divide(1, s, dtype=np.float32))


def _grid(statistic: Scales, per: Per, rows: int) -> ScaleGrid:
    """Return a statistic of a matrix of `rows` rows as a grid."""
    if per == "tensor":
        return ScaleGrid(statistic, max(1, rows))
    return ScaleGrid(statistic, 1, None if per == "row" else per)


def _per_of(record: IndexedTensor) -> Per:
    """Return the granularity of a matrix in a `.rsr` file."""
    scale = record.scale
    if scale is None or (scale.columns is None and scale.rows >= record.shape[0]):
        return "tensor"
    return scale.columns or "row"


def _quality(t: TernaryTensor) -> Quality:
    """Compare a quantized tensor with its master, in float64."""
    assert isinstance(t.layout, Quantizer)
    assert t.scale is not None
    columns = slice(0, t.shape[1])
    zeros = 0
    ww = qq = wq = errors = 0.0
    for rows, bits in blocks(t.tensor):
        digits = t.layout.quantize_window(bits, t, rows, columns)
        zeros += int(np.count_nonzero(digits == TERNARY.index(0)))
        w = float_values(bits, t.tensor.dtype).astype(np.float64)
        q = (digits - 1.0) * t.scale.window(rows, columns)
        ww += float(np.vdot(w, w))
        qq += float(np.vdot(q, q))
        wq += float(np.vdot(w, q))
        w -= q
        errors += float(np.vdot(w, w))
    return Quality(
        zero_share=zeros / max(1, t.shape[0] * t.shape[1]),
        relative_error=sqrt(errors / ww) if ww else 0.0,
        cosine=wq / sqrt(ww * qq) if ww * qq else float(ww == qq),
    )
