"""Inputs of timed products, and the results they must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_runtime import Matrix

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

DTYPES = ("int8", "float32")  # of inputs

_PANEL = 1 << 24  # weights widened to float64 at a time


@dataclass(frozen=True)
class Expected:
    """The result that a product must have: exactly `y`, or within `bound` of it."""

    y: Array
    bound: Float64 | None = None

    def check(self, y: Array) -> str | None:
        """Return None for a right product, or a description of the error."""
        wrong = y != self.y if self.bound is None else ~(np.abs(y - self.y) <= self.bound)
        if not wrong.any():
            return None
        i = int(np.argmax(wrong))
        found, right = y.reshape(-1)[i], self.y.reshape(-1)[i]
        return f"{np.count_nonzero(wrong)} wrong sums, the first y[{i}]: {found}, expected {right}"

    @classmethod
    def near(cls, y: Array, x: Array, scale: Array) -> Expected:
        """Return the expected result if `y` is another kernel's product, within its bound."""
        if y.dtype == np.int32:
            return cls(y)
        return cls(y.astype(np.float64), 2 * _bound(x, scale))


@dataclass(frozen=True)
class Reference:
    """Inputs for one matrix and the products they must give, by dtype of the input."""

    x: dict[str, Array]
    y: dict[str, Expected]


def reference_products(
    matrix: Matrix, W: Array, rng: np.random.Generator, *batch: int
) -> Reference:
    """Draw inputs and compute their products in float64, which is exact for int8.

    Args:
        matrix: gives the scales.
        W: its digit values, int8 (out_features, in_features).
        rng: draws the inputs.
        batch: the number of vectors b; without it inputs are (in_features,), products
            (out_features,), with it (b, in_features) and (b, out_features).
    """
    m, n = W.shape
    x = random_inputs((*batch, n), rng)
    integers, reals = (x[dtype].reshape(-1, n).astype(np.float64).T for dtype in DTYPES)
    scales = np.broadcast_to(entry_scales(matrix), (m, n))
    height = max(1, _PANEL // n)
    panels = []
    for rows in (slice(r, r + height) for r in range(0, m, height)):
        panel = W[rows].astype(np.float64)
        panels.append(np.hstack([panel @ integers, (panel * scales[rows]) @ reals]))
    exact, real = np.concatenate(panels).T.reshape(len(DTYPES), *batch, m)
    y = {
        "int8": Expected(exact.astype(np.int32)),
        "float32": Expected(real, _bound(x["float32"], matrix.scale)),
    }
    return Reference(x, y)


def entry_scales(matrix: Matrix) -> Array:
    """Return the scales of the entries: (1, 1), (out_features, 1), or (out, in) for groups."""
    scale = matrix.scale
    if scale.ndim < 2:
        return scale.reshape(-1, 1)
    return np.repeat(scale, matrix.group_columns, axis=1)[:, : matrix.shape[1]]


def random_inputs(shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
    """Draw inputs of each dtype: int8 uniform over -128..127, float32 standard normal."""
    return {
        "int8": rng.integers(-128, 128, shape).astype(np.int8),
        "float32": rng.standard_normal(shape).astype(np.float32),
    }


def _bound(x: Array, scale: Array) -> Float64:
    """Return the error bound that `Matrix` promises for float32 products."""
    if scale.ndim == 2:
        scale = np.abs(scale).max(axis=1)
    magnitudes = np.abs(x).sum(axis=-1, keepdims=True, dtype=np.float64)
    unscaled = max(x.shape[-1], 3) * 2.0**-24 * magnitudes
    return np.asarray(unscaled * np.abs(scale.astype(np.float64)))
