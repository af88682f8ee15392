"""MLX's affine quantization where it is ternary: U32 words of sixteen 2-bit codes.

`<base>weight` [out, in / 16] has column c in bits 2 (c mod 16) and above of word floor(c / 16).
`<base>scales` and `<base>biases` [out, groups] belong to 32, 64 or 128 columns each, and a weight
is scale * code + bias (mlx.core.dequantize). It is ternary where bias = -scale and no code is 3:
then it is scale * (code - 1).

How many bits a code has, the tensors do not say. config.json does, under "quantization": for the
model and, by the module's name, for a module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import MLX_CODES, TERNARY, InlineTensor

from ..common.errors import SourceError
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .base import FLOATS, Bytes, DigitArray, Layout, Restored, Scales, TernaryTensor
from .floats import from_float32, row_panels, to_float32
from .scales import ScaleGrid

GROUPS = (32, 64, 128)  # columns that share a scale
_PER_BYTE = 4  # codes


class Mlx(Layout):
    """Two bits per weight along the rows, scales and biases of groups of columns beside."""

    name = "mlx"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional U32 tensors whose biases are minus their scales.

        The biases are absorbed with the scales, unless the sign of a zero among them is not that
        of minus the scale: then they stay a tensor of their own.
        """
        if tensor.dtype != "U32" or len(tensor.shape) != 2 or not tensor.name.endswith("weight"):
            return None
        bits = _configured(checkpoint, tensor, "bits")
        if bits not in (None, 2):
            return f"U32, and config.json says {bits!r:.64} bits per weight, not 2"
        columns = _group_columns(checkpoint, tensor)
        if isinstance(columns, str):
            if bits == 2:
                raise SourceError(f"{tensor.name}: 2 bits per weight by config.json, but {columns}")
            return f"U32, but {columns}"
        scales, biases = (_finite(checkpoint.tensors[name]) for name in _auxiliary_names(tensor))
        reason = _asymmetry(scales, biases) or _code_3(tensor)
        if reason:
            return f"U32 of 2-bit codes, not ternary: {reason}"
        shape = (tensor.shape[0], MLX_CODES * tensor.shape[1])
        # Companions come back from the scales, bit by bit: zeros are not joined with neighbors.
        one = (scales.view(np.uint32) == scales[:1].view(np.uint32)).all()
        grid = ScaleGrid(
            scales[:1] if one else scales,
            max(1, shape[0]) if one else 1,
            columns if columns < shape[1] else None,
        )
        derived = (biases.view(np.uint32) == (-scales).view(np.uint32)).all()
        auxiliary = [checkpoint.tensors[name] for name in _auxiliary_names(tensor)[: 1 + derived]]
        return TernaryTensor(
            tensor,
            self,
            shape,
            TERNARY,
            grid,
            grid.words if bits else f"{grid.words} (2 bits assumed: no config.json says)",
            tuple(InlineTensor(c.name, c.dtype, c.shape, None) for c in auxiliary),
        )

    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window: a code is a digit. Words are little-endian, so bytes are in order."""
        first = columns.start // _PER_BYTE
        packed = raw.reshape(t.shape[0], t.shape[1] // _PER_BYTE)
        packed = packed[rows, first : -(-columns.stop // _PER_BYTE)]
        codes = np.empty((packed.shape[0], packed.shape[1] * _PER_BYTE), np.uint8)
        for i in range(_PER_BYTE):
            np.right_shift(packed, 2 * i, out=codes[:, i::_PER_BYTE])
        codes &= 3
        skipped = first * _PER_BYTE
        return codes[:, columns.start - skipped : columns.stop - skipped]

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Pack sixteen columns into a word again; codes missing from the last are 0."""
        rows, words = r.record.source.shape
        codes = np.zeros((rows, MLX_CODES * words), np.uint8)
        codes[:, : r.digits.shape[1]] = r.digits
        quarters = [codes[:, i::_PER_BYTE] << 2 * i for i in range(_PER_BYTE)]
        return np.asarray(quarters[0] | quarters[1] | quarters[2] | quarters[3]).view("<u4")

    def restore_companion(self, scale: Scales | None, companion: InlineTensor) -> npt.NDArray[Any]:
        """Return the scales, or minus the scales as biases, in the companion's dtype."""
        scale = np.ones(1, np.float32) if scale is None else scale
        values = np.broadcast_to(scale if scale.ndim == 2 else scale[:, None], companion.shape)
        values = np.negative(values) if companion.name.endswith("biases") else values.copy()
        return from_float32(values, companion.dtype)


