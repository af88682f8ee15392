"""Decoding packed ranks gives the digits back, whatever the size of the pieces."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_formats import IndexedTensor, decode
from rsr_formats.decode import (
    apply_scales,
    decode_block,
    decode_digits,
    decode_row,
    digit_windows,
    row_scales,
)
from rsr_formats.errors import IndexDataError
from rsr_formats.packing import (
    block_from_ranks,
    column_order,
    listed_ranks,
    pack_n4s1,
    pack_w16,
    padding_rank,
    pattern_digits,
    ranks_of,
)
from rsr_formats.records import BINARY_BITS, TERNARY, Scale, SourceRecord
from rsr_formats.validate import check_negative_zeros, check_ranks

Array = npt.NDArray[Any]
SHAPES = [(1, 1), (31, 24), (64, 25), (65, 47), (97, 48), (128, 9), (130, 100), (300, 73)]


def indexed(
    A: Array, digits: tuple[int, ...], k: int, packing: str, group: int | None = None
) -> tuple[IndexedTensor, Array]:
    shape = (A.shape[0], A.shape[1])
    scale = None if group is None or group >= shape[1] else Scale(1, 1, group)
    source = SourceRecord("float", "F32", shape)
    t = IndexedTensor(
        "w", shape, digits, k, "expand", "ranked", packing, {"ranks": 0}, source, scale
    )
    if packing == "n4s1":
        return t, pack_n4s1(grouped_ranks(A, digits, k, group), t.unit_blocks)
    pad = 1 if len(digits) == 3 else 0
    return t, pack_w16(grouped_ranks(A, digits, k, group), sum(pad * 3**i for i in range(k)))


def grouped_ranks(A: Array, digits: tuple[int, ...], k: int, group: int | None) -> Array:
    """Return the ranks of a matrix whose groups of columns are cut separately."""
    pad, width = digits.index(0), group or max(1, A.shape[1])
    parts = [A[:, c : c + width] for c in range(0, A.shape[1], width)]
    return np.concatenate([ranks_of(part, len(digits), k, pad) for part in parts])


CASES = [
    (TERNARY, 3, "n4s1", None),
    (TERNARY, 3, "n4s1", 1),
    (TERNARY, 3, "n4s1", 9),  # three whole blocks
    (TERNARY, 3, "n4s1", 20),
    (TERNARY, 3, "n4s1", 24),  # a whole unit
    (TERNARY, 3, "n4s1", 32),
    (TERNARY, 3, "w16", None),
    (TERNARY, 2, "w16", None),
    (BINARY_BITS, 5, "w16", None),
    (TERNARY, 3, "w16", 32),
    (TERNARY, 3, "w16", 9),  # only the last block is padded
    (TERNARY, 2, "w16", 1),  # every block is half padding
    (BINARY_BITS, 5, "w16", 32),
    (BINARY_BITS, 5, "w16", 23),
]


@pytest.mark.parametrize("piece", [1, 500, 3000, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("digits", "k", "packing", "group"), CASES)
def test_digits_decode_in_pieces_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
    digits: tuple[int, ...],
    k: int,
    packing: str,
    group: int | None,
    shape: tuple[int, int],
    piece: int,
) -> None:
    monkeypatch.setattr(decode, "PIECE", piece)
    A = np.random.default_rng(shape[0]).integers(0, len(digits), shape).astype(np.uint8)
    t, packed = indexed(A, digits, k, packing, group)
    assert packed.nbytes == t.section_sizes()["ranks"]
    np.testing.assert_array_equal(decode_digits(t, {"ranks": packed}), A)
    covered = np.zeros(shape, np.uint8)
    for rows, columns, window in digit_windows(t, packed):
        covered[rows, columns] += 1
        np.testing.assert_array_equal(window, A[rows, columns])
    assert (covered == 1).all()
    check_ranks(t, packed)
    zeros = np.count_nonzero(digits.index(0) == A)
    arrays = {"ranks": packed}
    check_negative_zeros(t, arrays, np.zeros(-(-zeros // 8), np.uint8))
    with pytest.raises(IndexDataError):
        check_negative_zeros(t, arrays, np.zeros(-(-zeros // 8) + 1, np.uint8))


@pytest.mark.parametrize(("digits", "k", "packing", "group"), CASES)
def test_column_blocks(digits: tuple[int, ...], k: int, packing: str, group: int | None) -> None:
    A = np.random.default_rng(1).integers(0, len(digits), (130, 61)).astype(np.uint8)
    t, packed = indexed(A, digits, k, packing, group)
    covered: list[int] = []
    for j, ranks in enumerate(grouped_ranks(A, digits, k, group)):
        columns = t.block_columns(j)
        assert columns[0] // (group or 61) == columns[-1] // (group or 61)
        covered += columns
        alone = ranks_of(A[:, columns], len(digits), k, digits.index(0))
        np.testing.assert_array_equal(alone, [ranks])
        found = decode_block(t, {"ranks": packed}, j)
        for part, expected in zip(found, block_from_ranks(ranks, t.patterns), strict=True):
            np.testing.assert_array_equal(part, expected)
    assert covered == list(range(61))
    assert t.blocks == j + 1


def test_an_invalid_rank_has_no_block() -> None:
    A = np.full((40, 24), 2, np.uint8)
    t, packed = indexed(A, TERNARY, 3, "n4s1")
    packed[65] = 0x1F  # block 2 of row 1: magnitude 15
    with pytest.raises(IndexDataError, match="rank 28 in block 2, expected 0 to 26"):
        decode_block(t, {"ranks": packed}, 2)
    decode_digits(t, {"ranks": packed})  # arbitrary digits, but no error


def test_the_example_of_scales_in_the_spec() -> None:
    """Section 8: out = 2, in = 5, rows = 1, columns = 2."""
    A = np.ones((2, 5), np.uint8)
    t, _ = indexed(A, TERNARY, 3, "w16", 2)
    assert (t.groups, t.scales, t.scale_bytes, t.blocks) == (3, 6, 24, 3)
    assert [list(t.block_columns(j)) for j in range(3)] == [[0, 1], [2, 3], [4]]
    scales = row_scales(t, np.arange(6, dtype=np.float32))
    assert scales.tolist() == [[0, 2, 4], [1, 3, 5]]
    W = np.ones((2, 5), np.float32)
    apply_scales(t, W, scales)
    assert W.tolist() == [[0, 0, 2, 2, 4], [1, 1, 3, 3, 5]]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8, (1 << 31) - 1])
def test_scales_for_row_blocks(rows: int) -> None:
    t = IndexedTensor(
        "w", (7, 4), (-1, 0, 1), 3, "expand", "ranked", "w16", {"ranks": 0},
        SourceRecord("float", "F32", (7, 4)), Scale(rows, 1),
    )  # fmt: skip
    scale = np.arange(t.scales, dtype=np.float32)
    expected = [0] if rows >= 7 else [r // rows for r in range(7)]
    assert row_scales(t, scale).tolist() == expected


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_scales_for_row_blocks_of_groups(dtype: str) -> None:
    t, _ = indexed(np.ones((5, 8), np.uint8), TERNARY, 3, "w16", 6)
    t = dataclasses.replace(t, scale=Scale(2, 1, 6, dtype))
    stored = np.arange(6).astype({"F32": "<f4", "F16": "<f2"}[dtype])
    assert t.scale_bytes == stored.nbytes
    scales = row_scales(t, stored)
    assert scales.dtype == np.float32
    assert scales.tolist() == [[0, 3], [0, 3], [1, 4], [1, 4], [2, 5]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("digits", "k", "packing", "group"), CASES)
def test_single_rows(
    digits: tuple[int, ...], k: int, packing: str, group: int | None, shape: tuple[int, int]
) -> None:
    """The last strip has fewer rows than the others."""
    A = np.random.default_rng(shape[1]).integers(0, len(digits), shape).astype(np.uint8)
    t, packed = indexed(A, digits, k, packing, group)
    for row in range(shape[0]):
        found = decode_row(t, packed, row)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, A[row])


@pytest.mark.parametrize("group", [None, 64])
@pytest.mark.parametrize("stride", [1, 2, 8])
def test_single_rows_of_listed_patterns(stride: int, group: int | None) -> None:
    """3:4 sparsity: 32 patterns of four digits, in columns that may be a stride apart."""
    numbers = np.indices((3, 3, 3, 3)).reshape(4, -1).T.astype(np.uint8)
    listed = numbers[(numbers == 1).sum(axis=1) == 1].tobytes()
    k, shape = 4, (70, 128)
    patterns = pattern_digits(3, k, listed)
    assert patterns.shape == (32, 4)
    chosen = np.random.default_rng(stride).integers(0, 32, (shape[0], shape[1] // k))
    ordered = patterns[chosen].reshape(shape)
    A = np.empty(shape, np.uint8)
    A[:, column_order(shape[1], k, stride)] = ordered
    scale = None if group is None else Scale(1, 1, group)
    source = SourceRecord("float", "F32", shape)
    t = IndexedTensor(
        "w", shape, TERNARY, k, "expand", "ranked", "w16", {"ranks": 0}, source, scale, listed,
        stride,
    )  # fmt: skip
    ranks = listed_ranks(ranks_of(ordered, 3, k, 1), 3, k, listed)
    packed = pack_w16(ranks, padding_rank(TERNARY, k, listed))
    np.testing.assert_array_equal(decode_digits(t, {"ranks": packed}), A)
    for row in range(shape[0]):
        np.testing.assert_array_equal(decode_row(t, packed, row), A[row])


@pytest.mark.parametrize("packing", ["w16", "n4s1"])
def test_a_row_without_columns(packing: str) -> None:
    t, _ = indexed(np.ones((40, 3), np.uint8), TERNARY, 3, packing)
    t = dataclasses.replace(t, shape=(40, 0))
    assert decode_row(t, np.empty(0, np.uint16), 39).shape == (0,)
