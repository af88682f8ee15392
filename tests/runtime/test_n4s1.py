"""Products of packing n4s1 on every instruction set: lengths, bounds, floats of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rsr_runtime as rsr
from rsr_formats.packing import pack_n4s1
from rsr_runtime import _native
from rsr_testing.matrices import Build, Spec

Array = npt.NDArray[Any]

ROWS = (0, 1, 31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 160)
FLUSH = 240  # inputs whose sums of -128 times -1 just fit int16: ten units of 24
# Around units, strips and flushes; the largest is beyond two flushes of every kernel.
COLUMNS = (0, 1, 2, 3, 4, 23, 24, 25, 47, 48, 49, FLUSH - 1, FLUSH, FLUSH + 1, 2 * FLUSH + 25)


def float_inputs(n: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return vectors whose products cancel, underflow or nearly overflow."""
    tiny = np.full(n, 2.0**-149)
    normal = rng.standard_normal(n)
    greatest = np.finfo(np.float32).max / max(n, 1) * (1 - n * 2.0**-23)  # sums stay finite
    huge_and_tiny = rng.standard_normal(n) * 2.0**-24
    huge_and_tiny[: n // 7] = 1.0
    return {
        "zero": np.zeros(n, np.float32),
        "normal": normal.astype(np.float32),
        "all magnitudes": (normal * 10.0 ** rng.uniform(-30, 30, n)).astype(np.float32),
        "huge and tiny": huge_and_tiny.astype(np.float32),
        "one huge": np.where(np.arange(n) == n // 2, 2.0**100, normal).astype(np.float32),
        "below a power of two": np.full(n, np.nextafter(np.float32(2), np.float32(0))),
        "denormal": (tiny * rng.integers(-1000, 1000, n)).astype(np.float32),
        "least": tiny.astype(np.float32),
        "greatest": np.full(n, greatest, np.float32),
    }


@pytest.mark.parametrize("columns", COLUMNS)
def test_every_height_and_width(
    isa: str, columns: int, shared_build: Build, rng: np.random.Generator
) -> None:
    specs = [Spec((m, columns), packing="n4s1") for m in ROWS]
    for b in shared_build(specs):
        assert b.matrix.packing == "n4s1"
        b.check(np.full(columns, -128, np.int8), "-128")
        b.check(np.full(columns, 127, np.int8), "127")
        b.check(rng.integers(-128, 128, columns).astype(np.int8), "random")
        for name, x in float_inputs(columns, rng).items():
            b.check(x, name)


@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_sums_reach_their_bounds(
    isa: str, fill: str, shared_build: Build, rng: np.random.Generator
) -> None:
    """Weights and inputs all alike: the largest digits, and sums of them, that lanes ever hold."""
    columns = [units * 24 + more for units in (8, 10, 16, 25) for more in (-1, 0, 1)]
    specs = [Spec((m, n), fill=fill, packing="n4s1") for n in columns for m in (32, 96)]
    for b in shared_build(specs):
        n = b.spec.shape[1]
        for value in range(-128, 128):
            b.check(np.full(n, value, np.int8), value)
        for x in float_inputs(n, rng).values():
            b.check(x)
        # Every digit of a fixed-point sum at its end: random constants find most ends.
        for value in rng.uniform(1, 2, 200):
            b.check(np.full(n, value, np.float32), value)


def dense_product(W: Array, x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        product: Array = (W * x.astype(np.float64)).sum(axis=1)
    return product


def test_nan_and_infinity_spread_as_in_a_dense_product(
    isa: str, shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec((97, 49), scale="row", packing="n4s1")])
    scaled = built.W * built.scale[:, None]
    for i in range(49):
        for values in ((np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf), (np.inf, np.nan)):
            x = rng.standard_normal(49).astype(np.float32)
            for j, value in enumerate(values):
                x[(i + 5 * j) % 49] = value
            found, expected = built.matrix @ x, dense_product(scaled, x)
            for test in (np.isnan, np.isposinf, np.isneginf):
                np.testing.assert_array_equal(test(found), test(expected), f"{isa}, {x}")


def test_finite_neighbors_of_infinity_in_a_batch_stay_exact(
    isa: str, shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec((65, 49), packing="n4s1")])
    x = rng.standard_normal((49, 40)).astype(np.float32)
    x[7, 3], x[11, 22] = np.inf, np.nan
    y = built.matrix @ x
    for i in set(range(40)) - {3, 22}:
        np.testing.assert_allclose(y[:, i], built.W @ x[:, i].astype(np.float64), atol=1e-4)
    assert np.isnan(y[:, 22]).all()
    assert not np.isfinite(y[:, 3]).any()


@pytest.mark.parametrize("shape", [(1100, 2100), (65, 14000)])
def test_results_do_not_depend_on_the_number_of_threads(
    isa: str, shape: tuple[int, int], shared_build: Build,
    rng: np.random.Generator, restore: None,
) -> None:  # fmt: skip
    (built,) = shared_build([Spec(shape, packing="n4s1")])
    assert built.matrix.nbytes > 2 * (64 << 10)  # enough for two threads
    n = shape[1]
    for x in (rng.integers(-128, 128, n).astype(np.int8), *float_inputs(n, rng).values()):
        rsr.set_num_threads(1)
        alone = built.check(x)
        rsr.set_num_threads(2)
        assert (built.matrix @ x).tobytes() == alone.tobytes(), isa


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 300)),
    count=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_ranks_times_any_vectors(
    isa: str, shape: tuple[int, int], count: int, seed: int
) -> None:
    """Against NumPy, from ranks alone; float sums of small integers are exact too."""
    rng = np.random.default_rng(seed)
    (m, n), blocks = shape, -(-shape[1] // 3)
    ranks = rng.integers(0, 27, (blocks, m)).astype(np.uint16)
    patterns = np.zeros((3, 32), np.int16)
    patterns[:, :27] = np.stack(np.unravel_index(np.arange(27), (3, 3, 3))) - 1
    W = patterns[:, ranks].transpose(2, 1, 0).reshape(m, 3 * blocks)[:, :n].astype(np.int64)
    native = _native.Ranked(pack_n4s1(ranks), m, n, patterns, np.ones(1, np.float32), m)
    x = rng.integers(-128, 128, (count, n)).astype(np.int8)
    y = np.empty((count, m), np.int32)
    _native.multiply_i8([native], x, [y])
    np.testing.assert_array_equal(y, x @ W.T)
    z = np.empty((count, m), np.float32)
    _native.multiply_f32([native], x.astype(np.float32), [z])
    np.testing.assert_array_equal(z, x @ W.T)


def test_magnitudes_that_are_no_pattern_look_up_zero(isa: str, rng: np.random.Generator) -> None:
    """Random bytes: no crash, and magnitudes 14 and 15 count as zero."""
    m, n, units = 96, 72, 3
    data = rng.integers(0, 256, m * units * 5).astype(np.uint8)
    patterns = np.zeros((3, 32), np.int16)
    patterns[:, :27] = np.stack(np.unravel_index(np.arange(27), (3, 3, 3))) - 1
    native = _native.Ranked(data, m, n, patterns, np.ones(1, np.float32), m)
    W = np.zeros((m, n), np.int64)
    for row in range(m):
        top, height = row // 64 * 64, 64 if row < 64 else 32
        cells = data[top * units * 5 :][: height * units * 5].reshape(units, 5, height)
        for block in range(8 * units):
            u, j = divmod(block, 8)
            magnitude = cells[u, j // 2, row - top] >> 4 * (j % 2) & 15
            sign = -1 if cells[u, 4, row - top] >> (7 - j) & 1 else 1
            W[row, 3 * block : 3 * block + 3] = sign * patterns[:, 13 + magnitude]
    x = rng.integers(-128, 128, (1, n)).astype(np.int8)
    y = np.empty((1, m), np.int32)
    _native.multiply_i8([native], x, [y])
    np.testing.assert_array_equal(y, x @ W.T)
    z = np.empty((1, m), np.float32)
    _native.multiply_f32([native], x.astype(np.float32), [z])
    np.testing.assert_array_equal(z, x @ W.T)


def test_the_array_must_have_the_size_of_the_index() -> None:
    patterns, scale = np.zeros((3, 32), np.int16), np.ones(1, np.float32)
    with pytest.raises(ValueError, match="size of the index"):
        _native.Ranked(np.zeros(159, np.uint8), 32, 24, patterns, scale, 32)
    with pytest.raises(ValueError, match="k = 3"):
        _native.Ranked(np.zeros(160, np.uint8), 32, 16, patterns[:2], scale, 32)
