"""Products with dense matrices: bfloat16, float16, float32, and int8 with a scale per row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime as rsr
from rsr_runtime import _native
from rsr_runtime.reference import quantize_int8
from rsr_testing.matrices import ISAS, float32_bound

Array = npt.NDArray[Any]

# Around the lanes (4 to 64) and the blocks of rows (1, 3, 4, 8), vectors (to 6) and a unit of 32.
COLUMNS = (1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200)
ROWS = (1, 2, 3, 7, 8, 9, 31, 33, 70)
COUNTS = (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 19)
DTYPES = ("BF16", "F16", "F32")


def stored(W: Array, dtype: str) -> tuple[Array, npt.NDArray[np.float64]]:
    """Return W as a file holds it in `dtype`, and the values that this represents."""
    if dtype == "BF16":
        bits = (np.ascontiguousarray(W, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    kept = W.astype(np.float16 if dtype == "F16" else np.float32)
    return kept, kept.astype(np.float64)


def unaligned(a: Array) -> Array:
    """Return a copy of `a` that begins one byte after an aligned address."""
    memory = np.empty(a.nbytes + 1, np.uint8)[1:]
    memory[:] = np.frombuffer(a.tobytes(), np.uint8)
    return memory.view(a.dtype).reshape(a.shape)


def dense(weight: Array, dtype: str, x: Array) -> Array:
    y = np.full((len(x), len(weight)), 99, np.float32)
    _native.multiply_dense(weight, dtype, x, y)
    return y


def check(found: Array, W: Array, x: Array) -> None:
    """Compare the product of x (count, in) with a matrix W (out, in); n sums round n times."""
    wrong = ~(np.abs(found - x @ W.T) <= float32_bound(np.abs(W), x.T, least=2).T)
    assert not wrong.any(), W.shape


def int8(weight: Array, scale: Array, q: Array, s: Array) -> Array:
    y = np.full((len(q), len(weight)), 99, np.float32)
    _native.multiply_rows_i8(weight, scale, q, s, y)
    return y


@pytest.fixture(scope="module", params=[*DTYPES, "I8"])
def large(request: pytest.FixtureRequest) -> tuple[str, Array]:
    """A weight that is larger than the caches."""
    weight = np.random.default_rng(7).integers(-128, 128, (8300, 2111), np.int8)
    assert weight.nbytes > 16 << 20
    dtype: str = request.param
    if dtype == "I8":
        return dtype, weight
    return dtype, stored(weight, dtype)[0]


def test_a_large_matrix_gives_the_bits_of_its_parts(
    isa: str, large: tuple[str, Array], rng: np.random.Generator
) -> None:
    """Beyond the caches some processors (Zen 3 and 4) read rows in another order."""
    dtype, weight = large
    x = rng.standard_normal((1, weight.shape[1])).astype(np.float32)
    scale, (q, s) = rng.uniform(1, 2, len(weight)).astype(np.float32), quantize_int8(x)

    def product(rows: slice) -> Array:
        if dtype == "I8":
            return int8(weight[rows], scale[rows], q, s)
        return dense(weight[rows], dtype, x)

    whole = product(slice(None))
    for rows in (slice(50), slice(-50, None)):
        np.testing.assert_array_equal(whole[:, rows], product(rows))


@pytest.mark.parametrize("dtype", DTYPES)
def test_float_products_keep_the_bound(isa: str, dtype: str, rng: np.random.Generator) -> None:
    for n in COLUMNS:
        for m in ROWS:
            weight, W = stored(rng.standard_normal((m, n)) * 10.0 ** rng.uniform(-3, 3), dtype)
            x = rng.standard_normal((3, n)).astype(np.float32)
            check(dense(weight, dtype, x), W, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_column_counts_once(isa: str, dtype: str) -> None:
    """Small integers are exact in every type: a column left out or taken twice shows."""
    for n in COLUMNS:
        W = 1 + np.arange(9 * n).reshape(9, n) % 100
        weight, _ = stored(W, dtype)
        x = (np.arange(7 * n).reshape(7, n) % 11 - 5).astype(np.float32)
        np.testing.assert_array_equal(dense(weight, dtype, x), x @ W.T, str(n))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_weight_is_widened_exactly(isa: str, dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # ARM reports signaling NaN
        expected = (
            (bits.astype(np.uint32) << 16).view(np.float32)
            if dtype == "BF16"
            else bits.view(np.float16).astype(np.float32)
        )
    found = dense(bits[:, None], dtype, np.ones((1, 1), np.float32))[0]
    np.testing.assert_array_equal(found, expected)


def test_not_finite_weights_and_inputs_spread_to_their_row_and_vector_alone(isa: str) -> None:
    W, x = np.ones((9, 40)), np.ones((2, 40), np.float32)
    W[4, 39] = np.inf
    x[1, 3] = np.nan
    y = dense(W.astype(np.float32), "F32", x)
    assert y[0, 4] == np.inf
    assert (np.delete(y[0], 4) == 40).all()
    assert np.isnan(y[1]).all()


def test_int8_is_exact(isa: str, rng: np.random.Generator) -> None:
    ends = np.array([-128, -127, 0, 127], np.int8)
    for n in COLUMNS:
        for m in ROWS:
            weight = np.where(
                rng.random((m, n)) < 0.5, rng.choice(ends, (m, n)), rng.integers(-128, 128, (m, n))
            ).astype(np.int8)
            q = rng.choice(ends, (4, n))
            exact = q.astype(np.int64) @ weight.astype(np.int64).T
            found = int8(weight, np.ones(m, np.float32), q, np.ones((4, 1), np.float32))
            np.testing.assert_array_equal(found, exact.astype(np.float32), f"{m} x {n}")


@pytest.mark.parametrize("w", [-128, 127])
@pytest.mark.parametrize("q", [-128, 127])
def test_int8_extremes_of_the_longest_row(isa: str, w: int, q: int) -> None:
    n = (1 << 17) - 1
    found = int8(
        np.full((2, n), w, np.int8), np.ones(2, np.float32), np.full((1, n), q, np.int8),
        np.ones((1, 1), np.float32),
    )  # fmt: skip
    assert (found == np.float32(w * q * n)).all()


def test_int8_scales_then_divides(isa: str, rng: np.random.Generator) -> None:
    weight = rng.integers(-127, 128, (37, 300), np.int8)
    scale = rng.random(37).astype(np.float32)
    x = rng.standard_normal((5, 300)).astype(np.float32)
    q, s = quantize_int8(x)
    q[3], s[3] = 0, np.nan  # how a row that is not finite is quantized
    sums = (q.astype(np.int64) @ weight.astype(np.int64).T).astype(np.float32)
    found = int8(weight, scale, q, s)
    np.testing.assert_array_equal(found, sums * scale / s)
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("dtype", [*DTYPES, "I8"])
def test_batches_and_threads_change_no_bit(isa: str, dtype: str, rng: np.random.Generator) -> None:
    m, n = 700, 333  # enough for several threads, and for more than one panel in float32
    x = rng.standard_normal((max(COUNTS), n)).astype(np.float32)
    q, s = quantize_int8(x)
    multiply: Callable[[int, int], Array]
    if dtype == "I8":
        weight, scale = rng.integers(-128, 128, (m, n), np.int8), rng.random(m).astype(np.float32)
        multiply = lambda i, j: int8(weight, scale, q[i:j], s[i:j])  # noqa: E731
    else:
        weight, _ = stored(rng.standard_normal((m, n)), dtype)
        multiply = lambda i, j: dense(weight, dtype, x[i:j])  # noqa: E731
    rsr.set_num_threads(1)
    one_by_one = np.concatenate([multiply(i, i + 1) for i in range(len(x))]).view(np.uint32)
    for threads in (1, 2, 3):
        rsr.set_num_threads(threads)
        for count in COUNTS:
            found = multiply(0, count).view(np.uint32)
            np.testing.assert_array_equal(found, one_by_one[:count], f"{count}, {threads}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_place(isa: str, dtype: str, rng: np.random.Generator) -> None:
    weight, _ = stored(rng.standard_normal((70, 77)), dtype)
    x = rng.standard_normal((1, 77)).astype(np.float32)
    whole = dense(weight, dtype, x)
    for first in range(70):
        np.testing.assert_array_equal(dense(weight[first:], dtype, x), whole[:, first:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_may_lie_at_any_address(isa: str, dtype: str, rng: np.random.Generator) -> None:
    weight, _ = stored(rng.standard_normal((33, 70)), dtype)
    x = rng.standard_normal((2, 70)).astype(np.float32)
    np.testing.assert_array_equal(dense(unaligned(weight), dtype, x), dense(weight, dtype, x))


def test_empty_shapes(isa: str) -> None:
    for m, n, count in ((0, 5, 2), (5, 0, 2), (5, 5, 0)):
        x = np.ones((count, n), np.float32)
        y = dense(np.ones((m, n), np.float32), "F32", x)
        assert y.shape == (count, m)
        assert (y == 0).all()
        q, s = np.ones((count, n), np.int8), np.ones((count, 1), np.float32)
        assert (int8(np.ones((m, n), np.int8), np.ones(m, np.float32), q, s) == 0).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), m=st.integers(1, 90), n=st.integers(1, 400),
    count=st.integers(1, 20), dtype=st.sampled_from(DTYPES), isa=st.sampled_from(ISAS),
)  # fmt: skip
def test_any_shape_equals_numpy(
    seed: int, m: int, n: int, count: int, dtype: str, isa: str
) -> None:
    rng, before = np.random.default_rng(seed), rsr.cpu_info()["isa"]
    weight, W = stored(rng.standard_normal((m, n)), dtype)
    x = rng.standard_normal((count, n)).astype(np.float32)
    rsr.use_isa(isa)
    try:
        found = dense(weight, dtype, x)
    finally:
        rsr.use_isa(before)
    check(found, W, x)


def test_wrong_arguments_are_refused_in_a_sentence() -> None:
    f32, words, i8 = (np.ones((4, 8), t) for t in (np.float32, np.uint16, np.int8))
    x, y, s = np.ones((2, 8), np.float32), np.ones((2, 4), np.float32), np.ones((2, 1), np.float32)
    for weight, dtype in ((f32, "BF16"), (f32, "F8_E4M3"), (words, "F32")):
        with pytest.raises(ValueError, match="dtype must be 'F32' with weights in float32"):
            _native.multiply_dense(weight, dtype, x, y)
    for bad in (x[:, :7].copy(), x[:1].copy()):
        with pytest.raises(ValueError, match=r"x must be \(count, in_features\)"):
            _native.multiply_dense(f32, "F32", bad, y)
    scale, q = np.ones(4, np.float32), np.ones((2, 8), np.int8)
    with pytest.raises(ValueError, match="a scale for each row"):
        _native.multiply_rows_i8(i8, scale[:3].copy(), q, s, y)
    with pytest.raises(ValueError, match=r"s must be \(count, 1\)"):
        _native.multiply_rows_i8(i8, scale, q, s[:1].copy(), y)
    n = 1 << 17
    with pytest.raises(ValueError, match="fewer than 2\\^17 weights"):
        _native.multiply_rows_i8(
            np.ones((1, n), np.int8), scale[:1].copy(), np.ones((1, n), np.int8), s[:1].copy(),
            np.ones((1, 1), np.float32),
        )  # fmt: skip
    with pytest.raises(TypeError):
        _native.multiply_dense(i8, "F16", x, y)
    with pytest.raises(TypeError):
        _native.multiply_dense(f32.T, "F32", x, y)  # not contiguous
