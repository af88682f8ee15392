"""Checkpoints of gated delta nets that MLX has converted, which differ from those of transformers.

mlx-lm stores the taps of the short convolution before its empty dimension, and adds 1 to the
weights of zero-centered norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from rsr_formats.architectures import DecoderNames, of_config

from ..common.arrays import ByteArray
from ..common.errors import SourceError
from .checkpoint import Checkpoint
from .mlx_codes import FLOATS, widened
from .tensor import ConvertedTensor, SourceTensor

_CONVOLUTION = ".linear_attn.conv1d.weight"


@dataclass(frozen=True)
class _LessOne(ConvertedTensor):
    """Float32 values: those of a small tensor, less 1."""

    stored: SourceTensor

    @property
    def origin(self) -> str:
        """The dtype in the file."""
        return self.stored.dtype

    @property
    def stored_nbytes(self) -> int:
        """Bytes in the file."""
        return self.stored.nbytes

    def panels(self) -> Iterator[ByteArray]:
        """Yield all values at once; see ConvertedTensor."""
        values = widened(self.stored.read(), self.stored.dtype)
        yield (values - np.float32(1)).view(np.uint8)


def as_in_transformers(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint with convolutions and norms as transformers has them.

    Raises:
        SourceError: config.json is not a JSON object; or a norm is not a tensor of floats.
    """
    tensors = {
        name: replace(t, shape=(t.shape[0], 1, t.shape[1]))
        for name, t in checkpoint.tensors.items()
        if name.endswith(_CONVOLUTION) and len(t.shape) == 3 and t.shape[1] > t.shape[2] == 1
    }
    known = of_config(checkpoint.config) if tensors else None
    if known is None:
        return checkpoint
    prefix = DecoderNames.find(checkpoint.tensors).prefix
    for name, t in checkpoint.tensors.items():
        if not (name.startswith(prefix) and known.is_zero_centered(name.removeprefix(prefix))):
            continue
        if t.dtype not in FLOATS:
            raise SourceError(f"{name} is {t.dtype}, expected floats, the weight of a norm")
        tensors[name] = _LessOne(name, "F32", t.shape, t.path, t.offset, 4 * prod(t.shape), t)
    return replace(checkpoint, tensors=checkpoint.tensors | tensors)
