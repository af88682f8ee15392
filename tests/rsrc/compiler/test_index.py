"""Native encoders compared with their definition in NumPy, and the panels they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsrc
from rsr_formats.packing import (
    block_from_ranks,
    column_order,
    digits_from_ranks,
    listed_ranks,
    n4s1_size,
    pack_n4s1,
    pack_w16,
    ranks_of,
    w16_words,
)
from rsr_testing.checkpoints import Kit
from rsrc import _native
from rsrc.compiler import index

Digits = npt.NDArray[np.uint8]

SIZES = st.sampled_from((0, 1, 2, 3, 8, 9, 10, 31, 32, 33, 45, 127, 128, 129, 257)) | st.integers(
    0, 300
)


@st.composite
def digit_arrays(
    draw: st.DrawFn, most: int, bases: tuple[int, ...] = (2, 3)
) -> tuple[Digits, int, int, int]:
    """Draw digits in any memory layout, base, k and the padding digit."""
    base = draw(st.sampled_from(bases))
    k = draw(st.sampled_from([k for k in range(1, 17) if base**k <= most]))
    rows, columns = draw(SIZES), draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layout = draw(st.sampled_from(("C", "F", "reversed", "window", "every other")))
    shape = (rows, columns)
    if layout in ("window", "every other"):
        shape = (2 * rows + 3, 2 * columns + 5)
    digits = rng.integers(0, base, shape, dtype=np.uint8)
    if layout == "F":
        digits = np.asfortranarray(digits)
    elif layout == "reversed":
        digits = digits[::-1, ::-1]
    elif layout == "window":
        digits = digits[2 : 2 + rows, 3 : 3 + columns]
    elif layout == "every other":
        digits = digits[1 : 1 + 2 * rows : 2, 1 : 1 + 2 * columns : 2]
    return digits, base, k, draw(st.integers(0, base - 1))


@given(digit_arrays(32))
@settings(max_examples=150, deadline=None)
def test_pack_w16(case: tuple[Digits, int, int, int]) -> None:
    digits, base, k, pad = case
    ranks = ranks_of(digits, base, k, pad)
    expected = pack_w16(ranks, sum(pad * base**i for i in range(k)))
    found = np.full(len(expected), 0xDEAD, np.uint16)
    _native.pack_w16(digits, base, k, pad, found)
    np.testing.assert_array_equal(found, expected)


@st.composite
def listed_arrays(draw: st.DrawFn) -> tuple[Digits, int, int, int, Digits]:
    """Draw digits of at most 32 patterns in any memory layout, base, k, padding digit, patterns."""
    base, k = draw(st.sampled_from(((3, 4), (3, 4), (3, 5), (3, 2), (2, 4), (2, 5))))
    pad = draw(st.integers(0, base - 1))
    numbers = draw(st.sets(st.integers(0, base**k - 1), min_size=1, max_size=32))
    patterns = digits_from_ranks(np.array(sorted(numbers), np.uint16), base, k)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, blocks = draw(SIZES), draw(st.integers(0, 60))
    digits = patterns[rng.integers(0, len(patterns), (rows, blocks))].reshape(rows, blocks * k)
    layout = draw(st.sampled_from(("C", "F", "window")))
    if layout == "F":
        digits = np.asfortranarray(digits)
    elif layout == "window":
        digits = np.pad(digits, ((0, 0), (3, 5)))[:, 3 : 3 + blocks * k]
    return digits, base, k, pad, patterns


@given(listed_arrays())
@settings(max_examples=150, deadline=None)
def test_pack_w16_with_listed_patterns(case: tuple[Digits, int, int, int, Digits]) -> None:
    digits, base, k, pad, patterns = case
    ranks = listed_ranks(ranks_of(digits, base, k, pad), base, k, patterns.tobytes())
    padding = (patterns == pad).all(axis=1)
    expected = pack_w16(ranks, int(padding.argmax()))
    found = np.full(len(expected), 0xDEAD, np.uint16)
    _native.pack_w16(digits, base, k, pad, found, patterns)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("columns", [12, 24, 60])
def test_a_pattern_that_is_not_listed_is_refused_wherever_it_is(k: int, columns: int) -> None:
    patterns = digits_from_ranks(np.arange(32, dtype=np.uint16), 3, 4)[:, 4 - k :]
    listed = np.unique(patterns, axis=0)[1:]  # without the first
    good = np.tile(listed[0], (33, columns // k))
    out = np.empty(w16_words(columns // k) * 64, np.uint16)
    _native.pack_w16(good, 3, k, 1, out, listed)
    for position in range(33 * columns // k):
        for bad in (0, 3, 255):
            digits = good.copy()
            digits.reshape(-1, k)[position] = 0
            digits.reshape(-1, k)[position, position % k] = bad
            with pytest.raises(ValueError, match="a pattern is not listed"):
                _native.pack_w16(digits, 3, k, 1, out, listed)


@given(digit_arrays(243), st.sampled_from((1, 2, 3, 16)))
@settings(max_examples=100, deadline=None)
def test_mark_patterns(case: tuple[Digits, int, int, int], stride: int) -> None:
    digits, base, k, _ = case
    runs = digits.shape[1] // (k * stride)
    if not runs:
        return
    digits = digits[:, : runs * k * stride]
    order = column_order(digits.shape[1], k, stride)
    seen = np.zeros(256, np.uint8)
    _native.mark_patterns(digits, base, k, stride, seen)
    numbers = np.unique(ranks_of(digits[:, order], base, k, 0))
    np.testing.assert_array_equal(np.flatnonzero(seen), numbers)
    if digits.size:
        wrong = digits.copy()
        wrong.flat[digits.size // 2] = base if base % 2 else 255
        with pytest.raises(ValueError, match="a digit is not below the base"):
            _native.mark_patterns(wrong, base, k, stride, seen)


@given(digit_arrays(32, (3,)), st.sampled_from((None, 1, 2, 3, 5, 8, 11)))
@settings(max_examples=150, deadline=None)
def test_pack_n4s1(case: tuple[Digits, int, int, int], group: int | None) -> None:
    digits = case[0]
    expected = pack_n4s1(ranks_of(digits, 3, 3, 1), group)
    found = np.full(len(expected), 0xDE, np.uint8)
    _native.pack_n4s1(digits, found, group or 0)
    np.testing.assert_array_equal(found, expected)


@given(digit_arrays(1 << 16), st.sampled_from((np.uint16, np.uint32)))
@settings(max_examples=100, deadline=None)
def test_sort_blocks(case: tuple[Digits, int, int, int], dtype: Any) -> None:
    digits, base, k, pad = case
    ranks = ranks_of(digits, base, k, pad)
    permutation = np.full(ranks.shape, 0xDEAD, dtype)
    segments = np.full((len(ranks), base**k + 1), 0xDEAD, dtype)
    _native.sort_blocks(digits, base, k, pad, permutation, segments)
    for j, row in enumerate(ranks):
        sigma, L = block_from_ranks(row, base**k)
        np.testing.assert_array_equal(permutation[j], sigma)
        np.testing.assert_array_equal(segments[j], L)


@pytest.mark.parametrize("base", [2, 3])
@pytest.mark.parametrize("shape", [(1, 1), (33, 9), (40, 31), (3, 50)])
def test_what_is_no_digit_is_refused_wherever_it_is(base: int, shape: tuple[int, int]) -> None:
    k, blocks = 2, -(-shape[1] // 2)
    words = w16_words(blocks) * -(-shape[0] // 32) * 32
    for position in range(shape[0] * shape[1]):
        digits = np.zeros(shape, np.uint8)
        digits.flat[position] = base if position % 2 else 255
        with pytest.raises(ValueError, match="a digit is not below the base"):
            _native.pack_w16(digits, base, k, 0, np.empty(words, np.uint16))
        if base == 3:
            for group in (None, 2):
                packed = np.empty(n4s1_size(shape[0], -(-shape[1] // 3), group), np.uint8)
                with pytest.raises(ValueError, match="a digit is not below the base"):
                    _native.pack_n4s1(digits, packed, group or 0)
        with pytest.raises(ValueError, match="a digit is not below the base"):
            _native.sort_blocks(
                digits, base, k, 0,
                np.empty((blocks, shape[0]), np.uint16), np.empty((blocks, base**k + 1), np.uint16),
            )  # fmt: skip


def test_native_encoders_check_their_arguments() -> None:
    digits, word = np.zeros((1, 1), np.uint8), np.empty(32, np.uint16)
    for base, k, pad in (
        (6, 1, 0),
        (1, 1, 0),
        (4, 3, 1),
        (3, 0, 0),
        (3, 4, 0),
        (2, 6, 0),
        (3, 1, 3),
    ):
        with pytest.raises(ValueError, match=r"base must be|too many patterns"):
            _native.pack_w16(digits, base, k, pad, word)
    with pytest.raises(ValueError, match="size of the packing"):
        _native.pack_w16(digits, 3, 3, 1, np.empty(31, np.uint16))
    for patterns in (np.zeros((33, 4), np.uint8), np.zeros((1, 3), np.uint8)):
        with pytest.raises(ValueError, match="listed patterns must be"):
            _native.pack_w16(digits, 3, 4, 1, word, patterns)
    with pytest.raises(ValueError, match="a digit of a pattern"):
        _native.pack_w16(digits, 3, 4, 1, word, np.full((1, 4), 3, np.uint8))
    with pytest.raises(ValueError, match="too many patterns"):
        _native.pack_w16(digits, 3, 6, 1, word, np.zeros((1, 6), np.uint8))
    seen = np.zeros(256, np.uint8)
    for shape, stride in (((1, 0), 1), ((1, 6), 1), ((1, 8), 4), ((1, 8), 0), ((1, 8), 1 << 62)):
        with pytest.raises(ValueError, match="multiple of k"):
            _native.mark_patterns(np.zeros(shape, np.uint8), 3, 4, stride, seen)
    with pytest.raises(ValueError, match="256 entries"):
        _native.mark_patterns(np.zeros((1, 8), np.uint8), 3, 4, 1, seen[1:])
    for size in (0, 159, 161):
        with pytest.raises(ValueError, match="size of the packing"):
            _native.pack_n4s1(digits, np.empty(size, np.uint8))
    sigma = np.empty((1, 1), np.uint16)
    with pytest.raises(ValueError, match="segments"):
        _native.sort_blocks(digits, 3, 1, 1, sigma, np.empty((1, 3), np.uint16))
    with pytest.raises(TypeError):  # both must have one dtype
        _native.sort_blocks(digits, 3, 1, 1, sigma, np.empty((1, 4), np.uint32))
    tall = np.zeros((1 << 16, 1), np.uint8)
    with pytest.raises(ValueError, match="too many rows for the index type"):
        _native.sort_blocks(
            tall, 2, 1, 0, np.empty((1, 1 << 16), np.uint16), np.empty((1, 3), np.uint16)
        )


@pytest.mark.parametrize("panel", [1, 300, 5000, 2500])
@pytest.mark.parametrize(
    "options",
    [
        {"target": "avx512"},
        {"target": "avx2"},
        {"k": 2},
        {"encoding": "permuted", "k": 4},
        {"encoding": "permuted", "direction": "expand"},
    ],
)
def test_panels_leave_no_trace(
    kit: Kit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    panel: int,
    options: dict[str, Any],
) -> None:
    """The bytes of a file do not depend on the panels."""
    rng = np.random.default_rng(7)
    t = rng.integers(-1, 2, (388, 61))
    rows = rng.random((388, 1)) + 0.5
    tensors: dict[str, Any] = {
        "int8": t.astype(np.int8),
        "float": (t * rows).astype(np.float32),
        "tall": t[:, :1].astype(np.int8),
        "wide": t[:1].astype(np.float16),
        "packed": kit.pack(t),
        "packed_scale": np.ones(1, np.float32),
    }
    source = kit.save(tmp_path / "s.safetensors", tensors)
    rsrc.compile(source, tmp_path / "whole.rsr", **options)
    monkeypatch.setattr(index, "_PANEL", panel)
    rsrc.compile(source, tmp_path / "cut.rsr", **options, threads=3)
    assert (tmp_path / "cut.rsr").read_bytes() == (tmp_path / "whole.rsr").read_bytes()
