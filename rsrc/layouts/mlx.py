"""MLX's affine quantization to small multiples of the scale: U32 words of 2-bit or 1-bit codes.

With b bits, `<base>weight` [out_features, in_features * b / 32] holds the code of column c in b
bits of word floor(c * b / 32), the first column in the lowest bits. `<base>scales` and
`<base>biases` [out_features, groups] belong to 32, 64 or 128 columns each, and a weight is
scale * code + bias (mlx.core.dequantize).

* 2 bits: a weight is scale * (code - 1) if every bias is -scale; the matrix is ternary if no code
  is 3. It is scale * (code - 2) if every bias is -2 scale, as mlx.core.quantize makes them.
* 1 bit: the matrix is binary if every bias is -scale / 2: a weight is scale / 2 * (2 code - 1).

The tensors do not say how many bits a code has. config.json does, under "quantization": for the
model and, by the name of a module, for that module. Without it, 2 bits are assumed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rsr_formats.records import (
    BINARY_SIGNS,
    MLX_BITS,
    MLX_WORD,
    TERNARY,
    AuxiliaryTensor,
)
from rsr_formats.text import counted

from ..common.arrays import ByteArray
from ..common.errors import SourceError
from ..source.checkpoint import Checkpoint
from ..source.mlx_codes import mlx_setting
from ..source.tensor import SourceTensor
from .base import DigitArray, Layout, Restored, TernaryTensor
from .float_bits import FLOAT_BYTES, from_float32
from .scales import ScaleGrid, Scales, finite_values
from .two_bit import find_code_3, pack

_GROUPS = (32, 64, 128)  # columns that share a scale


class Mlx(Layout):
    """Two bits per weight along the rows; groups of columns have scales and biases."""

    name = "mlx"
    alphabet: ClassVar[tuple[int, ...]] = TERNARY  # of biases that are minus the magnitude
    factor: ClassVar[float] = 1  # MLX's scale, as a multiple of the weights' magnitude

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim two-dimensional U32 tensors whose biases are as the module says.

        Scales are absorbed. So are biases, unless the sign of a zero among them differs from that
        of minus the scale: then they stay a separate tensor.

        Raises:
            SourceError: config.json says how many bits, but scales or biases do not fit, or one of
                them is NaN or infinite.
        """
        if tensor.dtype != "U32" or len(tensor.shape) != 2 or not tensor.name.endswith("weight"):
            return None
        bits = _configured(checkpoint, tensor, "bits")
        if not self._has(bits):
            return self._other_bits(bits)
        columns = _group_columns(checkpoint, tensor, self.codes)
        if isinstance(columns, str):
            if bits == self.bits:
                raise SourceError(
                    f"{tensor.name}: {counted(self.bits, 'bit')} per weight according to "
                    f"config.json, but {columns}"
                )
            return f"U32, but {columns}"
        auxiliary = [checkpoint.tensors[name] for name in _auxiliary_names(tensor)]
        scales, biases = map(finite_values, auxiliary)
        values = scales / np.float32(self.factor)
        digits = self._digits(tensor, scales, biases)
        if digits is None:
            reason = self._asymmetry(scales, biases)
            return f"U32 of {self.bits}-bit codes, not {self.kind}: {reason}"
        shape = (tensor.shape[0], self.codes * tensor.shape[1])
        # Scales are restored bit for bit from the grid, so zeros must not join other scales.
        one = (values.view(np.uint32) == values[:1].view(np.uint32)).all()
        grid = ScaleGrid(
            values[:1] if one else values,
            max(1, shape[0]) if one else 1,
            columns if columns < shape[1] else None,
        )
        derived = (biases.view(np.uint32) == (values * np.float32(digits[0])).view(np.uint32)).all()
        absorbed = auxiliary if derived else auxiliary[:1]
        return TernaryTensor(
            tensor,
            self,
            shape,
            digits,
            grid,
            note=grid.words if bits else f"{grid.words} (2 bits assumed: not in config.json)",
            auxiliary=tuple(AuxiliaryTensor(a.name, a.dtype, a.shape, None) for a in absorbed),
        )

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return MLX_BITS[self.name]

    @property
    def codes(self) -> int:
        """Codes in a word."""
        return MLX_WORD // self.bits

    @property
    def kind(self) -> str:
        """The word "ternary" or "binary"."""
        return "ternary" if len(self.alphabet) == 3 else "binary"

    def _has(self, bits: Any) -> bool:
        """Return whether a tensor for which config.json says `bits` may have this layout."""
        return bits is None or bits == self.bits

    def _other_bits(self, bits: Any) -> str | None:
        if type(bits) is int and bits in MLX_BITS.values():
            return None  # of the other layout
        return f"U32, and config.json says {bits!r:.64} bits per weight, not 1 or 2"

    def _digits(
        self, tensor: SourceTensor, scales: Scales, biases: Scales
    ) -> tuple[int, ...] | None:
        """Return the alphabet whose first digit, that of code 0, the biases say; or None."""
        if self._symmetric(scales, biases).all():
            return TERNARY if find_code_3(tensor) is None else (-1, 0, 1, 2)
        return (-2, -1, 0, 1) if (biases == -2 * scales).all() else None

    def _symmetric(self, scales: Scales, biases: Scales) -> npt.NDArray[np.bool_]:
        """Return whether each bias is minus the weights' magnitude."""
        values = scales / np.float32(self.factor)
        found: npt.NDArray[np.bool_] = (biases == -values) & (
            values * np.float32(self.factor) == scales
        )
        return found

    def _asymmetry(self, scales: Scales, biases: Scales) -> str:
        """Describe the first bias that is not minus the weights' magnitude."""
        wrong = ~self._symmetric(scales, biases)
        row, group = np.unravel_index(int(wrong.argmax()), wrong.shape)
        what = "the scale" if self.factor == 1 else "half the scale"
        return (
            f"bias {biases[row, group]} in row {row}, group {group} is not minus {what} "
            f"{scales[row, group]}"
        )

    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window: a code is a digit. Words are little-endian: bytes are in code order."""
        per_byte = 8 // self.bits
        first = columns.start // per_byte
        packed = raw.reshape(t.shape[0], t.shape[1] // per_byte)
        packed = packed[rows, first : -(-columns.stop // per_byte)]
        codes = np.empty((packed.shape[0], packed.shape[1] * per_byte), np.uint8)
        for i in range(per_byte):
            np.right_shift(packed, self.bits * i, out=codes[:, i::per_byte])
        codes &= (1 << self.bits) - 1
        skipped = first * per_byte
        return codes[:, columns.start - skipped : columns.stop - skipped]

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Pack columns into words; codes after the last column are 0."""
        rows, words = r.record.source.shape
        codes = np.zeros((rows, self.codes * words), np.uint8)
        codes[:, : r.digits.shape[1]] = r.digits
        if self.bits == 1:
            return np.packbits(codes, axis=1, bitorder="little").view("<u4")
        return pack(np.moveaxis(codes.reshape(rows, 4 * words, 4), -1, 0)).view("<u4")

    def restore_auxiliary(
        self, scale: Scales | None, auxiliary: AuxiliaryTensor, digits: tuple[int, ...]
    ) -> npt.NDArray[Any]:
        """Return MLX's scales, or the biases, in the auxiliary's dtype."""
        scale = np.ones(1, np.float32) if scale is None else scale
        values = np.broadcast_to(scale if scale.ndim == 2 else scale[:, None], auxiliary.shape)
        is_bias = auxiliary.name.endswith("biases")
        values = values * np.float32(digits[0] if is_bias else self.factor)
        return from_float32(values, auxiliary.dtype)


