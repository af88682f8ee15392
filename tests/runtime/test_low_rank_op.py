"""The native step of low-rank products, compared with float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_formats.numerics import narrow_bf16, widen_bf16
from rsr_runtime import _native
from rsr_runtime.llm.adapters.adapter import tiled

UNIT = 2.0**-24
# Rows, rank, scale and dtypes of A and B, of the products of one input.
PRODUCTS: list[Any] = [
    (100, 16, 2.0, "f4", "f4"),
    (64, 5, 0.3, "u2", "u2"),  # bfloat16
    (1, 33, -1.5, "f2", "u2"),
    (40, 8, 1e-3, "f4", "f2"),
]
RANKS = sum(rank for _, rank, *_ in PRODUCTS)


def normals(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return rng.standard_normal(shape).astype(np.float32)


def stored(values: np.ndarray[Any, np.dtype[np.float32]], dtype: str) -> Any:
    return narrow_bf16(values) if dtype == "u2" else values.astype(dtype)


def widened(values: Any) -> Any:
    return (widen_bf16(values) if values.dtype == np.uint16 else values).astype(np.float64)


@pytest.mark.parametrize("threads", [1, 3])
def test_is_within_its_bound(
    isa: str, threads: int, rng: np.random.Generator, restore: None
) -> None:
    rsr.set_num_threads(threads)
    columns, count = 4099, 71
    x = normals(rng, count, columns)
    a = [stored(normals(rng, rank, columns), dtype) for _, rank, _, dtype, _ in PRODUCTS]
    b = [stored(normals(rng, rows, rank), dtype) for rows, rank, _, _, dtype in PRODUCTS]
    scales = [scale for _, _, scale, _, _ in PRODUCTS]
    before = [normals(rng, count, rows) for rows, *_ in PRODUCTS]

    def products(first: int, last: int) -> list[Any]:
        y = [one[first:last].copy() for one in before]
        scratch = np.empty((last - first) * RANKS, np.float32)
        _native.add_low_rank(x[first:last], a, [tiled(one) for one in b], scales, scratch, y)
        return y

    found, alone = products(0, count), products(70, 71)
    for i, (_, rank, scale, _, _) in enumerate(PRODUCTS):
        wide, wide_a, wide_b = x.astype(np.float64), widened(a[i]), scale * widened(b[i])
        t = wide @ wide_a.T
        error = columns * UNIT * (np.abs(wide) @ np.abs(wide_a.T))
        want = before[i] + t @ wide_b.T
        size = np.abs(before[i]) + (np.abs(t) + error) @ np.abs(wide_b.T)
        # float32 rounds the scale, too.
        bound = error @ np.abs(wide_b.T) + (rank + 3) * UNIT * size
        assert (np.abs(found[i] - want) <= bound).all()
        np.testing.assert_array_equal(found[i][70:], alone[i])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s["a"].append(s["a"][0]), "as many of a, b, scales and y"),
        (lambda s: s["scales"].append(1.0), "as many of a, b, scales and y"),
        (lambda s: s.update(scales=[1e39]), "scales must fit float32"),
        (lambda s: s.update(scales=[float("nan")]), "scales must fit float32"),
        (lambda s: s.update(a=[s["a"][0].astype("f8")]), "a and b must be float32, float16, or"),
        (lambda s: s.update(b=[s["b"][0].astype("i2")]), "a and b must be float32, float16, or"),
        (lambda s: s.update(a=[s["a"][0][:, :3]]), "rank, columns of x"),
        (lambda s: s.update(b=[s["b"][0][:1]]), "rows / 16 rounded up"),
        (lambda s: s.update(y=[s["y"][0][:1]]), "rows of x"),
        (lambda s: s.update(scratch=s["scratch"][1:]), "all ranks"),
    ],
)
def test_refuses_other_shapes(change: Callable[[dict[str, Any]], None], sentence: str) -> None:
    zeros = np.zeros
    given: dict[str, Any] = {
        "x": zeros((2, 8), "f"), "a": [zeros((3, 8), "f")], "b": [zeros((2, 3, 16), "f")],
        "scales": [1.0], "scratch": zeros(6, "f"), "y": [zeros((2, 20), "f")],
    }  # fmt: skip
    _native.add_low_rank(**given)
    change(given)
    given["a"] = [np.ascontiguousarray(one) for one in given["a"]]
    with pytest.raises(ValueError, match=sentence):
        _native.add_low_rank(**given)
