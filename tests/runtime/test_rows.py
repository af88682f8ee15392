"""`linear_rows`: products with dense matrices in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rsr_runtime

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 70)).astype(np.float32)
Q = RNG.integers(-127, 128, (11, 70)).astype(np.int8)
SCALE = RNG.random(11).astype(np.float32) + np.float32(0.5)
F32 = RNG.standard_normal((11, 70)).astype(np.float32)


def test_float32() -> None:
    exact = X.astype(np.float64) @ F32.T.astype(np.float64)
    bound = 70 * 2.0**-24 * (np.abs(X).astype(np.float64) @ np.abs(F32.T))
    for weight in (F32, np.asfortranarray(F32)):
        assert (np.abs(rsr_runtime.linear_rows(weight, X) - exact) <= bound).all()


def test_int8_quantizes_the_rows_of_x() -> None:
    s = 127 / np.abs(X).max(axis=1, keepdims=True)
    sums = np.rint(X * s).astype(np.int64) @ Q.T.astype(np.int64)
    found = rsr_runtime.linear_rows(Q, X, SCALE)
    np.testing.assert_allclose(found, sums * SCALE / s, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Q, X), rsr_runtime.InputTypeError, "weight has dtype int8, expected float32"),
        ((F32, X, SCALE), rsr_runtime.InputTypeError, "weight has dtype float32, expected int8"),
        ((F32, X.astype("f8")), rsr_runtime.InputTypeError, "x has dtype float64"),
        ((Q, X, SCALE.astype("f8")), rsr_runtime.InputTypeError, "scale has dtype float64"),
        ((F32, X[:, :69]), rsr_runtime.InputShapeError, r"\(11, 70\) and x \(3, 69\)"),
        ((F32, X[0]), rsr_runtime.InputShapeError, r"\(11, 70\) and x \(70,\)"),
        ((Q, X, SCALE[:10]), rsr_runtime.InputShapeError, r"scale has shape \(10,\), expected"),
        (
            (np.zeros((1, 1 << 17), np.int8), np.zeros((1, 1 << 17), np.float32), SCALE[:1]),
            rsr_runtime.InputShapeError,
            "weight has 131072 columns, expected at most 131071",
        ),
    ],
)
def test_other_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rsr_runtime.linear_rows(*arguments)
