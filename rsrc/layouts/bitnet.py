"""The Hugging Face `bitnet` layout: U8 [out / 4, in] with a `weight_scale` beside it.

Four rows share a byte, but not four neighbours: with R = ceil(out / 4), bits 2i and 2i + 1 of byte
[r, c] hold row i R + r as code = value + 1. `weight_scale` is divided by where config.json has
linear_class "bitlinear" (the default), and multiplied by where it has "autobitlinear"
(transformers, integrations/bitnet.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.layout import TERNARY, InlineTensor

from ..checkpoint import PIECE, Checkpoint, SourceTensor
from ..errors import SourceError
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, TernaryTensor
from .floats import Floats, to_float32
from .scales import per_tensor


class BitNet(Layout):
    """Two bits per weight in quarters of the rows."""

    name = "bitnet"

    def recognise(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional U8 tensors that have a `<name>_scale` of one float."""
        if tensor.dtype != "U8" or len(tensor.shape) != 2:
            return None
        if f"{tensor.name}_scale" not in checkpoint.tensors:
            return f"U8, but there is no tensor {tensor.name}_scale"
        rule = _scale_rule(checkpoint, tensor)
        if not isinstance(rule, str) and _holds_code_3(tensor):
            rule = "it holds code 3, which is no weight"
        if isinstance(rule, str):
            if _quant_method(checkpoint) == "bitnet":
                raise SourceError(f"{tensor.name}: a BitNet weight by config.json, but {rule}")
            return f"U8, but {rule}"
        shape = (4 * tensor.shape[0], tensor.shape[1])
        scale, note, companions = rule
        return TernaryTensor(
            tensor, self, shape, TERNARY, per_tensor(scale, shape[0]), note, companions
        )

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

    def recognise(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim floats -1, 0, 1 that config.json and a `<name>_scale` say are a BitNet weight."""
        if tensor.dtype not in FLOATS or f"{tensor.name}_scale" not in checkpoint.tensors:
            return None
        if _quant_method(checkpoint) != "bitnet":
            return None
        if isinstance(rule := _scale_rule(checkpoint, tensor), str):
            return None
        found = super().recognise(checkpoint, tensor)
        if not isinstance(found, TernaryTensor):
            return None
        assert found.scale is not None  # Floats always finds one
        if not set(found.scale.values.flat) <= {0, 1}:
            return None  # a master, which layout float turns down, or dequantised already
        scale, note, companions = rule
        grid = per_tensor(scale, found.shape[0])
        return replace(found, scale=grid, note=note, companions=companions)

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return the digit values in the source's dtype: the scale is the companion's."""
        return super().restore(replace(r, scale=None))


def _scale_rule(
    checkpoint: Checkpoint, tensor: SourceTensor
) -> tuple[np.float32, str, tuple[InlineTensor]] | str:
    """Return multiplier, rule in words and companion `<name>_scale`; or what is wrong with it."""
    method = _quant_method(checkpoint)
    if method not in (None, "bitnet"):
        return f"config.json says quant_method {str(method)[:64]!r}, not 'bitnet'"
    name = f"{tensor.name}_scale"
    companion = checkpoint.tensors[name]
    if companion.dtype not in FLOATS or companion.nbytes != FLOATS[companion.dtype]:
        return f"{name} is {companion.dtype} {list(companion.shape)}, expected one float"
    data = companion.read()
    value = to_float32(data, companion.dtype)[0]
    if not np.isfinite(value) or value <= 0:
        return f"{name} is {value}, expected a finite positive number"
    linear_class = _linear_class(checkpoint)
    divide = linear_class != "autobitlinear"
    assumed = "" if _quantization_config(checkpoint) else ", assumed: no config.json says"
    with np.errstate(over="ignore"):  # found below
        scale = np.float32(1) / value if divide else value
    if not np.isfinite(scale):
        return f"{name} is {value}, and 1 / {value} is no float32"
    return (
        scale,
        f"{'divide' if divide else 'multiply'} by weight_scale ({linear_class}{assumed})",
        (InlineTensor(name, companion.dtype, companion.shape, data.tobytes()),),
    )


def _holds_code_3(tensor: SourceTensor) -> bool:
    scratch = np.empty(PIECE, np.uint8)  # new memory for every piece would take most of the time
    for piece in tensor.pieces():
        bits = np.frombuffer(piece, np.uint8)
        both = np.right_shift(bits, 1, out=scratch[: len(bits)])
        both &= bits
        if np.bitwise_or.reduce(both) & 0x55:
            return True
    return False


def _quant_method(checkpoint: Checkpoint) -> Any:
    return _quantization_config(checkpoint).get("quant_method")


def _quantization_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config.get("quantization_config")
    return config if isinstance(config, dict) else {}


def _linear_class(checkpoint: Checkpoint) -> str:
    found = _quantization_config(checkpoint).get("linear_class", "bitlinear")
    if found not in ("bitlinear", "autobitlinear"):
        raise SourceError(
            f"config.json: linear_class is {str(found)[:64]!r}, expected 'bitlinear' (divide by "
            "weight_scale) or 'autobitlinear' (multiply)"
        )
    return str(found)