def _auxiliary_names(tensor: SourceTensor) -> tuple[str, str]:
    base = tensor.name.removesuffix("weight")
    return f"{base}scales", f"{base}biases"


def _configured(checkpoint: Checkpoint, tensor: SourceTensor, key: str) -> Any:
    """Return what config.json says of the tensor's module, or of the model; None: nothing."""
    for name in ("quantization", "quantization_config"):  # files have either, or both
        found = checkpoint.config.get(name)
        if isinstance(found, dict) and "group_size" in found:
            module = found.get(tensor.name.removesuffix(".weight"))
            return module[key] if isinstance(module, dict) and key in module else found.get(key)
    return None


def _group_columns(checkpoint: Checkpoint, tensor: SourceTensor) -> int | str:
    """Return the columns of a group if codes have 2 bits, or what is wrong with the auxiliary."""
    missing = [name for name in _auxiliary_names(tensor) if name not in checkpoint.tensors]
    if missing:
        return f"there is no tensor {' or '.join(missing)}"
    scales, biases = (checkpoint.tensors[name] for name in _auxiliary_names(tensor))
    rows, columns = tensor.shape[0], MLX_CODES * tensor.shape[1]
    expected = [[rows, columns // group] for group in GROUPS if columns % group == 0]
    if list(scales.shape) not in expected or scales.dtype not in FLOATS or not columns:
        return (
            f"{scales.name} is {scales.dtype} {list(scales.shape)}, expected a float of shape "
            f"{' or '.join(map(str, expected))}"
        )
    if biases.shape != scales.shape or biases.dtype not in FLOATS:
        return (
            f"{biases.name} is {biases.dtype} {list(biases.shape)}, expected a float of shape "
            f"{list(scales.shape)}"
        )
    group = columns // scales.shape[1]
    said = _configured(checkpoint, tensor, "group_size")
    if said not in (None, group):
        return f"{scales.name} has groups of {group} columns, config.json says {said!r:.64}"
    return group


def _finite(tensor: SourceTensor) -> Scales:
    """Return the values of scales or biases.

    Raises:
        SourceError: one is NaN or infinite.
    """
    values = to_float32(tensor.read(), tensor.dtype).reshape(tensor.shape)
    if not np.isfinite(values).all():
        row, group = np.argwhere(~np.isfinite(values))[0]
        raise SourceError(
            f"{tensor.name}: {values[row, group]} in row {row}, group {group}, expected finite "
            "numbers: the file is damaged, or --exclude the weight to keep it as it is"
        )
    return values


def _asymmetry(scales: Scales, biases: Scales) -> str | None:
    """Return where a bias is not minus the scale, in words."""
    wrong = biases != -scales
    if not wrong.any():
        return None
    row, group = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return (
        f"bias {biases[row, group]} in row {row}, group {group} is not minus the scale "
        f"{scales[row, group]}"
    )


def _code_3(tensor: SourceTensor) -> str | None:
    """Return where a code is 3, in words."""
    row = 0
    for panel in row_panels(tensor):
        words = panel.view("<u4").reshape(-1, tensor.shape[1])
        wrong = words >> np.uint32(1) & words & np.uint32(0x55555555)
        if wrong.any():
            r, word = np.unravel_index(int((wrong != 0).argmax()), wrong.shape)
            lowest = int(wrong[r, word]) & -int(wrong[r, word])
            column = MLX_CODES * int(word) + lowest.bit_length() // 2
            return f"code 3 in row {row + int(r)}, column {column}"
        row += len(words)
    return None
