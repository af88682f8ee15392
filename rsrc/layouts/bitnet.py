"""The Hugging Face `bitnet` layout: U8 [ceil(out / 4), in] with a `weight_scale` beside it.

Four rows share a byte, but not four neighbors: with R = ceil(out / 4), bits 2i and 2i + 1 of byte
[r, c] hold row i R + r as code = value + 1. `weight_scale` is divided by where config.json has
linear_class "bitlinear" (the default), and multiplied by where it has "autobitlinear"
(transformers, integrations/bitnet.py).

What a tensor is, its dtype and shape decide, as transformers lets them. The config decides what it
must be: a tensor that is not what the config says is an error, and without a config it stays dense.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import TERNARY, InlineTensor
from rsr_formats.text import quoted

from ..common.errors import SourceError
from ..source.checkpoint import Checkpoint
from ..source.shapes import expected_shape
from ..source.tensor import PIECE, SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, TernaryTensor
from .floats import Floats, to_float32
from .int8 import Int8
from .scales import per_tensor

# A scale and the magnitude it is compared with are each rounded to BF16 or finer, one of them after
# a division: they differ by less than this share of either.
_ROUNDING = 2.0**-7


class BitNet(Layout):
    """Two bits per weight in quarters of the rows."""

    name = "bitnet"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional U8 tensors that have a `<name>_scale` of one float."""
        if tensor.dtype != "U8" or len(tensor.shape) != 2:
            return None
        if f"{tensor.name}_scale" not in checkpoint.tensors:
            _check_scales_are_there(checkpoint, tensor)
            return f"U8, but there is no tensor {tensor.name}_scale"
        found = self._recognize(checkpoint, tensor)
        if isinstance(found, TernaryTensor):
            return found
        if _is_claimed(checkpoint, tensor):
            raise _contradiction(tensor, found)
        return f"U8, but {found}"

    def _recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str:
        rule = _scale_rule(checkpoint, tensor)
        if isinstance(rule, str):
            return rule
        if where := _find_code_3(tensor):
            return f"it holds code 3, which is no weight ({where})"
        out_features = _out_features(checkpoint, tensor)
        if isinstance(out_features, str):
            return out_features
        scale, note, auxiliary = rule
        shape = (out_features, tensor.shape[1])
        grid = per_tensor(scale, out_features)
        return TernaryTensor(tensor, self, shape, TERNARY, grid, note, auxiliary)

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window: a code is a digit."""
        quarter = t.tensor.shape[0]
        packed = raw.reshape(t.tensor.shape)
        result = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        for i in range(4):
            first = max(rows.start, i * quarter)
            stop = min(rows.stop, (i + 1) * quarter)
            if first < stop:
                part = packed[first - i * quarter : stop - i * quarter, columns]
                out = result[first - rows.start : stop - rows.start]
                np.right_shift(part, 2 * i, out=out)
                out &= 3
        return result

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Pack four quarters of the rows into bytes again; codes missing from the last are 0."""
        quarters = np.zeros((4, *r.record.source.shape), np.uint8)
        quarters.reshape(-1)[: r.digits.size] = r.digits.reshape(-1)
        packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
        return np.asarray(packed)


class UnpackedBitNet(Floats):
    """The same before packing: floats -1, 0, 1 beside a `weight_scale`, saved from memory."""

    name = "bitnet-unpacked"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim floats -1, 0, 1 that config.json and a `<name>_scale` say are a BitNet weight.

        Floats -s, 0, s are as good if the scale says no more than they do; they keep their own.

        Raises:
            SourceError: the scale is none, or it and the floats contradict each other.
        """
        if tensor.dtype not in FLOATS or not _is_scaled(checkpoint, tensor):
            return None
        found = super().recognize(checkpoint, tensor)
        if not isinstance(found, TernaryTensor):
            return None  # a master: layout float says why it is not ternary
        scaled = _with_scale(checkpoint, found)
        assert found.scale is not None  # Floats always finds one
        if np.isin(found.scale.values, (0, 1)).all():
            return scaled
        _check_dequantized(found, scaled)
        return replace(found, layout=Floats(), note=f"{found.note}, weight_scale says no more")

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return the digit values in the source's dtype: the scale is the companion's."""
        return super().restore(replace(r, scale=None))


