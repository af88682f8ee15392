"""The native step of low-rank products, compared with float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_runtime import _native
from rsr_runtime.llm.adapters.adapter import tiled

UNIT = 2.0**-24
SHAPES = [(100, 16), (64, 5), (1, 33)]  # rows and rank of the products of one input


def normals(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 3])
def test_is_within_its_bound(
    isa: str, threads: int, rng: np.random.Generator, restore: None
) -> None:
    rsr.set_num_threads(threads)
    columns, count = 4099, 71
    x = normals(rng, count, columns)
    a = [normals(rng, rank, columns) for _, rank in SHAPES]
    b = [normals(rng, rows, rank) for rows, rank in SHAPES]
    before = [normals(rng, count, rows) for rows, _ in SHAPES]

    def products(first: int, last: int) -> list[Any]:
        y = [one[first:last].copy() for one in before]
        scratch = np.empty((last - first) * sum(rank for _, rank in SHAPES), np.float32)
        _native.add_low_rank(x[first:last], a, [tiled(one) for one in b], scratch, y)
        return y

    found, alone = products(0, count), products(70, 71)
    for i, (_, rank) in enumerate(SHAPES):
        wide, wide_b = x.astype(np.float64), b[i].astype(np.float64)
        t = wide @ a[i].T.astype(np.float64)
        error = columns * UNIT * (np.abs(wide) @ np.abs(a[i].T))
        want = before[i] + t @ wide_b.T
        size = np.abs(before[i]) + (np.abs(t) + error) @ np.abs(wide_b.T)
        bound = error @ np.abs(wide_b.T) + (rank + 1) * UNIT * size
        assert (np.abs(found[i] - want) <= bound).all()
        np.testing.assert_array_equal(found[i][70:], alone[i])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s["a"].append(s["a"][0]), "as many of a, b and y"),
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
        "scratch": zeros(6, "f"), "y": [zeros((2, 20), "f")],
    }  # fmt: skip
    _native.add_low_rank(**given)
    change(given)
    given["a"] = [np.ascontiguousarray(one) for one in given["a"]]
    with pytest.raises(ValueError, match=sentence):
        _native.add_low_rank(**given)
