"""The "source" form: source tensors byte for byte; quantized ones as digit * scale."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.decode import row_scales
from rsr_formats.errors import HeaderFieldError
from rsr_formats.records import AuxiliaryTensor, DenseTensor, IndexedTensor, Stack

from ..common.arrays import ByteArray
from ..layouts import BY_NAME
from ..source.safetensors import METADATA
from .model_files import Config
from .tensors import Export, OutputTensor, as_bytes, decode, dense_tensor, source_tensors


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every source tensor; those absorbed into an indexed tensor come last.

    Raises:
        HeaderFieldError: as for `parts`.
    """
    tensors = parts(file)
    stacks = {next(s.parts()): s for s in file.header.stacks}
    if stacks:
        by_name = {t.name: t for t in tensors}
        inner = {name for s in file.header.stacks for name in s.parts()}
        tensors = [
            _stacked(stacks[t.name], by_name) if t.name in stacks else t
            for t in tensors
            if t.name in stacks or t.name not in inner
        ]
    return Export(tensors, config)


def _stacked(stack: Stack, by_name: dict[str, OutputTensor]) -> OutputTensor:
    """Return a source tensor of three dimensions."""

    def pieces() -> Iterator[ByteArray]:
        for name in stack.parts():
            yield from by_name[name].pieces()

    dtype = by_name[next(stack.parts())].dtype
    return OutputTensor(stack.name, dtype, stack.shape, pieces)


def parts(file: RsrFile) -> list[OutputTensor]:
    """Return the source's tensors, the matrices of a stack one by one.

    Raises:
        HeaderFieldError: a tensor has the name `__metadata__`.
    """
    tensors, absorbed = [], []
    for t in source_tensors(file):
        if isinstance(t, DenseTensor):
            tensors.append(dense_tensor(file, t))
            continue
        pieces = partial(_restore, file, t)
        tensors.append(OutputTensor(t.name, t.source.dtype, t.source.shape, pieces))
        for a in t.source.auxiliary:
            pieces = partial(_restore_auxiliary, file, t, a)
            absorbed.append(OutputTensor(a.name, a.dtype, a.shape, pieces))
    found = [*tensors, *absorbed]
    if any(t.name == METADATA for t in found):
        raise HeaderFieldError(f"a tensor is named {METADATA!r}, which safetensors reserves")
    return found


def _restore(file: RsrFile, t: IndexedTensor) -> list[ByteArray]:
    return [as_bytes(BY_NAME[t.source.layout].restore(decode(file, t)))]


def _restore_auxiliary(file: RsrFile, t: IndexedTensor, a: AuxiliaryTensor) -> list[ByteArray]:
    if a.data is not None:
        return [np.frombuffer(a.data, np.uint8)]
    if not a.nbytes:  # its matrix may claim 2^31 rows in a few bytes
        return []
    scales = row_scales(t, file.index_arrays(t)["scale"])
    return [as_bytes(BY_NAME[t.source.layout].restore_auxiliary(scales, a, t.digits))]
