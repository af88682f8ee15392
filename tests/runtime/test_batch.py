"""Products of several vectors at once: every count around a pass, every kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY
from rsr_testing.matrices import Build, Built, Spec

Array = npt.NDArray[Any]

COUNTS = (2, 3, 4, 7, 8, 9, 12, 13, 15, 16, 17, 21, 22, 27, 31, 32, 33, 40, 64, 65)
# Ragged heights and widths, several strips, rows beyond one tile of a table.
SHAPES = ((1, 1), (33, 26), (65, 49), (129, 200), (200, 1030), (1100, 77))
KINDS: list[dict[str, Any]] = [
    {"packing": "n4s1"},
    {"packing": "w16"},
    {"packing": "w16", "digits": TERNARY, "k": 2},
    {"packing": "w16", "digits": BINARY_SIGNS, "k": 5},
    {"packing": "w16", "digits": BINARY_BITS, "k": 4},
]


def check_batch(built: Built, x: Array) -> Array:
    """Compare W @ x (n, b) as far as `Matrix` promises; return the product."""
    y: Array = built.matrix @ x
    where = f"{built.spec}, {rsr.cpu_info()['isa']}, {x.dtype}, {x.shape[1]} vectors"
    x64 = x.astype(np.float64)
    expected = built.W.astype(np.float64) @ x64
    if x.dtype == np.int8:
        np.testing.assert_array_equal(y, expected, where)
        return y
    scale = built.scale[:, None]
    bound = max(len(x), 3) * 2.0**-24 * np.abs(scale) * np.abs(x64).sum(axis=0)
    assert (np.abs(y - expected * scale) <= bound).all(), where
    return y


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_count(
    isa: str, kind: dict[str, Any], shared_build: Build, rng: np.random.Generator
) -> None:
    for built in shared_build([Spec(shape, scale="row", **kind) for shape in SHAPES]):
        n = built.spec.shape[1]
        for b in COUNTS:
            check_batch(built, rng.integers(-128, 128, (n, b)).astype(np.int8))
            x = rng.standard_normal((n, b)).astype(np.float32)
            y = check_batch(built, x)
            if built.spec.packing == "w16":  # the same additions in the same order
                alone = np.stack([built.matrix @ x[:, i] for i in range(b)], axis=1)
                np.testing.assert_array_equal(y, alone, f"{built.spec}, {isa}, {b} vectors")


@pytest.mark.parametrize("packing", ["w16", "n4s1"])
@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_sums_reach_their_bounds(isa: str, fill: str, packing: str, shared_build: Build) -> None:
    columns = [c + more for c in (240, 252, 480, 1260) for more in (-1, 0, 1)]
    for built in shared_build([Spec((65, n), fill=fill, packing=packing) for n in columns]):
        for value in (-128, 127):
            for b in (3, 8, 16, 32):
                check_batch(built, np.full((built.spec.shape[1], b), value, np.int8))


@pytest.mark.parametrize("packing", ["w16", "n4s1"])
def test_nan_and_infinity_stay_in_their_vector(
    isa: str, packing: str, shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec((97, 50), packing=packing)])
    for b in (4, 16, 33):
        x = rng.standard_normal((50, b)).astype(np.float32)
        x[rng.integers(50), b // 2], x[rng.integers(50), b - 1] = np.inf, np.nan
        y = built.matrix @ x
        for i in range(b):
            with np.errstate(invalid="ignore"):
                expected = (built.W * x[:, i].astype(np.float64)).sum(axis=1)
            for test in (np.isnan, np.isposinf, np.isneginf):
                np.testing.assert_array_equal(test(y[:, i]), test(expected), f"{isa}, {b}, {i}")


@pytest.mark.parametrize("packing", ["w16", "n4s1"])
def test_results_do_not_depend_on_the_number_of_threads(
    isa: str, packing: str, shared_build: Build, rng: np.random.Generator,
    restore: None,
) -> None:  # fmt: skip
    (built,) = shared_build([Spec((1230, 700), scale="row", packing=packing)])
    for b in (5, 16, 32):
        for x in (rng.integers(-128, 128, (700, b)).astype(np.int8),
                  rng.standard_normal((700, b)).astype(np.float32)):  # fmt: skip
            rsr.set_num_threads(1)
            alone = check_batch(built, x)
            for threads in (2, 3):
                rsr.set_num_threads(threads)
                found = built.matrix @ x
                assert found.tobytes() == alone.tobytes(), f"{isa}, {threads} threads, {b} vectors"
