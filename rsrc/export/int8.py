"""The "int8" form: -1, 0, 1 as I8 [out_features, in_features], and `<name>_scale` as F32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import IndexedTensor

from ..common.arrays import ByteArray
from ..layouts.float_bits import row_blocks
from ..layouts.paretoq import is_clip
from ..layouts.scales import ScaleGrid, group_columns
from ..source.tensor import PIECE
from .floats import as_floats
from .model_files import Config, without_packing
from .tensors import Export, OutputTensor, as_bytes, convert_matrices, read_scales, value_pieces


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every matrix as I8, followed by its scales; dense tensors are unchanged.

    `<name>_scale` is [1] for one scale per tensor, [out_features] for scales per row or per block
    of rows, and [out_features, groups] for scales per group of columns. A matrix without scales, or
    without rows, has no such tensor.
    """
    tensors = convert_matrices(file, partial(_matrix, file))
    return Export(tensors, without_packing(file, config))


def _matrix(file: RsrFile, t: IndexedTensor) -> list[OutputTensor]:
    if is_clip(t.name):  # ParetoQ's clip values are not weights, even if they look ternary
        return [as_floats(file, t)]
    values = np.array(t.digits, np.int8)
    weight = OutputTensor(t.name, "I8", t.shape, partial(value_pieces, file, t, values))
    grid = read_scales(file, t)
    return [weight] if grid is None or not grid.values.size else [weight, _scale_tensor(t, grid)]


def _scale_tensor(t: IndexedTensor, grid: ScaleGrid) -> OutputTensor:
    out_features, in_features = t.shape
    shape: tuple[int, ...] = (out_features,)
    parts = 1  # output groups per group of the grid
    if grid.columns is not None:
        width = _readable_width(grid.columns, in_features)
        parts = grid.columns // width
        shape = (out_features, -(-in_features // width))
    elif len(grid.values) == 1:
        shape = (1,)

    def pieces() -> Iterator[ByteArray]:
        groups = shape[1] if len(shape) > 1 else 1
        for rows in row_blocks((shape[0], groups), PIECE):
            cells = grid.values[np.arange(rows.start, rows.stop) // grid.rows]
            yield as_bytes(np.repeat(cells, parts, axis=1)[:, :groups].astype("<f4"))

    return OutputTensor(f"{t.name}_scale", "F32", shape, pieces)


def _readable_width(width: int, columns: int) -> int:
    """Return the largest divisor of a group's width that its number of groups determines.

    A reader (layouts/int8.py) has only the number of groups: two groups of 100 columns could be 64
    + 36 or 50 + 50, and are taken for the former. So groups of 50 are written as groups of 10.
    """
    divisors = (width // n for n in range(1, width + 1) if width % n == 0)
    return next(w for w in divisors if group_columns(columns, -(-columns // w)) == w)
