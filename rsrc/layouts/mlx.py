"""MLX's affine quantization where it is ternary: U32 words of sixteen 2-bit codes.

`<base>weight` [out_features, in_features / 16] holds the code of column c in bits 2 (c mod 16) and
2 (c mod 16) + 1 of word floor(c / 16). `<base>scales` and `<base>biases` [out_features, groups]
belong to 32, 64 or 128 columns each, and a weight is scale * code + bias (mlx.core.dequantize). The
matrix is ternary if every bias is -scale and no code is 3: then a weight is scale * (code - 1).

The tensors do not say how many bits a code has. config.json does, under "quantization": for the
model and, by the name of a module, for that module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import MLX_CODES, TERNARY, AuxiliaryTensor

from ..common.arrays import ByteArray
from ..common.errors import SourceError
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, Restored, TernaryTensor
from .float_bits import FLOAT_BYTES, from_float32
from .scales import ScaleGrid, Scales, finite_values
from .two_bit import find_code_3, pack

_GROUPS = (32, 64, 128)  # columns that share a scale
_PER_BYTE = 4  # codes


class Mlx(Layout):
    """Two bits per weight along the rows; groups of columns have scales and biases."""

    name = "mlx"

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional U32 tensors whose biases are minus their scales.

        Scales are absorbed. So are biases, unless the sign of a zero among them differs from that
        of minus the scale: then they stay a separate tensor.

        Raises:
            SourceError: config.json says 2 bits but scales or biases do not fit, or one of them is
                NaN or infinite.
        """
        if tensor.dtype != "U32" or len(tensor.shape) != 2 or not tensor.name.endswith("weight"):
            return None
        bits = _configured(checkpoint, tensor, "bits")
        if bits not in (None, 2):
            return f"U32, and config.json says {bits!r:.64} bits per weight, not 2"
        columns = _group_columns(checkpoint, tensor)
        if isinstance(columns, str):
            if bits == 2:
                raise SourceError(
                    f"{tensor.name}: 2 bits per weight according to config.json, but {columns}"
                )
            return f"U32, but {columns}"
        auxiliary = [checkpoint.tensors[name] for name in _auxiliary_names(tensor)]
        scales, biases = map(finite_values, auxiliary)
        reason = _asymmetry(scales, biases) or _code_3(tensor)
        if reason:
            return f"U32 of 2-bit codes, not ternary: {reason}"
        shape = (tensor.shape[0], MLX_CODES * tensor.shape[1])
        # Scales are restored bit for bit from the grid, so zeros must not join other scales.
        one = (scales.view(np.uint32) == scales[:1].view(np.uint32)).all()
        grid = ScaleGrid(
            scales[:1] if one else scales,
            max(1, shape[0]) if one else 1,
            columns if columns < shape[1] else None,
        )
        derived = (biases.view(np.uint32) == (-scales).view(np.uint32)).all()
        absorbed = auxiliary if derived else auxiliary[:1]
        return TernaryTensor(
            tensor,
            self,
            shape,
            TERNARY,
            grid,
            note=grid.words if bits else f"{grid.words} (2 bits assumed: not in config.json)",
            auxiliary=tuple(AuxiliaryTensor(a.name, a.dtype, a.shape, None) for a in absorbed),
        )

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window: a code is a digit. Words are little-endian: bytes are in code order."""
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
        """Pack sixteen columns into a word; codes after the last column are 0."""
        rows, words = r.record.source.shape
        codes = np.zeros((rows, 4 * words, _PER_BYTE), np.uint8)
        codes.reshape(rows, MLX_CODES * words)[:, : r.digits.shape[1]] = r.digits
        return pack(np.moveaxis(codes, -1, 0)).view("<u4")

    def restore_auxiliary(
        self, scale: Scales | None, auxiliary: AuxiliaryTensor
    ) -> npt.NDArray[Any]:
        """Return the scales, or the biases as minus the scales, in the auxiliary's dtype."""
        scale = np.ones(1, np.float32) if scale is None else scale
        values = np.broadcast_to(scale if scale.ndim == 2 else scale[:, None], auxiliary.shape)
        values = np.negative(values) if auxiliary.name.endswith("biases") else values.copy()
        return from_float32(values, auxiliary.dtype)


def _auxiliary_names(tensor: SourceTensor) -> tuple[str, str]:
    base = tensor.name.removesuffix("weight")
    return f"{base}scales", f"{base}biases"


def _configured(checkpoint: Checkpoint, tensor: SourceTensor, key: str) -> Any:
    """Return config.json's value for the tensor's module, or else the model; None if absent."""
    for name in ("quantization", "quantization_config"):  # files have one or both
        found = checkpoint.config.get(name)
        if isinstance(found, dict) and "group_size" in found:
            module = found.get(tensor.name.removesuffix(".weight"))
            return module[key] if isinstance(module, dict) and key in module else found.get(key)
    return None


def _group_columns(checkpoint: Checkpoint, tensor: SourceTensor) -> int | str:
    """Return the columns of a group for 2-bit codes, or what is wrong with scales or biases."""
    missing = [name for name in _auxiliary_names(tensor) if name not in checkpoint.tensors]
    if missing:
        return f"there is no tensor {' or '.join(missing)}"
    scales, biases = (checkpoint.tensors[name] for name in _auxiliary_names(tensor))
    rows, columns = tensor.shape[0], MLX_CODES * tensor.shape[1]
    expected = [[rows, columns // group] for group in _GROUPS if columns % group == 0]
    if list(scales.shape) not in expected or scales.dtype not in FLOAT_BYTES or not columns:
        return (
            f"{scales.name} is {scales.dtype} {list(scales.shape)}, expected a float of shape "
            f"{' or '.join(map(str, expected))}"
        )
    if biases.shape != scales.shape or biases.dtype not in FLOAT_BYTES:
        return (
            f"{biases.name} is {biases.dtype} {list(biases.shape)}, expected a float of shape "
            f"{list(scales.shape)}"
        )
    group = columns // scales.shape[1]
    configured = _configured(checkpoint, tensor, "group_size")
    if configured not in (None, group):
        return f"{scales.name} has groups of {group} columns, config.json says {configured!r:.64}"
    return group


def _asymmetry(scales: Scales, biases: Scales) -> str | None:
    """Describe the first bias that is not minus its scale, or return None."""
    wrong = biases != -scales
    if not wrong.any():
        return None
    row, group = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return (
        f"bias {biases[row, group]} in row {row}, group {group} is not minus the scale "
        f"{scales[row, group]}"
    )


def _code_3(tensor: SourceTensor) -> str | None:
    """Describe where the first code 3 is, or return None."""
    found = find_code_3(tensor)
    if found is None:
        return None
    row, column = divmod(_PER_BYTE * found[0] + found[1], MLX_CODES * tensor.shape[1])
    return f"code 3 in row {row}, column {column}"