class MlxBinary(Mlx):
    """One bit per weight along the rows; a code is 0 for -scale / 2, and 1 for scale / 2."""

    name = "mlx-1bit"
    alphabet = BINARY_SIGNS
    factor = 2

    def _has(self, bits: Any) -> bool:
        return type(bits) is int and bits == self.bits

    def _other_bits(self, bits: Any) -> str | None:
        return None  # Mlx names them

    def _digits(
        self, tensor: SourceTensor, scales: Scales, biases: Scales
    ) -> tuple[int, ...] | None:
        return self.alphabet if self._symmetric(scales, biases).all() else None


def _auxiliary_names(tensor: SourceTensor) -> tuple[str, str]:
    base = tensor.name.removesuffix("weight")
    return f"{base}scales", f"{base}biases"


def _configured(checkpoint: Checkpoint, tensor: SourceTensor, key: str) -> Any:
    """Return config.json's value for the tensor's module, or else the model; None if absent."""
    return mlx_setting(checkpoint.config, tensor.name.removesuffix(".weight"), key)


def _group_columns(checkpoint: Checkpoint, tensor: SourceTensor, codes: int) -> int | str:
    """Return the columns of a group, or what is wrong with scales or biases.

    Args:
        checkpoint: the source.
        tensor: of words.
        codes: in a word.
    """
    missing = [name for name in _auxiliary_names(tensor) if name not in checkpoint.tensors]
    if missing:
        return f"there is no tensor {' or '.join(missing)}"
    scales, biases = (checkpoint.tensors[name] for name in _auxiliary_names(tensor))
    rows, columns = tensor.shape[0], codes * tensor.shape[1]
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
