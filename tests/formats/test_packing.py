"""The two encodings are equivalent, and packed words and bytes are where SPEC.md says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_formats.packing import (
    Block,
    block_from_ranks,
    digits_from_ranks,
    n4s1_size,
    pack_n4s1,
    pack_w16,
    padding_digit,
    pattern_values,
    ranks_from_block,
    ranks_of,
    unpack_n4s1,
    unpack_w16,
)
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, DIGITS, TERNARY

Array = npt.NDArray[Any]
ODD = [0, 1, 2, 31, 32, 33, 127, 128, 129, 160, 161, 255, 256, 257, 300]


@st.composite
def rank_arrays(draw: st.DrawFn) -> tuple[Array, int]:
    """Draw ranks and the number of patterns."""
    patterns = draw(st.sampled_from([2, 3, 9, 27, 32, 243, 65536]))
    seed, rows = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 300))
    used = draw(st.integers(1, patterns))  # few: long segments and empty ones
    rng = np.random.default_rng(seed)
    return rng.integers(patterns - used, patterns, rows).astype(np.uint16), patterns


@settings(deadline=None)
@given(rank_arrays())
def test_permutation_and_segments_determine_the_ranks(case: tuple[Array, int]) -> None:
    ranks, patterns = case
    sigma, L = block = block_from_ranks(ranks, patterns)
    assert len(L) == patterns + 1
    assert sorted(sigma.tolist()) == list(range(len(ranks)))
    for s in np.unique(ranks).tolist():
        assert (sigma[L[s] : L[s + 1]] == np.flatnonzero(ranks == s)).all()  # stable
    np.testing.assert_array_equal(ranks_from_block(block), ranks)


def test_ranks_from_a_block_of_16_bit_entries() -> None:
    block = Block(np.array([2, 0, 1], np.uint16), np.array([0, 1, 1, 3], np.uint16))
    assert ranks_from_block(block).tolist() == [2, 2, 0]


@settings(deadline=None)
@given(
    st.sampled_from([(d, k) for d in DIGITS for k in range(1, 9) if len(d) ** k < 1 << 16]),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 2**32 - 1),
)
def test_ranks_determine_the_digits(
    alphabet: tuple[tuple[int, ...], int], rows: int, columns: int, seed: int
) -> None:
    digits, k = alphabet
    A = np.random.default_rng(seed).integers(0, len(digits), (rows, columns)).astype(np.uint8)
    pad = padding_digit(digits)
    ranks = ranks_of(A, len(digits), k, pad)
    blocks = -(-columns // k)
    assert ranks.shape == (blocks, rows)
    assert ranks.dtype == np.uint16
    back = digits_from_ranks(ranks, len(digits), k).transpose(1, 0, 2).reshape(rows, blocks * k)
    np.testing.assert_array_equal(back[:, :columns], A)
    assert (back[:, columns:] == pad).all()


def test_the_largest_rank_fits_16_bits() -> None:
    A = np.ones((1, 16), np.uint8)
    assert ranks_of(A, 2, 16, 0).tolist() == [[65535]]


@pytest.mark.parametrize("d", list(itertools.product(TERNARY, repeat=3)))
def test_the_formula_of_the_spec_for_ternary_ranks(d: tuple[int, int, int]) -> None:
    A = (np.array([d]) + 1).astype(np.uint8)
    rank = int(ranks_of(A, 3, 3, 1)[0, 0])
    assert rank == 9 * (d[0] + 1) + 3 * (d[1] + 1) + (d[2] + 1)
    assert int(ranks_of(2 - A, 3, 3, 1)[0, 0]) == 26 - rank
    assert tuple(pattern_values(TERNARY, 3)[rank]) == d


def test_padding_digits() -> None:
    assert [padding_digit(d) for d in (TERNARY, BINARY_SIGNS, BINARY_BITS)] == [1, 0, 0]


def test_the_order_of_binary_patterns() -> None:
    assert pattern_values(BINARY_SIGNS, 2).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    assert pattern_values(BINARY_BITS, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_a_literal_w16_word() -> None:
    packed = pack_w16(np.array([[1], [2], [3]], np.uint16), 13)
    assert packed.tolist() == [0b0_00011_00010_00001] + [0b0_01101_01101_01101] * 31


@pytest.mark.parametrize("rows", ODD)
@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 4, 7])
def test_w16_words_are_where_the_spec_says(rows: int, blocks: int) -> None:
    ranks = np.random.default_rng(rows).integers(0, 27, (blocks, rows)).astype(np.uint16)
    packed = pack_w16(ranks, 13)
    assert packed.dtype == np.uint16
    W, R = -(-blocks // 3), -(-rows // 32) * 32
    assert packed.shape == (W * R,)
    data = packed.astype("<u2").tobytes()
    seen = set()
    for r, j in itertools.product(range(R), range(3 * W)):
        r0 = 128 * (r // 128)
        h, g = min(128, R - r0), j // 3
        at = 2 * (r0 * W + g * h + (r - r0))
        word = int.from_bytes(data[at : at + 2], "little")
        assert word >> 15 == 0
        expected = int(ranks[j, r]) if r < rows and j < blocks else 13
        assert (word >> 5 * (j % 3)) & 31 == expected
        seen.add(at)
    assert seen == set(range(0, len(data), 2))


@pytest.mark.parametrize("rows", ODD)
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7])
def test_unpacking_w16_gives_the_ranks(rows: int, blocks: int) -> None:
    ranks = np.random.default_rng(rows).integers(0, 32, (blocks, rows)).astype(np.uint16)
    packed = pack_w16(ranks, 0)
    for j in range(blocks):
        np.testing.assert_array_equal(unpack_w16(packed, rows, blocks, j), ranks[j])


def test_literal_n4s1_bytes() -> None:
    ranks = np.array([[21, 0], [13, 26], [12, 14], [13, 13], [13, 13], [13, 0], [0, 26], [4, 5]])
    packed = pack_n4s1(ranks.astype(np.uint16)).reshape(5, 32)
    assert [f"{byte:02X}" for byte in packed[:, 0]] == ["08", "01", "00", "9D", "23"]
    assert [f"{byte:02X}" for byte in packed[:, 1]] == ["DD", "01", "D0", "8D", "85"]
    assert not packed[:, 2:].any()


def test_literal_short_units() -> None:
    """A group of m blocks, m = 1 to 7, in its ceil(5 m / 8) bytes; the ranks of one row."""
    ranks = np.array([[21], [0], [12], [26], [13], [9], [14]], np.uint16)  # 8 -13 -1 13 0 -4 1
    found = [pack_n4s1(ranks[:m], m).reshape(-1, 32)[:, 0].tobytes().hex() for m in range(1, 8)]
    assert found == ["08", "d840", "d861", "d8d160", "d8d10060", "d8d14064", "d8d1400164"]
    two = pack_n4s1(np.concatenate([ranks[:3], ranks[3:5]]), 3).reshape(-1, 32)[:, 0]
    assert two.tobytes().hex() == "d861" + "0d00"  # the last group has fewer blocks


@pytest.mark.parametrize("rows", [0, 1, 33, 64, 129])
@pytest.mark.parametrize("group", [1, 2, 3, 5, 8, 11, 12])
@pytest.mark.parametrize("blocks", [1, 5, 24, 29])
def test_the_units_of_groups_are_where_the_spec_says(rows: int, group: int, blocks: int) -> None:
    ranks = np.random.default_rng(rows).integers(0, 27, (blocks, rows)).astype(np.uint16)
    packed = pack_n4s1(ranks, group)
    sizes = [min(group, blocks - first) for first in range(0, blocks, group)]
    units = [min(8, size - first) for size in sizes for first in range(0, size, 8)]
    V, R = sum(-(-5 * m // 8) for m in units), -(-rows // 32) * 32
    assert packed.shape == (V * R,) == (n4s1_size(rows, blocks, group),)
    used = np.zeros(len(packed), np.uint8)  # bits that belong to a block
    for r in range(rows):
        r0, f, j = 64 * (r // 64), 0, 0
        h = min(64, R - r0)
        for m in units:
            at = [r0 * V + (f + v) * h + (r - r0) for v in range(-(-5 * m // 8))]
            for i in range(m):
                magnitude = int(packed[at[i // 2]]) >> 4 * (i % 2) & 15
                negative = int(packed[at[-1]]) >> 7 - i & 1
                assert (13 - magnitude if negative else 13 + magnitude) == int(ranks[j + i, r])
                used[at[i // 2]] |= 15 << 4 * (i % 2)
                used[at[-1]] |= 128 >> i
            f, j = f + len(at), j + m
        assert (f, j) == (V, blocks)
    assert not (packed & ~used).any()
    for j in range(blocks):
        np.testing.assert_array_equal(unpack_n4s1(packed, rows, blocks, j, group), ranks[j])


@pytest.mark.parametrize("rows", ODD)
@pytest.mark.parametrize("blocks", [0, 1, 7, 8, 9, 17])
def test_n4s1_bytes_are_where_the_spec_says(rows: int, blocks: int) -> None:
    ranks = np.random.default_rng(rows).integers(0, 27, (blocks, rows)).astype(np.uint16)
    packed = pack_n4s1(ranks)
    assert packed.dtype == np.uint8
    U, R = -(-blocks // 8), -(-rows // 32) * 32
    assert packed.shape == (5 * U * R,) == (n4s1_size(rows, blocks),)
    seen = set()
    for r, u in itertools.product(range(R), range(U)):
        r0 = 64 * (r // 64)
        h = min(64, R - r0)
        at = [5 * (r0 * U + u * h) + v * h + (r - r0) for v in range(5)]
        signs = int(packed[at[4]])
        for i in range(8):
            j = 8 * u + i
            magnitude = int(packed[at[i // 2]]) >> 4 * (i % 2) & 15
            rank = 13 - magnitude if signs >> 7 - i & 1 else 13 + magnitude
            assert rank == (int(ranks[j, r]) if r < rows and j < blocks else 13)
            assert magnitude or not signs >> 7 - i & 1
        seen |= set(at)
    assert seen == set(range(len(packed)))


@pytest.mark.parametrize("rows", ODD)
@pytest.mark.parametrize("blocks", [1, 7, 8, 9, 17])
def test_unpacking_n4s1_gives_the_ranks(rows: int, blocks: int) -> None:
    ranks = np.random.default_rng(rows).integers(0, 27, (blocks, rows)).astype(np.uint16)
    packed = pack_n4s1(ranks)
    for j in range(blocks):
        np.testing.assert_array_equal(unpack_n4s1(packed, rows, blocks, j), ranks[j])
