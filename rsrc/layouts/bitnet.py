"""The Hugging Face `bitnet` layout: U8 [ceil(out_features / 4), in_features] with a `weight_scale`.

A byte holds the codes of four rows that are not neighbors. With R = ceil(out_features / 4), bits 2i
and 2i + 1 of byte [r, c] hold weight [i R + r, c] as code = value + 1. The matrix is divided by
`weight_scale` if config.json has linear_class "bitlinear" (the default), and multiplied by it for
"autobitlinear" (transformers, integrations/bitnet.py).

Dtype and shape identify a packed tensor, as they do in transformers. config.json says what a tensor
must be: one that contradicts it is an error. Without a config, such a tensor stays dense.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsr_formats.records import TERNARY, AuxiliaryTensor
from rsr_formats.text import quoted

from ..common.arrays import ByteArray
from ..common.errors import SourceError
from ..source.checkpoint import Checkpoint
from ..source.shapes import expected_shape
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, Restored, TernaryTensor
from .float_bits import FLOAT_BYTES, is_float_matrix, to_float32
from .floats import Floats
from .int8 import Int8
from .scales import per_tensor
from .two_bit import find_code_3, pack

# A scale and the magnitude it is compared with are each rounded to BF16 or finer, one of them after
# a division. Two roundings to 8 significant bits differ by less than this share of either.
_ROUNDING = 2.0**-7


class BitNet(Layout):
    """Two bits per weight; a byte holds one weight from each quarter of the rows."""

    name = "bitnet"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional U8 tensors with a `<name>_scale` of one float."""
        if tensor.dtype != "U8" or len(tensor.shape) != 2:
            return None
        if f"{tensor.name}_scale" not in checkpoint.tensors:
            _check_scales_exist(checkpoint, tensor)
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
        if (found := find_code_3(tensor)) is not None:
            (row, column), quarter = divmod(found[0], tensor.shape[1]), found[1]
            row += quarter * tensor.shape[0]
            return f"it holds the invalid code 3 (row {row}, column {column})"
        out_features = _out_features(checkpoint, tensor)
        if isinstance(out_features, str):
            return out_features
        shape = (out_features, tensor.shape[1])
        return rule.apply(TernaryTensor(tensor, self, shape, TERNARY, None, ""))

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
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
        """Pack four quarters of the rows into bytes; codes after the last row are 0."""
        quarters = np.zeros((4, *r.record.source.shape), np.uint8)
        quarters.reshape(-1)[: r.digits.size] = r.digits.reshape(-1)
        return pack(quarters)


class UnpackedBitNet(Floats):
    """BitNet before packing: floats -1, 0, 1 with a `weight_scale`, as saved from memory."""

    name = "bitnet-unpacked"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim floats -1, 0, 1 that config.json and a `<name>_scale` declare a BitNet weight.

        Floats -s, 0, s are claimed for `Floats` if their scale agrees with s.

        Raises:
            SourceError: the scale is invalid, or contradicts the floats.
        """
        if not is_float_matrix(tensor) or not _is_scaled(checkpoint, tensor):
            return None
        found = super().recognize(checkpoint, tensor)
        if not isinstance(found, TernaryTensor):
            return None  # a master: layout float gives the reason
        scaled = _with_scale(checkpoint, found)
        assert found.scale is not None  # Floats always sets one
        if np.isin(found.scale.values, (0, 1)).all():
            return scaled
        _check_dequantized(found, scaled)
        return replace(found, layout=Floats(), note=f"{found.note}, weight_scale already applied")

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return the digit values in the source's dtype; the scale is a separate tensor."""
        return super().restore(replace(r, scale=None))


