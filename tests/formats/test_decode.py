"""From packed ranks back to digits, whatever the pieces they are decoded in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_formats import IndexedTensor, decode
from rsr_formats.decode import decode_block, decode_digits, digit_windows
from rsr_formats.encoding import block_from_ranks, pack_n4s1, pack_w16, ranks_of
from rsr_formats.errors import IndexDataError
from rsr_formats.layout import BINARY_BITS, TERNARY, SourceRecord
from rsr_formats.validate import check_negative_zeros, check_ranks

Array = npt.NDArray[Any]
SHAPES = [(1, 1), (31, 24), (64, 25), (65, 47), (97, 48), (128, 9), (130, 100), (300, 73)]


def indexed(A: Array, digits: tuple[int, ...], k: int, packing: str) -> tuple[IndexedTensor, Array]:
    shape = (A.shape[0], A.shape[1])
    source = SourceRecord("float", "F32", shape)
    t = IndexedTensor("w", shape, digits, k, "expand", "ranked", packing, {"ranks": 0}, source)
    if packing == "n4s1":
        return t, pack_n4s1(ranks_of(A, 3, 3, 1))
    pad = 1 if len(digits) == 3 else 0
    return t, pack_w16(ranks_of(A, len(digits), k, pad), sum(pad * 3**i for i in range(k)))


CASES = [(TERNARY, 3, "n4s1"), (TERNARY, 3, "w16"), (TERNARY, 2, "w16"), (BINARY_BITS, 5, "w16")]


@pytest.mark.parametrize("piece", [1, 500, 3000, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("digits", "k", "packing"), CASES)
def test_digits_come_back_in_pieces_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
    digits: tuple[int, ...],
    k: int,
    packing: str,
    shape: tuple[int, int],
    piece: int,
) -> None:
    monkeypatch.setattr(decode, "_PIECE", piece)
    A = np.random.default_rng(shape[0]).integers(0, len(digits), shape).astype(np.uint8)
    t, packed = indexed(A, digits, k, packing)
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


@pytest.mark.parametrize(("digits", "k", "packing"), CASES)
def test_blocks(digits: tuple[int, ...], k: int, packing: str) -> None:
    A = np.random.default_rng(1).integers(0, len(digits), (130, 61)).astype(np.uint8)
    t, packed = indexed(A, digits, k, packing)
    for j, ranks in enumerate(ranks_of(A, len(digits), k, digits.index(0))):
        found = decode_block(t, {"ranks": packed}, j)
        for part, expected in zip(found, block_from_ranks(ranks, t.patterns), strict=True):
            np.testing.assert_array_equal(part, expected)


def test_a_rank_that_is_no_pattern_has_no_block() -> None:
    A = np.full((40, 24), 2, np.uint8)
    t, packed = indexed(A, TERNARY, 3, "n4s1")
    packed[65] = 0x1F  # block 2 of row 1: magnitude 15
    with pytest.raises(IndexDataError, match="rank 28 in block 2 is no pattern"):
        decode_block(t, {"ranks": packed}, 2)
    decode_digits(t, {"ranks": packed})  # means nothing, harms nothing
