"""One byte per weight: -1, 0, 1 as I8 [out_features, in_features], and `<name>_scale` as F32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import DenseTensor, IndexedTensor

from ..layouts.base import Bytes
from ..layouts.paretoq import is_clip
from ..layouts.scales import ScaleGrid, group_columns
from .floats import as_floats, without_quantization
from .tensors import (
    Config,
    Export,
    OutputTensor,
    as_bytes,
    decode,
    exported,
    of_dense,
    read_scales,
    row_windows,
)


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every matrix as I8 and, behind it, its scales; what else there is as it is.

    `<name>_scale` is [1] for one scale per tensor, [out_features] for one per row (or block of
    rows, repeated), [out_features, groups] where columns have their own. A matrix whose multiplier
    is 1, or one without rows, has none. Groups are narrower than the file's where layouts/int8.py
    would read so many as others.
    """
    tensors: list[OutputTensor] = []
    for t in exported(file):
        if isinstance(t, DenseTensor):
            tensors.append(of_dense(file, t))
            continue
        if is_clip(t.name):  # no matrix, though its values may look like one's
            tensors.append(as_floats(file, t))
            continue
        tensors.append(OutputTensor(t.name, "I8", t.shape, partial(_windows, file, t)))
        grid = read_scales(file, t)
        if grid is not None and grid.values.size:
            tensors.append(_scale_tensor(t, grid))
    metadata = {**file.header.metadata, "format": "pt"}
    return Export(tensors, without_quantization(file, config), metadata)


def _windows(file: RsrFile, t: IndexedTensor) -> Iterator[Bytes]:
    digits = decode(file, t).digits
    values = np.array(t.digits, np.int8)
    for rows in row_windows(t.shape):
        yield as_bytes(values[digits[rows]])


def _scale_tensor(t: IndexedTensor, grid: ScaleGrid) -> OutputTensor:
    shape: tuple[int, ...] = (t.shape[0],)
    narrower = 1  # groups for each of the file's
    if grid.columns is not None:
        width = _readable_width(grid.columns, t.shape[1])
        narrower = grid.columns // width
        shape = (t.shape[0], -(-t.shape[1] // width))
    elif len(grid.values) == 1:
        shape = (1,)

    def rows() -> Iterator[Bytes]:
        groups = shape[1] if len(shape) > 1 else 1
        for window in row_windows((shape[0], groups)):
            of = np.arange(window.start, window.stop) // grid.rows
            values = np.repeat(grid.values[of], narrower, axis=1)[:, :groups]
            yield as_bytes(values.astype("<f4"))

    return OutputTensor(f"{t.name}_scale", "F32", shape, rows)


def _readable_width(width: int, columns: int) -> int:
    """Return the most columns of a group, a part of `width`, that the number of groups tells."""
    parts = (width // n for n in range(1, width + 1) if width % n == 0)
    return next(w for w in parts if group_columns(columns, -(-columns // w)) == w)
