"""The reference implementation: RSR and RSR++ against A @ x and v @ A, in exact integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsr_formats.packing import pattern_values
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, DIGITS, TERNARY
from rsr_runtime import reference

Array = npt.NDArray[Any]
INT8 = {"min_value": -128, "max_value": 127}


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[int, ...], int, Array, Array, Array]:
    digits = draw(st.sampled_from(DIGITS))
    k = draw(st.integers(1, 6))
    rows, columns = draw(st.integers(0, 12)), draw(st.integers(0, 14))
    A = draw(hnp.arrays(np.int64, (rows, columns), elements=st.sampled_from(digits)))
    v = draw(hnp.arrays(np.int64, rows, elements=INT8))
    x = draw(hnp.arrays(np.int64, columns, elements=INT8))
    return digits, k, A, v, x


@given(problems())
@settings(max_examples=150, deadline=None)
def test_both_products_in_both_directions(
    problem: tuple[tuple[int, ...], int, Array, Array, Array],
) -> None:
    digits, k, A, v, x = problem
    rows, columns = A.shape
    blocks = reference.preprocess(A, digits, k)
    assert len(blocks) == -(-columns // k)
    for plus_plus in (True, False):
        reduced = reference.reduce(v, blocks, columns, digits, k, plus_plus=plus_plus)
        np.testing.assert_array_equal(reduced, v @ A)
        expanded = reference.expand(x, blocks, rows, digits, k, plus_plus=plus_plus)
        np.testing.assert_array_equal(expanded, A @ x)


@given(problems())
@settings(max_examples=50, deadline=None)
def test_a_block_sorts_the_rows_by_pattern(
    problem: tuple[tuple[int, ...], int, Array, Array, Array],
) -> None:
    digits, k, A, _, _ = problem
    padding = 0 if 0 in digits else digits[0]
    padded = np.full((len(A), A.shape[1] + k), padding)
    padded[:, : A.shape[1]] = A
    for j, (sigma, L) in enumerate(reference.preprocess(A, digits, k)):
        rows = padded[sigma, j * k : (j + 1) * k]
        assert [tuple(r) for r in rows] == sorted(tuple(r) for r in rows)
        assert sorted(sigma) == list(range(len(A)))
        assert L[0] == 0
        assert L[-1] == len(A)
        for s in range(len(L) - 1):
            segment = sigma[L[s] : L[s + 1]]
            assert list(segment) == sorted(segment), "the sort must be stable"
            assert len({tuple(padded[r, j * k : (j + 1) * k]) for r in segment}) <= 1


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1)])
def test_k_beyond_the_columns_and_empty_shapes(
    digits: tuple[int, ...], shape: tuple[int, int]
) -> None:
    A = np.full(shape, digits[-1], np.int64)
    for k in (1, 3, 6):
        blocks = reference.preprocess(A, digits, k)
        x = np.arange(shape[1]) - 3
        v = np.arange(shape[0]) - 3
        assert (reference.expand(x, blocks, shape[0], digits, k) == A @ x).all()
        assert (reference.reduce(v, blocks, shape[1], digits, k) == v @ A).all()


def test_an_example_worked_by_hand() -> None:
    A = np.array([[0, 1], [0, 0], [0, 1], [1, 1], [0, 0], [0, 0]])
    (block,) = reference.preprocess(A, BINARY_BITS, 2)
    assert block.permutation.tolist() == [1, 4, 5, 0, 2, 3]
    assert block.segments.tolist() == [0, 3, 5, 5, 6]
    v = np.array([3, 2, 4, 5, 9, 1])
    u = reference.segmented_sum(v, block)
    assert u.tolist() == [12, 7, 0, 5]
    assert reference.fold(u, BINARY_BITS, 2).tolist() == [5, 12]


def test_grow_and_fold_are_products_with_bin_k() -> None:
    rng = np.random.default_rng(0)
    for digits, k in ((TERNARY, 4), (BINARY_SIGNS, 6), (BINARY_BITS, 5)):
        Bin = pattern_values(digits, k).astype(np.int64)
        x, u = rng.integers(-128, 128, k), rng.integers(-1000, 1000, len(Bin))
        np.testing.assert_array_equal(reference.build_tables(x, digits), Bin @ x)
        np.testing.assert_array_equal(reference.fold(u, digits, k), u @ Bin)
