"""The native passes over float matrices, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsrc import _native

Bits = npt.NDArray[np.unsignedinteger[Any]]

SIZES = st.integers(0, 70)  # up to two of the longest vectors, and a rest


@st.composite
def windows(draw: st.DrawFn) -> Bits:
    """Bit patterns with few magnitudes per row, as a window of a larger matrix."""
    dtype: Any = draw(st.sampled_from((np.uint16, np.uint32)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(SIZES), draw(SIZES)
    shape = (rows + 3, columns + 5)
    most = np.iinfo(dtype).max >> 1
    magnitudes = rng.choice(np.array([1, 2, most // 2, most - 1, most], dtype), (rows + 3, 1))
    bits = rng.integers(0, 2, shape, dtype) * magnitudes
    bits |= rng.integers(0, draw(st.sampled_from((1, 2))), shape, dtype) << (8 * bits.itemsize - 1)
    if draw(st.booleans()):
        bits[tuple(rng.integers(0, shape))] ^= rng.integers(1, most, dtype=dtype)
    window: Bits = bits[1 : 1 + rows, 2 : 2 + columns]
    return window


def parts(bits: Bits) -> tuple[Bits, npt.NDArray[np.bool_]]:
    """Return magnitudes and signs."""
    sign = np.array(1 << (8 * bits.itemsize - 1), bits.dtype)
    return bits & ~sign, bits >= sign


@given(windows())
@settings(max_examples=200, deadline=None)
def test_scan(bits: Bits) -> None:
    largest = np.zeros(len(bits), bits.dtype)
    mixed, *found = _native.scan(bits, largest)
    magnitudes, negative = parts(bits)
    most = magnitudes.max(axis=1, initial=0)
    wrong = ((magnitudes != 0) & (magnitudes != most[:, None])).any(axis=1)
    assert mixed == (int(wrong.argmax()) if wrong.any() else len(bits))
    np.testing.assert_array_equal(largest[: mixed + 1], most[: mixed + 1])
    zero = magnitudes[:mixed] == 0
    below = negative[:mixed]
    expected = [(below & ~zero).any(), zero.any(), (~below & ~zero).any(), (below & zero).any()]
    assert found == expected


@pytest.mark.parametrize(("base", "lowest"), [(3, -1), (2, -1), (2, 0)])
@given(windows())
@settings(max_examples=50, deadline=None)
def test_sign_digits(base: int, lowest: int, bits: Bits) -> None:
    found = np.full(bits.shape, 99, np.uint8)
    _native.sign_digits(bits, base, lowest, found)
    magnitudes, negative = parts(bits)
    values = np.where(negative, -1, 1) * (magnitudes != 0)
    if (base, lowest) == (2, -1):
        expected = (~negative).astype(np.uint8)
    elif base == 2:
        expected = (values != 0).astype(np.uint8)
    else:
        expected = (values + 1).astype(np.uint8)
    np.testing.assert_array_equal(found, expected)


@given(windows())
@settings(max_examples=100, deadline=None)
def test_negative_zeros(bits: Bits) -> None:
    flat = np.ascontiguousarray(bits).reshape(-1)
    out = np.full(len(flat) // 8 + 8, 99, np.uint8)
    zeros = _native.negative_zeros(flat, out)
    magnitudes, negative = parts(flat)
    expected = np.packbits(negative[magnitudes == 0], bitorder="little")
    assert zeros == (magnitudes == 0).sum()
    np.testing.assert_array_equal(out[: len(expected)], expected)


@given(st.integers(0, 2**32), SIZES, SIZES, st.sampled_from((0.5, 1.0, 1.7, 1e5)))
@settings(max_examples=100, deadline=None)
def test_rounded_digits_and_sums(seed: int, rows: int, columns: int, s: float) -> None:
    """Values at and around one half, huge and tiny ones, of either sign."""
    rng = np.random.default_rng(seed)
    near = np.array([0.0, -0.0, 0.5, 0.5 / s, 0.25, 1.0, 1.5, 2.5, 1e-40, 3e38], np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(0)), np.nextafter(near, near.max())])
    values = rng.choice(np.concatenate([near, -near]), (rows, columns + 3))[:, 1 : 1 + columns]
    for bits, floats in (
        (values, values),
        ((values.view(np.uint32) >> 16).astype(np.uint16), (values.view(np.uint32) >> 16 << 16)),
    ):
        exact = floats.view(np.float32)
        with np.errstate(over="ignore"):
            expected = (np.clip(np.rint(exact * np.float32(s)), -1, 1) + 1).astype(np.uint8)
        found = np.full(bits.shape, 99, np.uint8)
        _native.rounded_digits(bits, s, found)
        np.testing.assert_array_equal(found, expected)
        total = _native.sum_of_magnitudes(np.ascontiguousarray(bits).reshape(-1))
        assert total == pytest.approx(np.abs(exact).sum(dtype=np.float64), rel=1e-14)


@given(st.integers(0, 2**32), SIZES, SIZES, st.integers(1, 80), st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_join(seed: int, rows: int, columns: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (-(-rows // height), -(-columns // width))
    cells = rng.choice(np.array([-2, -0.0, 0.5, 2], np.float32), shape)
    values = np.repeat(np.repeat(cells, height, axis=0), width, axis=1)[:rows, : columns + 3]
    values = np.pad(values, ((0, 0), (0, columns + 3 - values.shape[1])))[:, :columns]
    values *= rng.random(values.shape) < rng.choice((0.02, 0.5, 1))
    if values.size and rng.random() < 0.5:
        values[tuple(rng.integers(0, values.shape))] = rng.choice((0, 2, 3))
    joined = np.zeros(shape, np.float32)
    found = [
        [{x for x in values[r : r + height, c : c + width].flat if x}
         for c in range(0, columns, width)]
        for r in range(0, rows, height)
    ]  # fmt: skip
    assert _native.join(values, height, width, joined) == all(len(s) < 2 for r in found for s in r)
    if all(len(s) < 2 for r in found for s in r):
        assert joined.tolist() == [[max(s, default=0.0) for s in r] for r in found]


def test_shapes_are_checked() -> None:
    bits = np.zeros((4, 6), np.uint16)
    with pytest.raises(ValueError, match="rows must be contiguous"):
        _native.scan(bits.T, np.zeros(6, np.uint16))
    with pytest.raises(ValueError, match="one entry per row"):
        _native.scan(bits, np.zeros(3, np.uint16))
    with pytest.raises(ValueError, match="out must have the shape"):
        _native.sign_digits(bits, 3, -1, np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="count / 8"):
        _native.negative_zeros(bits.reshape(-1), np.zeros(3, np.uint8))
    values = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match="must be positive"):
        _native.join(values, 0, 1, values)
    with pytest.raises(ValueError, match="one entry per cell"):
        _native.join(values, 3, 3, np.zeros((1, 2), np.float32))
