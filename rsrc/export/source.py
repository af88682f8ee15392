"""The "source" form: source tensors byte for byte; quantized ones as digit * scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.decode import row_scales
from rsr_formats.errors import HeaderFieldError
from rsr_formats.records import AuxiliaryTensor, DenseTensor, IndexedTensor, Tensor

from ..layouts import BY_NAME
from ..layouts.base import Bytes
from .model_files import Config
from .safetensors import METADATA
from .tensors import (
    Export,
    OutputTensor,
    as_bytes,
    decode,
    dense_bytes,
    source_dtype,
    source_tensors,
)


@dataclass(frozen=True)
class Restorable:
    """A source tensor that a `.rsr` file can restore."""

    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], Bytes]  # decodes it
    record: Tensor | None  # None: an auxiliary tensor, such as a scale


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every tensor of the source. config.json is that of the file."""
    return Export(
        [
            OutputTensor(name, t.dtype, t.shape, partial(_whole, t))
            for name, t in restorable(file).items()
        ]
    )


def restorable(file: RsrFile) -> dict[str, Restorable]:
    """Return every source tensor by name; those absorbed into an indexed tensor come last.

    Raises:
        HeaderFieldError: a tensor has the name `__metadata__`.
    """
    tensors = {t.name: _restorable(file, t) for t in source_tensors(file)}
    for t in file.header.tensors:
        if isinstance(t, IndexedTensor):
            for a in t.source.auxiliary:
                tensors[a.name] = Restorable(
                    a.dtype, a.shape, partial(_auxiliary, file, t, a), None
                )
    if METADATA in tensors:
        raise HeaderFieldError(f"a tensor is named {METADATA!r}, which safetensors reserves")
    return tensors


def _restorable(file: RsrFile, t: Tensor) -> Restorable:
    if isinstance(t, DenseTensor):
        return Restorable(source_dtype(t), t.shape, partial(dense_bytes, file, t), t)
    return Restorable(t.source.dtype, t.source.shape, partial(_restore, file, t), t)


def _whole(t: Restorable) -> list[Bytes]:
    return [t.data()]


def _restore(file: RsrFile, t: IndexedTensor) -> Bytes:
    return as_bytes(BY_NAME[t.source.layout].restore(decode(file, t)))


def _auxiliary(file: RsrFile, t: IndexedTensor, auxiliary: AuxiliaryTensor) -> Bytes:
    if auxiliary.data is not None:
        return np.frombuffer(auxiliary.data, np.uint8)
    if not auxiliary.nbytes:  # its matrix may claim 2^31 rows in a few bytes
        return np.empty(0, np.uint8)
    scales = row_scales(t, file.index_arrays(t)["scale"])
    return as_bytes(BY_NAME[t.source.layout].restore_auxiliary(scales, auxiliary))
