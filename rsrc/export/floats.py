"""The "float" form: every matrix as digit * scale, which any software reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.records import FLOAT_DTYPES, IndexedTensor

from ..common.arrays import ByteArray
from ..common.errors import ExportError
from ..layouts.float_bits import from_float32, row_blocks
from ..source.tensor import PIECE
from .activations import without_int8_activations
from .biases import scaled_biases
from .dtypes import smallest
from .model_files import Config, bitnet_settings, without, without_mlx
from .self_quantizing import without_self_quantizing
from .tensors import Export, OutputTensor, as_bytes, convert_matrices, decode, read_scales


def export(file: RsrFile, config: Config | None) -> Export:
    """Return every matrix as digit * scale, exactly; dense tensors are unchanged.

    Biases that the model scales are multiplied by their scale. config.json loses its settings for
    packed weights, and those that make a model quantize its weights itself: it would quantize these
    again, with smaller scales.

    Raises:
        ExportError: the model has norms inside linear layers, which need those settings.
        SourceError: `quantization_config` has a value that is not known.
    """
    if bitnet_settings(config).get("use_rms_norm"):
        raise ExportError(
            "the linear layers normalize their inputs (use_rms_norm), which only "
            "quantization_config can say: write the model with --to source or --to bitnet"
        )
    biases = scaled_biases(file, config)
    tensors = convert_matrices(file, lambda t: [as_floats(file, t)])
    tensors = [biases.get(t.name, t) for t in tensors]
    return Export(tensors, without_quantization(file, config))


def without_quantization(file: RsrFile, config: Config | None) -> Config | None:
    """Return config.json without the settings that make linear layers other than plain ones."""
    if bitnet_settings(config):
        config = without(config, "quantization_config")
    config = without_self_quantizing(without_mlx(file, config))
    return without_int8_activations(config)


def as_floats(file: RsrFile, t: IndexedTensor) -> OutputTensor:
    """Return a matrix as digit * scale, with its negative zeros."""
    dtype = float_dtype(file, t)
    pieces = partial(_pieces, file, t, dtype)
    return OutputTensor(t.name, dtype, t.shape, pieces, _magnitudes(file, t))


def float_dtype(file: RsrFile, t: IndexedTensor) -> str:
    """Return the source's dtype if it is a float that holds every scale exactly, else the smallest.

    A quantized matrix has scales that the source's dtype may not hold.
    """
    preferred = [t.source.dtype] if t.source.dtype in FLOAT_DTYPES else []
    return smallest(_magnitudes(file, t), *preferred)


def _magnitudes(file: RsrFile, t: IndexedTensor) -> npt.NDArray[np.float32]:
    grid = read_scales(file, t)
    scales = np.ones(1, np.float32) if grid is None else grid.values
    return scales if t.largest_digit == 1 else np.concatenate([scales, scales * t.largest_digit])


def _pieces(file: RsrFile, t: IndexedTensor, dtype: str) -> Iterator[ByteArray]:
    r = decode(file, t)
    negative = r.negative_zero_mask()
    for rows in row_blocks(t.shape, PIECE):
        values = r.weights(rows) + np.float32(0)  # -1 * 0.0 and 0 * -s are -0.0
        if negative is not None:
            values[negative[rows]] = -0.0
        yield as_bytes(from_float32(values, dtype))
