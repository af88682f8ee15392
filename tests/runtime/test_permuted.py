"""Products of permuted matrices add up integers; what follows from that for float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY
from rsr_testing.matrices import ISAS, Build, Built, Spec, Workshop

Array = npt.NDArray[Any]
Digits = tuple[int, ...]

DIRECTIONS = ("expand", "reduce")
# Rows of the indexed matrix around the 4 and 32 that a kernel takes at once.
LENGTHS = (*range(10), 31, 32, 33, 35, 36, 63, 64, 65, 97, 257)


def every_product(built: Built, x: Array) -> set[bytes]:
    found = set()
    for isa in ISAS:
        rsr.use_isa(isa)
        for threads in (1, 3):
            rsr.set_num_threads(threads)
            for algorithm in ("rsr", "rsr++"):
                found.add(built.matrix.matvec(x, algorithm=algorithm).tobytes())
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("digits", "k"), [(TERNARY, 4), (BINARY_SIGNS, 7), (BINARY_BITS, 3)])
def test_float32_agrees_to_the_bit(
    digits: Digits, k: int, direction: str, shared_build: Build,
    rng: np.random.Generator, restore: None,
) -> None:  # fmt: skip
    """Whatever the instruction set, the number of threads and the algorithm."""
    specs = [Spec((300, 2501), digits, k, "permuted", direction, "row")]
    specs += [Spec((n, n + 1), digits, k, "permuted", direction) for n in LENGTHS]
    for built in shared_build(specs):
        x = rng.standard_normal(built.spec.shape[1]).astype(np.float32)
        built.check(x)
        assert len(every_product(built, x)) == 1, built.spec


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("magnitudes", [0, 3, 30])
def test_float32_is_rounded_once_per_input_and_once_per_result(
    isa: str, direction: str, magnitudes: int, workshop: Workshop, rng: np.random.Generator
) -> None:
    """The error is 2^-30 of the sum of magnitudes, 1/64 of what `Matrix` promises."""
    built = workshop.one((200, 1000), k=5, encoding="permuted", direction=direction)
    x = rng.standard_normal(1000) * 10.0 ** rng.uniform(-magnitudes, magnitudes, 1000)
    x = x.astype(np.float32).astype(np.float64)
    exact = built.W @ x
    error = np.abs(built.matrix @ x.astype(np.float32) - exact)
    assert (error <= 1000 * 2.0**-30 * np.abs(x).sum() + 2.0**-24 * np.abs(exact)).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("value", [1.0, np.nextafter(np.float32(1), np.float32(0)), 1e-45, 3e38])
def test_one_input_of_any_magnitude_is_exact(
    isa: str, direction: str, value: float, workshop: Workshop
) -> None:
    """Just below 1 the sums of neighboring segments are 2^31 apart, more than int32 holds."""
    kind: dict[str, Any] = {"digits": BINARY_SIGNS, "k": 1, "encoding": "permuted"}
    built = workshop.one((70, 1), direction=direction, **kind)
    x = np.array([value], np.float32)
    np.testing.assert_array_equal(built.matrix @ x, (built.W @ x.astype(np.float64)))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sums_beyond_float32_may_cancel(isa: str, direction: str, workshop: Workshop) -> None:
    built = workshop.one((81, 4), k=4, encoding="permuted", direction=direction)
    x = np.full(4, 3e38, np.float32)
    with np.errstate(over="ignore"):
        expected = (built.W @ x.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(built.matrix @ x, expected)
    assert np.isinf(expected).any()
    assert np.isfinite(expected).any()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("digits", [TERNARY, BINARY_SIGNS])
@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_one_segment_holds_all_rows(
    isa: str, fill: str, digits: Digits, direction: str, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """The others are empty: those before it, or those after it."""
    shapes = [(n, 9) if direction == "expand" else (9, n) for n in LENGTHS]
    specs = [Spec(shape, digits, 4, "permuted", direction, "none", fill) for shape in shapes]
    for built in shared_build(specs):
        n = built.spec.shape[1]
        for x in (np.full(n, -128, np.int8), rng.standard_normal(n).astype(np.float32)):
            built.check(x)
            built.check(x, "again, over what the first product left in memory")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@pytest.mark.parametrize(("digits", "k"), [(TERNARY, 4), (BINARY_SIGNS, 6)])
def test_many_vectors_give_what_each_gives_alone(
    isa: str, digits: Digits, k: int, dtype: type[np.generic], direction: str,
    shared_build: Build, rng: np.random.Generator,
) -> None:  # fmt: skip
    """To the bit, whatever their number, with NaN and infinity in some of them."""
    (built,) = shared_build([Spec((131, 203), digits, k, "permuted", direction, "row")])
    for count in (0, 1, 6, 7, 15, 16, 17, 22, 23, 37):
        X = rng.integers(-128, 128, (203, count)).astype(dtype)
        if dtype == np.float32:
            X *= np.float32(10) ** rng.integers(-9, 9, count).astype(np.float32)
            X[7, 1:2], X[8, 5:7] = np.nan, np.inf
        with np.errstate(invalid="ignore"):
            found = built.matrix @ X
        for i in range(count):
            assert found[:, i].tobytes() == (built.matrix @ X[:, i]).tobytes(), (count, i)
