"""Listed patterns and strides: any list, k, stride and groups are written, read and decoded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_formats import IndexedTensor, RsrFile, create, decode
from rsr_formats.decode import decode_block, decode_digits
from rsr_formats.errors import IndexDataError
from rsr_formats.packing import (
    block_from_ranks,
    column_order,
    listed_ranks,
    pack_w16,
    padding_rank,
    pattern_digits,
    pattern_values,
    ranks_of,
)
from rsr_formats.records import BINARY_SIGNS, LISTED_DIGITS, TERNARY, Scale, SourceRecord
from rsr_formats.validate import check_negative_zeros

Array = npt.NDArray[Any]

# The patterns with exactly one zero, as in a 3:4-sparse ternary matrix.
SPARSE = bytes.fromhex(
    "00000001 00000100 00000102 00000201 00010000 00010002 00010200 00010202"
    "00020001 00020100 00020102 00020201 01000000 01000002 01000200 01000202"
    "01020000 01020002 01020200 01020202 02000001 02000100 02000102 02000201"
    "02010000 02010002 02010200 02010202 02020001 02020100 02020102 02020201"
)


class Case(NamedTuple):
    """A matrix of listed patterns, made by the formulas of SPEC.md section 6."""

    record: IndexedTensor
    ranks: Array  # (blocks, rows)
    A: Array


@st.composite
def matrices(draw: st.DrawFn) -> Case:
    digits = draw(st.sampled_from(LISTED_DIGITS))
    k, base = draw(st.integers(1, 5)), len(digits)
    most = min(32, base**k - 1)
    numbers = draw(st.sets(st.integers(0, base**k - 1), min_size=1, max_size=most))
    patterns = [[n // base**i % base for i in reversed(range(k))] for n in sorted(numbers)]
    stride = draw(st.sampled_from([1, 2, 3, 16]))
    run = k * stride
    rows, runs = draw(st.integers(0, 200)), draw(st.integers(0, 6))
    group = draw(st.integers(1, runs - 1)) * run if runs > 1 and draw(st.booleans()) else None
    shape = (rows, runs * run)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ranks = rng.integers(0, len(patterns), (runs * stride, rows)).astype(np.uint16)
    A = np.empty(shape, np.uint8)
    width = group or max(1, shape[1])
    for j in range(len(ranks)):
        g, i = divmod(j, width // k)
        f = g * width
        for p in range(k):
            column = f + i // stride * k * stride + i % stride + stride * p
            A[:, column] = np.array(patterns, np.uint8)[ranks[j], p]
    record = IndexedTensor(
        "w", shape, digits, k, "expand", "ranked", "w16", {"ranks": 0},
        SourceRecord("float", "F32", shape), None if group is None else Scale(1, 1, group),
        b"".join(map(bytes, patterns)), stride,
    )  # fmt: skip
    return Case(record, ranks, A)


@given(matrices(), st.sampled_from([1, 300, 3000, 1 << 20]))
@settings(deadline=None, max_examples=150)
def test_a_written_matrix_is_read_back(case: Case, piece: int) -> None:
    t, ranks, A = case
    pad = padding_rank(t.digits, t.k, t.pattern_list)
    zero = [t.digits.index(0) if 0 in t.digits else 0] * t.k
    listed = pattern_digits(t.base, t.k, t.pattern_list).tolist()
    assert pad == (listed.index(zero) if zero in listed else 0)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "PIECE", piece)
        path = Path(folder, "a.rsr")
        with create(path) as writer:
            writer.add([pack_w16(ranks, pad).astype("<u2").tobytes()])
            if t.scale is not None:
                writer.add([np.ones(t.scales, "<f4").tobytes()])
            written = writer.finish(producer="", metadata={}, files=[], tensors=[t])
        file = RsrFile(path)
        file.verify()
        assert file.header == written
        assert file.version == (1, 2)
        arrays = file.index_arrays(t)
        np.testing.assert_array_equal(decode_digits(t, arrays), A)
        if 0 in t.digits:
            zeros = int(np.count_nonzero(np.array(t.digits)[A] == 0))
            check_negative_zeros(t, arrays, np.zeros(-(-zeros // 8), np.uint8))
            with pytest.raises(IndexDataError):
                check_negative_zeros(t, arrays, np.zeros(-(-zeros // 8) + 1, np.uint8))
    covered: list[int] = []
    for j in range(t.blocks):
        columns = t.block_columns(j)
        covered += columns
        np.testing.assert_array_equal(A[:, columns], np.array(listed)[ranks[j]])
        found = decode_block(t, arrays, j)
        for part, expected in zip(found, block_from_ranks(ranks[j], len(listed)), strict=True):
            np.testing.assert_array_equal(part, expected)
    assert sorted(covered) == list(range(t.shape[1]))
    np.testing.assert_array_equal(covered, column_order(t.shape[1], t.k, t.stride))
    numbers = ranks_of(A[:, covered], t.base, t.k, 0)
    assert t.pattern_list is not None
    np.testing.assert_array_equal(listed_ranks(numbers, t.base, t.k, t.pattern_list), ranks)


def test_3_4_sparse_matrices_have_32_patterns() -> None:
    values = pattern_values(TERNARY, 4, SPARSE)
    assert values.shape == (32, 4)
    assert ((values == 0).sum(axis=1) == 1).all()
    t = IndexedTensor(
        "w", (4096, 4096), TERNARY, 4, "expand", "ranked", "w16", {"ranks": 0},
        SourceRecord("float", "F32", (4096, 4096)), None, SPARSE,
    )  # fmt: skip
    assert (t.patterns, t.blocks) == (32, 1024)
    assert round(t.bits_per_weight, 3) == 1.336
    assert padding_rank(TERNARY, 4, SPARSE) == 0


def test_the_example_of_strides_in_the_spec() -> None:
    t = IndexedTensor(
        "w", (1, 128), TERNARY, 4, "expand", "ranked", "w16", {"ranks": 0},
        SourceRecord("float", "F32", (1, 128)), None, SPARSE, 16,
    )  # fmt: skip
    assert list(t.block_columns(17)) == [65, 81, 97, 113]


@pytest.mark.parametrize("number", [0, 2, 78, 80])
def test_a_pattern_that_is_not_listed_has_no_rank(number: int) -> None:
    numbers = np.array([[1, number]], np.uint16)
    with pytest.raises(ValueError, match="a pattern is not listed"):
        listed_ranks(numbers, 3, 4, SPARSE)


def test_a_rank_beyond_the_list_has_no_block() -> None:
    t = IndexedTensor(
        "w", (1, 2), BINARY_SIGNS, 2, "expand", "ranked", "w16", {"ranks": 0},
        SourceRecord("float", "F32", (1, 2)), None, b"\0\1\1\0",
    )  # fmt: skip
    packed = pack_w16(np.array([[2]], np.uint16), 0)
    with pytest.raises(IndexDataError, match="rank 2 in block 0, expected 0 to 1"):
        decode_block(t, {"ranks": packed}, 0)
    decode_digits(t, {"ranks": packed})  # arbitrary digits, but no error
