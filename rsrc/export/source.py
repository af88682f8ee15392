"""The source again, byte for byte; quantized tensors as what was kept of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.decode import row_scales
from rsr_formats.errors import HeaderFieldError
from rsr_formats.records import DenseTensor, IndexedTensor, InlineTensor, Tensor

from ..layouts import BY_NAME
from ..layouts.base import Bytes
from .safetensors import METADATA
from .tensors import (
    Config,
    Export,
    OutputTensor,
    as_bytes,
    decode,
    dense_pieces,
    of_source,
    source_dtype,
)


@dataclass(frozen=True)
class Restorable:
    """A tensor of the source, as the .rsr file describes it; `data` decodes it."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    data: Callable[[], Bytes]
    indexed: IndexedTensor | None = None
    quantized: DenseTensor | None = None  # what was kept of it, where that is less


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every tensor of the source; its config.json is that of the file."""
    tensors = [
        OutputTensor(name, t.dtype, t.shape, partial(_whole, t))
        for name, t in restorable(file).items()
    ]
    return Export(tensors, metadata=file.header.metadata)


def restorable(file: RsrFile) -> dict[str, Restorable]:
    """List every source tensor by name, auxiliary behind what absorbed them."""
    tensors: dict[str, Restorable] = {}

    def add(name: str, tensor: Restorable) -> None:
        if name == METADATA:
            raise HeaderFieldError(f"a tensor is named {name!r}, which safetensors reserves")
        tensors[name] = tensor

    for t in of_source(file):
        add(t.name, restorable_one(file, t))
    for t in file.header.tensors:
        if isinstance(t, IndexedTensor):
            for c in t.source.auxiliary:
                data = partial(_companion, file, t, c)
                add(c.name, Restorable(c.dtype, c.shape, c.nbytes, data))
    return tensors


def restorable_one(file: RsrFile, t: Tensor) -> Restorable:
    """Return the source tensor that `t` was made from."""
    if isinstance(t, DenseTensor):
        as_source = DenseTensor(t.name, source_dtype(t), t.shape, 0)
        data = partial(_dense, file, t)
        return Restorable(
            as_source.dtype, t.shape, as_source.nbytes, data, quantized=t if t.quantized else None
        )
    source = DenseTensor(t.name, t.source.dtype, t.source.shape, 0)
    return Restorable(source.dtype, source.shape, source.nbytes, lambda: _restore(file, t), t)


def _dense(file: RsrFile, t: DenseTensor) -> Bytes:
    pieces = list(dense_pieces(file, t))
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.uint8), *pieces])


def _whole(t: Restorable) -> list[Bytes]:
    return [t.data()]


def _restore(file: RsrFile, t: IndexedTensor) -> Bytes:
    return as_bytes(BY_NAME[t.source.layout].restore(decode(file, t)))


def _companion(file: RsrFile, t: IndexedTensor, c: InlineTensor) -> Bytes:
    if c.data is not None:
        return np.frombuffer(c.data, np.uint8)
    if not c.nbytes:  # so there is nothing to say of what may be very many rows
        return np.empty(0, np.uint8)
    scales = row_scales(t, file.index_arrays(t)["scale"])  # the digits have no say in it
    return as_bytes(BY_NAME[t.source.layout].restore_auxiliary(scales, c))
