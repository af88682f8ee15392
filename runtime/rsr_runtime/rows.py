"""Products with a dense matrix in memory, row by row: float32, or int8 with a scale per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import MAX_QUANTIZED_COLUMNS

from . import _native
from .errors import InputShapeError
from .inputs import plain_array
from .products import quantize_int8


def linear_rows(
    weight: npt.NDArray[Any],
    x: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Return x @ weight.T, on the runtime's threads.

    With int8 weights, each row of x is quantized to int8 by its largest magnitude, as
    `Matrix.linear` does with activations="int8", and the integer sums are scaled.

    Args:
        weight: (out_features, in_features), float32; or int8 with `scale`.
        x: (b, in_features), float32.
        scale: (out_features,), float32; weight = int8 * scale.

    Returns:
        (b, out_features), float32.

    Raises:
        InputTypeError: an argument has another dtype.
        InputShapeError: an argument has another shape.
    """
    weight = plain_array("weight", weight, [np.float32 if scale is None else np.int8])
    x = plain_array("x", x, [np.float32])
    if scale is not None:
        scale = plain_array("scale", scale, [np.float32])
    if weight.ndim != 2 or x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise InputShapeError(
            f"weight has shape {weight.shape} and x {x.shape}, expected (out_features, "
            "in_features) and (b, in_features)"
        )
    if scale is not None and scale.shape != weight.shape[:1]:
        raise InputShapeError(f"scale has shape {scale.shape}, expected {weight.shape[:1]}")
    if scale is not None and weight.shape[1] > MAX_QUANTIZED_COLUMNS:  # sums are int32
        raise InputShapeError(
            f"weight has {weight.shape[1]} columns, expected at most {MAX_QUANTIZED_COLUMNS}"
        )
    weight, x = np.require(weight, None, ["C", "A"]), np.require(x, None, ["C", "A"])
    y = np.empty((len(x), len(weight)), np.float32)
    if scale is None:
        _native.multiply_dense(weight, "F32", x, y)
        return y
    scale = np.require(scale, None, ["C", "A"])
    _native.multiply_rows_i8(weight, scale, *quantize_int8(x), y)
    return y