class Int8BitNet(Int8):
    """I8 tensors of values -1, 0, 1 whose scale is a BitNet `weight_scale`."""

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim what layout int8 claims, if config.json and a `<name>_scale` give it a scale.

        Raises:
            SourceError: the scale is invalid.
        """
        if tensor.dtype != "I8" or not _is_scaled(checkpoint, tensor):
            return None
        found = self.unscaled(tensor)
        return _with_scale(checkpoint, found) if isinstance(found, TernaryTensor) else None


def advice_on_master(checkpoint: Checkpoint, tensor: SourceTensor) -> str:
    """Return advice for the reason of a dense tensor that should have been ternary, or ""."""
    if not is_float_matrix(tensor) or not tensor.name.endswith(".weight"):
        return ""
    if not _is_claimed(checkpoint, tensor) or checkpoint.quantization.mode != "offline":
        return ""
    return (
        "; but config.json (quant_method bitnet, quantization_mode offline) says that it is: if "
        "it is a master weight, compile with --quantize absmean"
    )


def _is_claimed(checkpoint: Checkpoint, tensor: SourceTensor) -> bool:
    """Return whether config.json says that `tensor` is the weight of a BitNet layer."""
    quantization = checkpoint.quantization
    return quantization.is_bitnet and quantization.converts(tensor.name)


def _is_scaled(checkpoint: Checkpoint, tensor: SourceTensor) -> bool:
    return f"{tensor.name}_scale" in checkpoint.tensors and _is_claimed(checkpoint, tensor)


def _contradiction(tensor: SourceTensor, found: str) -> SourceError:
    return SourceError(f"{tensor.name}: a BitNet weight according to config.json, but {found}")


def _check_scales_exist(checkpoint: Checkpoint, tensor: SourceTensor) -> None:
    """Refuse a packed weight that has no scale, naming all of them."""
    names = list(checkpoint.unscaled)
    if tensor.name not in checkpoint.unscaled:
        return
    raise SourceError(
        "packed weights (U8) have no weight_scale, without which the values of a BitNet weight are "
        f"unknown: {quoted(names, 20)}"
    )


def _out_features(checkpoint: Checkpoint, tensor: SourceTensor) -> int | str:
    """Return the rows of the matrix, without those that pad the last quarter; or what is wrong.

    Padding is code 0, which reads as the weight -1. config.json or a bias says how many rows there
    are. If neither does, every code counts as a weight.
    """
    packed = tensor.shape[0]
    sources: dict[str, int] = {}
    expected = expected_shape(checkpoint.config, tensor.name)
    # The rows of a vocabulary may exceed the config's. check_shape refuses what cannot fit at all.
    if expected and not expected.is_vocabulary and _packed_rows(expected.shape[0]) == packed:
        sources[f"config.json ({expected.keys})"] = expected.shape[0]
    bias = checkpoint.tensors.get(f"{tensor.name.removesuffix('weight')}bias")
    if bias is not None and tensor.name.endswith(".weight") and len(bias.shape) == 1:
        sources[bias.name] = bias.shape[0]
        if _packed_rows(bias.shape[0]) != packed:
            return (
                f"{bias.name} implies {bias.shape[0]} rows, and {list(tensor.shape)} packs "
                f"{4 * packed}"
            )
    if not sources:
        return 4 * packed
    if len(set(sources.values())) > 1:
        return " and ".join(f"{source} implies {rows} rows" for source, rows in sources.items())
    source, rows = next(iter(sources.items()))
    # `restore` pads with code 0. Other codes would be lost, and may well be weights.
    if rows < 4 * packed and _has_padding_codes(tensor, rows):
        return f"{source} implies {rows} rows, and the rows after them hold codes other than 0"
    return rows


def _packed_rows(rows: int) -> int:
    return -(-rows // 4)


def _has_padding_codes(tensor: SourceTensor, rows: int) -> bool:
    """Return whether a code after the first `rows` rows is not 0."""
    quarter = tensor.shape[0]
    packed = tensor.read().reshape(tensor.shape)
    return any(
        (packed[row % quarter] >> 2 * (row // quarter) & 3).any()
        for row in range(rows, 4 * quarter)
    )


class _ScaleRule(NamedTuple):
    """What a `weight_scale` and config.json say about the scale of a weight."""

    multiplier: np.float32
    note: str
    auxiliary: AuxiliaryTensor  # the weight_scale

    def apply(self, t: TernaryTensor) -> TernaryTensor:
        """Return a ternary tensor with this scale; the weight_scale is absorbed into it."""
        scale = per_tensor(self.multiplier, t.shape[0])
        return replace(t, scale=scale, note=self.note, auxiliary=(self.auxiliary,))


def _scale_rule(checkpoint: Checkpoint, tensor: SourceTensor) -> _ScaleRule | str:
    """Read `<name>_scale`, which exists; or return what is wrong with it."""
    quantization = checkpoint.quantization
    if quantization.method not in (None, "bitnet"):
        return f"config.json says quant_method {quantization.method!r}, not 'bitnet'"
    scale = checkpoint.tensors[f"{tensor.name}_scale"]
    if scale.dtype not in FLOAT_BYTES or scale.nbytes != FLOAT_BYTES[scale.dtype]:
        return f"{scale.name} is {scale.dtype} {list(scale.shape)}, expected one float"
    data = scale.read()
    value = to_float32(data, scale.dtype)[0]
    if not np.isfinite(value) or value <= 0:
        return f"{scale.name} is {value}, expected a finite positive number"
    linear_class = quantization.linear_class
    divides = linear_class != "autobitlinear"
    with np.errstate(over="ignore"):  # found below
        multiplier = np.float32(1) / value if divides else value
    if not np.isfinite(multiplier):
        return f"{scale.name} is {value}, and 1 / {value} overflows float32"
    assumed = "" if quantization.is_given else ", assumed: not in config.json"
    note = f"{'divide' if divides else 'multiply'} by weight_scale ({linear_class}{assumed})"
    auxiliary = AuxiliaryTensor(scale.name, scale.dtype, scale.shape, data.tobytes())
    return _ScaleRule(multiplier, note, auxiliary)


def _with_scale(checkpoint: Checkpoint, found: TernaryTensor) -> TernaryTensor:
    """Give an unpacked tensor the scale of its `<name>_scale`.

    Raises:
        SourceError: the scale is invalid.
    """
    rule = _scale_rule(checkpoint, found.tensor)
    if isinstance(rule, str):
        raise _contradiction(found.tensor, rule)
    return rule.apply(found)


def _check_dequantized(found: TernaryTensor, scaled: TernaryTensor) -> None:
    """Check that a weight_scale next to floats -s, 0, s is s, its reciprocal or 1.

    s and 1/s are leftovers of dequantizing, and 1 changes nothing. With any other scale, the matrix
    would depend on whether the reader multiplies by it.

    Raises:
        SourceError: it is another number.
    """
    assert found.scale is not None
    assert scaled.scale is not None
    own = np.unique(found.scale.values[found.scale.values != 0]).astype(np.float64)
    multiplier = float(scaled.scale.values[0, 0])
    for expected in (multiplier, 1 / multiplier):
        if multiplier == 1 or (np.abs(own - expected) <= _ROUNDING * expected).all():
            return
    raise SourceError(
        f"{found.name}: its values are 0 and +-{own[0]:.6g}{' and others' * (len(own) > 1)}, as if "
        f"the scale were applied already, but {found.name}_scale multiplies them by "
        f"{multiplier:.6g} again: one of the two is wrong"
    )