class Int8BitNet(Int8):
    """I8 tensors of values -1, 0, 1 whose scale is a `weight_scale`."""

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim what layout int8 does where config.json and a `<name>_scale` give it a scale.

        Raises:
            SourceError: the scale is none.
        """
        if tensor.dtype != "I8" or not _is_scaled(checkpoint, tensor):
            return None
        found = self.unscaled(tensor)
        return _with_scale(checkpoint, found) if isinstance(found, TernaryTensor) else None


def advice_on_master(checkpoint: Checkpoint, tensor: SourceTensor) -> str:
    """Return what to do, to be added to a reason, if `tensor` should have been ternary; or ""."""
    is_weight = len(tensor.shape) == 2 and tensor.name.endswith(".weight")
    if tensor.dtype not in FLOATS or not is_weight or not _is_claimed(checkpoint, tensor):
        return ""
    if checkpoint.quantization.mode != "offline":
        return ""
    return (
        "; but config.json (quant_method bitnet, quantization_mode offline) says that it is: if "
        "it is a master weight, --quantize absmean makes it so"
    )


def _is_claimed(checkpoint: Checkpoint, tensor: SourceTensor) -> bool:
    """Return whether config.json says that `tensor` is a weight of a BitNet layer."""
    quantization = checkpoint.quantization
    return quantization.is_bitnet and quantization.converts(tensor.name)


def _is_scaled(checkpoint: Checkpoint, tensor: SourceTensor) -> bool:
    return f"{tensor.name}_scale" in checkpoint.tensors and _is_claimed(checkpoint, tensor)


def _contradiction(tensor: SourceTensor, found: str) -> SourceError:
    return SourceError(f"{tensor.name}: a BitNet weight by config.json, but {found}")


def _check_scales_are_there(checkpoint: Checkpoint, tensor: SourceTensor) -> None:
    """Refuse a packed weight without its scale, and name all there are."""
    names = list(checkpoint.unscaled)
    if tensor.name not in checkpoint.unscaled:
        return
    raise SourceError(
        "packed weights (U8) have no weight_scale beside them, without which a BitNet weight is "
        f"unknown: {quoted(names, 20)}"
    )


def _out_features(checkpoint: Checkpoint, tensor: SourceTensor) -> int | str:
    """Return the rows of the matrix, of which the last of a byte may be padding; or what is wrong.

    Packing pads the last quarter with code 0, which reads as the weight -1. The config or a bias
    tells how many rows there are; where neither does, all that the bytes have room for.
    """
    packed = tensor.shape[0]
    told: dict[str, int] = {}
    expected = expected_shape(checkpoint.config, tensor.name)
    # A vocabulary may have rows of the file's own. What does not fit at all, check_shape refuses.
    if expected and not expected.is_vocabulary and _packed_rows(expected.out_features) == packed:
        told[f"config.json ({expected.keys})"] = expected.out_features
    bias = checkpoint.tensors.get(f"{tensor.name.removesuffix('weight')}bias")
    if bias is not None and tensor.name.endswith(".weight") and len(bias.shape) == 1:
        told[bias.name] = bias.shape[0]
        if _packed_rows(bias.shape[0]) != packed:
            return (
                f"{bias.name} says {bias.shape[0]} rows, and {list(tensor.shape)} packs "
                f"{4 * packed}"
            )
    if not told:
        return 4 * packed
    if len(set(told.values())) > 1:
        return " and ".join(f"{source} says {rows} rows" for source, rows in told.items())
    source, rows = next(iter(told.items()))
    # Restoring pads with code 0: other codes would be lost, and they may well be weights.
    if rows < 4 * packed and _pads_with_other_codes(tensor, rows):
        return f"{source} says {rows} rows, and the bytes hold weights of more (codes not 0)"
    return rows


def _packed_rows(rows: int) -> int:
    return -(-rows // 4)


def _pads_with_other_codes(tensor: SourceTensor, rows: int) -> bool:
    quarter = tensor.shape[0]
    packed = tensor.read().reshape(tensor.shape)
    return any(
        (packed[row % quarter] >> 2 * (row // quarter) & 3).any()
        for row in range(rows, 4 * quarter)
    )


def _with_scale(checkpoint: Checkpoint, found: TernaryTensor) -> TernaryTensor:
    """Return an unpacked tensor with the scale of its companion, and that absorbed.

    Raises:
        SourceError: the companion is no scale.
    """
    rule = _scale_rule(checkpoint, found.tensor)
    if isinstance(rule, str):
        raise _contradiction(found.tensor, rule)
    scale, note, auxiliary = rule
    grid = per_tensor(scale, found.shape[0])
    return replace(found, scale=grid, note=note, auxiliary=auxiliary)


def _check_dequantized(found: TernaryTensor, scaled: TernaryTensor) -> None:
    """Check that a weight_scale beside floats -s, 0, s is s, its reciprocal, or 1.

    Then it was left behind when the weights were multiplied by it, or does nothing. With any other
    number, the matrix is one thing to who multiplies by it and another to who does not.
    """
    assert found.scale is not None
    assert scaled.scale is not None
    own = np.unique(found.scale.values[found.scale.values != 0]).astype(np.float64)
    multiplier = float(scaled.scale.values[0, 0])
    for meant in (multiplier, 1 / multiplier):
        if multiplier == 1 or (np.abs(own - meant) <= _ROUNDING * meant).all():
            return
    raise SourceError(
        f"{found.name}: its values are 0 and +-{own[0]:.6g}{' and others' * (len(own) > 1)}, as if "
        f"multiplied by their scale already, but {found.name}_scale means {multiplier:.6g} times "
        "as much: one of the two is wrong"
    )


def _scale_rule(
    checkpoint: Checkpoint, tensor: SourceTensor
) -> tuple[np.float32, str, tuple[InlineTensor]] | str:
    """Return multiplier, rule in words and companion `<name>_scale`; or what is wrong with it."""
    quantization = checkpoint.quantization
    if quantization.method not in (None, "bitnet"):
        return f"config.json says quant_method {quantization.method!r}, not 'bitnet'"
    name = f"{tensor.name}_scale"
    companion = checkpoint.tensors[name]
    if companion.dtype not in FLOATS or companion.nbytes != FLOATS[companion.dtype]:
        return f"{name} is {companion.dtype} {list(companion.shape)}, expected one float"
    data = companion.read()
    value = to_float32(data, companion.dtype)[0]
    if not np.isfinite(value) or value <= 0:
        return f"{name} is {value}, expected a finite positive number"
    linear_class = quantization.linear_class
    divide = linear_class != "autobitlinear"
    assumed = "" if quantization.is_given else ", assumed: no config.json says"
    with np.errstate(over="ignore"):  # found below
        scale = np.float32(1) / value if divide else value
    if not np.isfinite(scale):
        return f"{name} is {value}, and 1 / {value} is no float32"
    return (
        scale,
        f"{'divide' if divide else 'multiply'} by weight_scale ({linear_class}{assumed})",
        (InlineTensor(name, companion.dtype, companion.shape, data.tobytes()),),
    )


def _find_code_3(tensor: SourceTensor) -> str | None:
    """Return where the first code 3 is, in words."""
    scratch = np.empty(PIECE, np.uint8)  # new memory for every piece would take most of the time
    start = 0
    for piece in tensor.pieces():
        bits = np.frombuffer(piece, np.uint8)
        both = np.right_shift(bits, 1, out=scratch[: len(bits)])
        both &= bits
        if np.bitwise_or.reduce(both) & 0x55:
            at = int(np.flatnonzero(both & 0x55)[0])
            row, column = divmod(start + at, tensor.shape[1])
            quarter = next(i for i in range(4) if both[at] >> 2 * i & 1)
            return f"row {quarter * tensor.shape[0] + row}, column {column}"
        start += len(bits)
    return None
