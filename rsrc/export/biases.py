"""Biases that a model multiplies by the scale of their matrix.

transformers' AutoBitLinear multiplies the whole sum by `weight_scale`, the bias included
(integrations/bitnet.py), if `quantization_mode` is offline. In every other form a bias is added as
it is, so it must be multiplied when it is written.
"""

from __future__ import annotations

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import FLOAT_DTYPES, DenseTensor, IndexedTensor

from ..common.errors import ExportError
from ..layouts.float_bits import from_float32, to_float32
from .dtypes import smallest
from .model_files import Config, bitnet_rules
from .tensors import OutputTensor, as_bytes, dense_tensor, read_scales


def scaled_biases(file: RsrFile, config: Config | None) -> dict[str, OutputTensor]:
    """Return the biases to write instead of the stored ones, by name.

    Each is bias * scale, computed in float32, in the smallest dtype that holds it.

    Raises:
        ExportError: a matrix has scales that are not one for each row of its bias.
        SourceError: config.json has an unknown linear_class or quantization_mode, or an unsupported
            regular expression in `modules_to_not_convert`.
    """
    rules = bitnet_rules(config)
    if not rules.is_bitnet or (rules.linear_class, rules.mode) != ("autobitlinear", "offline"):
        return {}
    dense = {t.name: t for t in file.header.tensors if isinstance(t, DenseTensor)}
    found = {}
    for t in file.header.tensors:
        bias = dense.get(f"{t.name.removesuffix('.weight')}.bias")
        if isinstance(t, IndexedTensor) and bias is not None and rules.converts(t.name):
            found[bias.name] = _scaled(file, t, bias)
    return found


def _scaled(file: RsrFile, t: IndexedTensor, bias: DenseTensor) -> OutputTensor:
    grid = read_scales(file, t)
    rows = t.shape[0]
    if bias.dtype not in FLOAT_DTYPES or bias.shape != (rows,) or (grid and grid.columns):
        raise ExportError(
            f"{bias.name!r} is {bias.dtype} {list(bias.shape)} of a layer that multiplies it by "
            f"its weight_scale, expected floats [{rows}] and no scale per group of columns"
        )
    values = to_float32(dense_tensor(file, bias).read(), bias.dtype)
    if grid is not None and rows:
        values = values * np.repeat(grid.values[:, 0], grid.rows)[:rows]
    dtype = smallest(values, bias.dtype)
    stored = from_float32(values, dtype)
    return OutputTensor(bias.name, dtype, bias.shape, lambda: [as_bytes(stored)])
