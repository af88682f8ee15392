"""The "int8" form: -1, 0, 1 as I8 [out_features, in_features], and `<name>_scale` as F32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import DenseTensor, IndexedTensor, row_scales_name

from ..common.arrays import ByteArray
from ..layouts.float_bits import row_blocks
from ..layouts.paretoq import is_clip
from ..layouts.scales import ScaleGrid, group_columns
from ..source.quantization import Quantization
from ..source.tensor import PIECE
from .floats import as_floats
from .model_files import Config, bitnet_rules, without_mlx
from .reciprocal import nearest_reciprocal
from .tensors import Export, OutputTensor, as_bytes, convert_matrices, read_scales, value_pieces

READERS = "only rsrc reads this form: other programs would take -1, 0 and 1 for the weights"


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every matrix as I8, followed by its scales; dense tensors are unchanged.

    config.json keeps a `quantization_config` of BitNet, which says that activations are int8. If
    its linear_class is "bitlinear", `weight_scale` divides, as in every form of BitNet.

    `<name>_scale` is [1] for one scale per tensor, [out_features] for scales per row or per block
    of rows, and [out_features, groups] for scales per group of columns. A matrix without scales, or
    without rows, has no such tensor.
    """
    dense = [t for t in file.header.tensors if isinstance(t, DenseTensor)]
    sections = {t.name: t.section for t in dense}
    heads = {t.name: _head(file, t, sections) for t in dense if t.quantized is not None}
    tensors: list[OutputTensor] = []
    rules = bitnet_rules(config)
    divide = rules.is_bitnet and rules.linear_class == "bitlinear"
    for t in convert_matrices(file, partial(_matrix, file, rules if divide else None)):
        tensors += heads.pop(t.name, [t])
    for added in heads.values():
        tensors += added
    return Export(tensors, without_mlx(file, config), [READERS])


def _head(file: RsrFile, t: DenseTensor, sections: Mapping[str, int]) -> list[OutputTensor]:
    """Return an output head as the `.rsr` file has it: int8, and a scale per row."""
    scales = row_scales_name(t.name)
    return [
        OutputTensor(t.name, t.dtype, t.shape, lambda: [file.section(t.section)]),
        OutputTensor(scales, "F32", t.shape[:1], lambda: [file.section(sections[scales])]),
    ]


def _matrix(file: RsrFile, dividing: Quantization | None, t: IndexedTensor) -> list[OutputTensor]:
    """Return a matrix and its scales, which divide in the layers that `dividing` converts."""
    if is_clip(t.name):  # ParetoQ's clip values are not weights, even if they look ternary
        return [as_floats(file, t)]
    values = np.array(t.digits, np.int8)
    weight = OutputTensor(t.name, "I8", t.shape, partial(value_pieces, file, t, values))
    grid = read_scales(file, t)
    if grid is None or not grid.values.size:
        return [weight]
    scale = grid.values.reshape(-1)[0]
    if dividing and grid.values.size == 1 and scale and dividing.converts(t.name):
        grid = ScaleGrid(nearest_reciprocal(scale).reshape(1, 1), grid.rows, grid.columns)
    return [weight, _scale_tensor(t, grid)]


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
