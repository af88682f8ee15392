"""The one intermediate form of the compiler, and what a layout of checkpoints must provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rsr_formats.records import IndexedTensor, InlineTensor

from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .scales import ScaleGrid

Bytes = npt.NDArray[np.uint8]
DigitArray = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.float32]  # of any shape

FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # dtype: bytes


@dataclass(frozen=True)
class Quality:
    """What post-training quantization kept of a matrix W, as Q."""

    zero_share: float  # weights of Q that are 0
    relative_error: float  # |W - Q| / |W|, Frobenius norms
    cosine: float  # of the angle between W and Q


@dataclass(frozen=True)
class TernaryTensor:
    """A source tensor recognized as ternary (or binary): the intermediate form.

    Its entries are digits[d] * scale for digits d that `layout.digits` decodes a window at a time
    from the source's bytes, so the whole never exists in another form.
    """

    tensor: SourceTensor
    layout: Layout
    shape: tuple[int, int]  # (out_features, in_features)
    digits: tuple[int, ...]
    scale: ScaleGrid | None  # None: the multiplier is 1
    note: str  # the scale rule, for the report
    auxiliary: tuple[InlineTensor, ...] = ()  # source tensors absorbed into this one
    negative_zeros: bool = False  # whether a zero is stored as -0.0
    restored_dtype: str | None = None  # where .rsr files have no name for the source's: a float
    quality: Quality | None = None  # where the user had it quantized

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
        """Bytes in the source, with those of absorbed tensors."""
        return self.tensor.nbytes + sum(c.nbytes for c in self.auxiliary)

    @property
    def group_columns(self) -> int | None:
        """Columns of a group, where groups have their own scales."""
        return None if self.scale is None else self.scale.columns


@dataclass(frozen=True)
class Restored:
    """What a `.rsr` file says about one indexed tensor, decoded."""

    record: IndexedTensor
    digits: DigitArray  # (out_features, in_features)
    scale: Scales | None  # (1,), (out_features,) or (out_features, groups): see decode.row_scales
    negative_zeros: Bytes | None = field(default=None)


class Layout(ABC):
    """One way in which checkpoints store ternary matrices.

    `recognize` claims tensors; `digits` decodes windows of them; `restore` undoes both.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = True

    @abstractmethod
    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Return the ternary tensor, or why this is none (in words), or None: not this layout.

        Raises:
            SourceError: the tensor has this layout but is damaged.
        """

    @abstractmethod
    def digits(self, raw: Bytes, t: TernaryTensor, rows: slice, columns: slice) -> DigitArray:
        """Decode a window of the matrix: uint8 digits, (rows, columns).

        Args:
            raw: all bytes of the source tensor.
            t: what `recognize` returned.
            rows: rows of the window, with start and stop.
            columns: columns of the window, with start and stop.
        """

    def negative_zeros(self, raw: Bytes, t: TernaryTensor) -> Bytes | None:
        """Return the bitmap of zero weights stored as -0.0, or None if there are none."""
        return None

    @abstractmethod
    def restore(self, r: Restored) -> npt.NDArray[Any]:
        """Return the tensor as the source stored it, as an array whose bytes are the tensor's."""

    def again(
        self, checkpoint: Checkpoint, tensor: SourceTensor, record: IndexedTensor
    ) -> TernaryTensor | str | None:
        """Recognize a tensor of the source again as its record in a `.rsr` file says it was."""
        return self.recognize(checkpoint, tensor)

    def restore_companion(self, scale: Scales | None, companion: InlineTensor) -> npt.NDArray[Any]:
        """Return a companion that is kept without data: what the tensor's scales say of it.

        Args:
            scale: as in `Restored`.
            companion: its record.
        """
        raise NotImplementedError(f"layout {self.name!r} keeps its auxiliary whole")
