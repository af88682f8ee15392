"""Products of packing n4s1, which adds floats in fixed point: lengths, bounds, odd floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsr_formats.packing import pack_n4s1
from rsr_runtime import _native
from rsr_testing.matrices import Build, Spec

Array = npt.NDArray[Any]

ROWS = (0, 1, 31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 160)
WIDEN = 240  # inputs whose sums of -128 times -1 just fit int16: ten units of 24
# Around units, strips and additions to wider sums; every kernel makes two of those for the largest.
COLUMNS = (0, 1, 2, 3, 4, 23, 24, 25, 47, 48, 49, WIDEN - 1, WIDEN, WIDEN + 1, 2 * WIDEN + 25)


PATTERNS = np.zeros((3, 32), np.int16)  # digits of each rank, as the native module takes them
PATTERNS[:, :27] = np.stack(np.unravel_index(np.arange(27), (3, 3, 3))) - 1


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


GROUPS = (1, 2, 3, 5, 7, 9, 20, 24, 32, 64, 128, 192, 193, 240, 241, 256, 300)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("half", [False, True])
def test_groups_of_columns(
    isa: str, group: int, half: bool, shared_build: Build, rng: np.random.Generator
) -> None:
    """Short units of every size, runs of blocks around a widening, and a narrower last group."""
    specs = [
        Spec((m, n), packing="n4s1", scale=scale, group=group, half=half, fill=fill)
        for n in sorted({group + 1, 2 * group, 2 * group + 25})
        for m, scale, fill in ((1, "row", "random"), (97, "row", "lowest"), (64, "block", "random"))
    ]
    for b in shared_build(specs):
        n = b.spec.shape[1]
        b.check(np.full(n, -128, np.int8), "-128")
        b.check(rng.integers(-128, 128, n).astype(np.int8), "random")
        for name, x in float_inputs(n, rng).items():
            # Scaled, these round to multiples of 2^-149, or leave float32.
            if name not in ("denormal", "least", "greatest"):
                b.check(x, name)
        x = rng.standard_normal((2, n)).astype(np.float32)
        b.check_int8_linear(x)
        x[0, n // 2], x[1, n - 1] = np.inf, np.nan
        b.check_not_finite(x.T)


def test_a_group_of_tiny_inputs_keeps_its_precision(isa: str, rng: np.random.Generator) -> None:
    """A group is rounded by its own largest input, not by that of the vector."""
    m, n, group = 64, 512, 128
    ranks = rng.integers(0, 27, (4 * 43, m)).astype(np.uint16)
    scale = np.ones((4, m), np.float32)
    scale[0] = 0
    native = _native.Ranked(
        pack_n4s1(ranks, 43), m, n, PATTERNS, np.ones(1, np.float32), m, scale.view(np.uint8), group
    )
    x = rng.standard_normal((1, n)).astype(np.float32)
    x[:, :group] = 2.0**60
    W = PATTERNS[:, ranks].transpose(2, 1, 0).reshape(m, 4, 129)[..., :group]
    exact = W[:, 1:].reshape(m, -1).astype(np.float64) @ x[0, group:].astype(np.float64)
    y = np.empty((1, m), np.float32)
    _native.multiply_f32([native], x, [y])
    assert np.abs(y[0] - exact).max() <= (n - group) * 2.0**-24 * np.abs(x[0, group:]).sum()


@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_sums_reach_their_bounds(
    isa: str, fill: str, shared_build: Build, rng: np.random.Generator
) -> None:
    """Weights and inputs all alike: the largest digits, and sums of them, that lanes ever hold."""
    columns = [units * 24 + more for units in (8, 10, 16, 25) for more in (-1, 0, 1)]
    specs = [Spec((m, n), fill=fill, packing="n4s1") for n in columns for m in (32, 96)]
    every = np.arange(-128, 128).astype(np.int8)
    for b in shared_build(specs):
        n = b.spec.shape[1]
        exact = b.exact(np.tile(every, (n, 1)))
        for i, value in enumerate(every):
            found = b.matrix @ np.full(n, value)
            assert (found == exact[:, i]).all(), f"{b.spec}, {isa}, {value}"
        for x in float_inputs(n, rng).values():
            b.check(x)
        # Every digit of a fixed-point sum at its end: random constants find most ends.
        for value in rng.uniform(1, 2, 200):
            b.check(np.full(n, value, np.float32), value)


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
    """Against NumPy, from ranks alone."""
    rng = np.random.default_rng(seed)
    (m, n), blocks = shape, -(-shape[1] // 3)
    ranks = rng.integers(0, 27, (blocks, m)).astype(np.uint16)
    W = PATTERNS[:, ranks].transpose(2, 1, 0).reshape(m, 3 * blocks)[:, :n].astype(np.int64)
    native = _native.Ranked(pack_n4s1(ranks), m, n, PATTERNS, np.ones(1, np.float32), m)
    check_native(native, W, rng.integers(-128, 128, (count, n)).astype(np.int8))


def check_native(native: _native.Ranked, W: Array, x: Array) -> None:
    """Check both products of x (count, in) of int8: float sums of small integers are exact too."""
    y = np.empty((len(x), len(W)), np.int32)
    _native.multiply_i8([native], x, [y])
    np.testing.assert_array_equal(y, x @ W.T)
    z = np.empty((len(x), len(W)), np.float32)
    _native.multiply_f32([native], x.astype(np.float32), [z])
    np.testing.assert_array_equal(z, x @ W.T)


def test_magnitudes_without_a_pattern_look_up_zero(isa: str, rng: np.random.Generator) -> None:
    """Random bytes: no crash, and magnitudes 14 and 15 count as zero."""
    m, n, units = 96, 72, 3
    data = rng.integers(0, 256, m * units * 5).astype(np.uint8)
    native = _native.Ranked(data, m, n, PATTERNS, np.ones(1, np.float32), m)
    W = np.zeros((m, n), np.int64)
    for row in range(m):
        top, height = row // 64 * 64, 64 if row < 64 else 32
        cells = data[top * units * 5 :][: height * units * 5].reshape(units, 5, height)
        for block in range(8 * units):
            u, j = divmod(block, 8)
            magnitude = cells[u, j // 2, row - top] >> 4 * (j % 2) & 15
            sign = -1 if cells[u, 4, row - top] >> (7 - j) & 1 else 1
            W[row, 3 * block : 3 * block + 3] = sign * PATTERNS[:, 13 + magnitude]
    check_native(native, W, rng.integers(-128, 128, (1, n)).astype(np.int8))


def test_the_array_must_have_the_size_of_the_index() -> None:
    patterns, scale = np.zeros((3, 32), np.int16), np.ones(1, np.float32)
    with pytest.raises(ValueError, match="size of the index"):
        _native.Ranked(np.zeros(159, np.uint8), 32, 24, patterns, scale, 32)
    with pytest.raises(ValueError, match="size of the index"):  # that of whole units
        _native.Ranked(np.zeros(160, np.uint8), 32, 24, PATTERNS, scale, 32,
                       np.zeros((2, 64), np.uint8), 12)  # fmt: skip
    with pytest.raises(ValueError, match="k = 3"):
        _native.Ranked(np.zeros(160, np.uint8), 32, 16, patterns[:2], scale, 32)
