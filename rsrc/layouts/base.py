"""The compiler's intermediate form, `TernaryTensor`, and the interface of a layout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rsr_formats.decode import apply_scales
from rsr_formats.records import AuxiliaryTensor, IndexedTensor

from ..common.arrays import ByteArray as ByteArray
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .float_bits import Float32, from_float32
from .scales import ScaleGrid, Scales

DigitArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Quality:
    """How close post-training quantization came: W is the float matrix, Q the ternary one."""

    zero_share: float  # share of the weights of Q that are 0
    relative_error: float  # |W - Q| / |W|, Frobenius norms
    cosine: float  # of the angle between W and Q


@dataclass(frozen=True)
class TernaryTensor:
    """A source tensor that a layout recognized as one of few values: the intermediate form.

    Weight [r, c] is `digits[d] * s`: d is what `layout.digits` decodes for [r, c], s is the entry
    of `scale`. The source's bytes are decoded one window at a time, so no other copy of the whole
    matrix is ever in memory.
    """

    tensor: SourceTensor
    layout: Layout
    shape: tuple[int, int]  # (out_features, in_features)
    digits: tuple[int, ...]  # the alphabet: the value of each digit
    scale: ScaleGrid | None  # None: no scale, which is a multiplier of 1
    note: str  # the scale rule, for reports
    auxiliary: tuple[AuxiliaryTensor, ...] = ()  # source tensors absorbed into this one
    negative_zeros: bool = False  # whether some zero is stored as -0.0
    restored_dtype: str | None = None  # a float dtype, if `.rsr` files cannot name the source's
    quality: Quality | None = None  # only after post-training quantization

    @property
    def name(self) -> str:
        """Name of the tensor, in the source and in the .rsr file."""
        return self.tensor.name

    @property
    def source_dtype(self) -> str:
        """The dtype in which `layout` restores the tensor."""
        return self.restored_dtype or self.tensor.dtype

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape in which `layout` restores the tensor."""
        return self.shape if self.restored_dtype else self.tensor.shape

    @property
    def nbytes(self) -> int:
        """ByteArray in the source, absorbed tensors included."""
        return self.tensor.nbytes + sum(c.nbytes for c in self.auxiliary)

    @property
    def group_columns(self) -> int | None:
        """Columns per scale; None if a scale covers whole rows."""
        return None if self.scale is None else self.scale.columns


@dataclass(frozen=True)
class Restored:
    """One indexed tensor of a `.rsr` file, decoded: the input of `Layout.restore`."""

    record: IndexedTensor
    digits: DigitArray  # (out_features, in_features), indices into record.digits
    scale: Scales | None  # (1,), (out_features,) or (out_features, groups): see decode.row_scales
    negative_zeros: ByteArray | None = None  # as `Layout.negative_zeros` returns it

    def weights(self, rows: slice | npt.NDArray[np.intp] = slice(None)) -> Float32:
        """Return digit value * scale of some rows, float32 (rows, in_features).

        A zero has the sign of this product, whatever `negative_zeros` says.
        """
        values = np.array(self.record.digits, np.float32)[self.digits[rows]]
        if self.scale is not None:
            scale = self.scale if self.scale.shape == (1,) else self.scale[rows]
            apply_scales(self.record, values, scale)
        return values

    def negative_zero_mask(self) -> npt.NDArray[np.bool_] | None:
        """Return which weights are -0.0, (out_features, in_features), or None if none is."""
        if self.negative_zeros is None:
            return None
        zeros = self.digits == self.record.digits.index(0)
        mask = np.zeros(zeros.shape, np.bool_)
        mask[zeros] = np.unpackbits(
            self.negative_zeros, count=np.count_nonzero(zeros), bitorder="little"
        )
        return mask


class Layout(ABC):
    """One way in which checkpoints store ternary matrices.

    The compiler asks layouts in turn to `recognize` a source tensor, and the first that does
    decodes it with `digits`. The decompiler rebuilds the source tensor with `restore`. A layout has
    no state, unless decoding needs parameters of one tensor (the thresholds of a quantizer): then
    `recognize` returns a copy of the layout that holds them, as `TernaryTensor.layout`.

    Attributes:
        name: the layout's name in the source records of `.rsr` files.
        lossless: whether `restore` returns the weights of the source, not a quantized copy.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = True

    @abstractmethod
    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Decide whether a tensor is a ternary matrix in this layout.

        Args:
            checkpoint: the opened source, for its config.json and other tensors.
            tensor: any tensor of the source; its bytes are read only if dtype, shape and name fit.

        Returns:
            The ternary tensor; or the reason why a tensor that resembles this layout stays dense;
            or None if it does not resemble it.

        Raises:
            SourceError: the source says that the tensor has this layout, but it is damaged.
        """

    @abstractmethod
    def digits(self, raw: ByteArray, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window of the matrix.

        Args:
            raw: all bytes of the source tensor, (t.tensor.nbytes,).
            t: what `recognize` returned.
            rows: rows of the window, with start and stop.
            columns: columns of the window, with start and stop.

        Returns:
            uint8 (rows, columns), indices into `t.digits`. If the bytes changed after `recognize`,
            entries may be out of range; encoders reject them.
        """

    def negative_zeros(self, raw: ByteArray, t: TernaryTensor) -> ByteArray | None:
        """Return which zeros are stored as -0.0.

        Args:
            raw: all bytes of the source tensor, (t.tensor.nbytes,).
            t: what `recognize` returned.

        Returns:
            One bit per zero weight in row-major order, the first in bit 0 of byte 0, set for -0.0;
            None if `t.negative_zeros` is false.
        """
        return None

    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return the source tensor: an array of its shape and dtype, BF16 as uint16 bits.

        Unless a layout overrides this, weights are floats: digit value * scale.
        """
        values = r.weights()
        if (mask := r.negative_zero_mask()) is not None:
            values[mask] = -0.0
        return from_float32(values, r.record.source.dtype)

    def requantize(
        self, checkpoint: Checkpoint, tensor: SourceTensor, record: IndexedTensor
    ) -> TernaryTensor | str | None:
        """Recognize a source tensor with the granularity that its record in a `.rsr` file states.

        Args and results are those of `recognize`; the name of the tensor is not considered.
        """
        return self.recognize(checkpoint, tensor)

    def restore_auxiliary(
        self, scale: Scales | None, auxiliary: AuxiliaryTensor, digits: tuple[int, ...]
    ) -> npt.NDArray[Any]:
        """Compute an auxiliary tensor that the `.rsr` file holds without data from the scales.

        Args:
            scale: as in `Restored`.
            auxiliary: its record.
            digits: the alphabet.

        Returns:
            An array of the record's shape and dtype; BF16 as uint16 bits.
        """
        raise NotImplementedError(f"layout {self.name!r} stores its auxiliary tensors whole")
