"""From an index back to the digits of its matrix: for decompiling and inspection only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IndexDataError
from .packing import (
    N4S1_STRIP,
    RANK_BITS,
    RANKS_PER_WORD,
    STRIP,
    Block,
    block_from_ranks,
    digits_from_ranks,
    n4s1_units,
    pattern_digits,
    ranks_from_block,
    unpack_n4s1,
    unpack_w16,
    w16_rows,
    w16_words,
)
from .records import MAX_RANKED_PATTERNS, IndexedTensor

PIECE = 1 << 20  # index entries decoded or looked at in one NumPy operation

Columns = slice | npt.NDArray[np.intp]


def decode_digits(
    t: IndexedTensor, arrays: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.uint8]:
    """Return the digits of W, uint8 (out_features, in_features).

    Args:
        t: the tensor's record.
        arrays: what `RsrFile.index_arrays` returns. A rank that is no pattern gives digits that
            mean nothing, so check first (`check_ranks`) where that matters.
    """
    if t.encoding == "ranked":
        W = np.empty(t.shape, np.uint8)
        for rows, columns, digits in digit_windows(t, arrays["ranks"]):
            W[rows, columns] = digits
        return W
    A = np.empty((t.rows, t.blocks * t.k), np.uint8)
    for j, (permutation, segments) in enumerate(
        zip(arrays["permutation"], arrays["segments"], strict=True)
    ):
        ranks = ranks_from_block(Block(permutation, segments))
        A[:, j * t.k : (j + 1) * t.k] = digits_from_ranks(ranks, t.base, t.k)
    A = A[:, : t.columns]
    return np.ascontiguousarray(A if t.direction == "expand" else A.T)


def digit_windows(
    t: IndexedTensor, packed: npt.NDArray[Any]
) -> Iterator[tuple[slice, Columns, npt.NDArray[np.uint8]]]:
    """Decode an index in encoding ranked a window at a time, so that memory stays bounded.

    Yields:
        rows, columns and digits, uint8, of each window of W; the windows cover W once. Columns are
        a slice, or the number of each where the tensor has a stride.
    """
    table = _digit_table(t)
    for r0, piece in strips(t, packed):
        count, units, height = len(piece), piece.shape[1], piece.shape[-1]
        rows = slice(r0, min(r0 + count * height, t.rows))
        step = max(1, PIECE // (count * height))
        for u in range(0, units, step):
            entries = _table_entries(t, piece[:, u : u + step])
            digits = table[entries.transpose(0, 2, 1)].reshape(count * height, -1)
            first = u * digits.shape[1] // min(step, units - u)
            columns, real = _real_columns(t, first, digits.shape[1])
            yield rows, columns, digits[: rows.stop - r0, real]


def decode_row(t: IndexedTensor, packed: npt.NDArray[Any], row: int) -> npt.NDArray[np.uint8]:
    """Return the digits of one row, uint8 (in_features,), from an index in encoding ranked.

    Args:
        t: the tensor's record.
        packed: its ranks. One that is no pattern gives digits that mean nothing.
        row: below out_features.
    """
    shape, tallest = _strip_shape(t)
    cells = prod(shape)  # of a row
    if not cells:
        return np.empty(0, np.uint8)
    top = row // tallest * tallest
    height = min(tallest, w16_rows(t.rows) - top)
    strip = packed[top * cells : (top + height) * cells].reshape(1, *shape, height)
    entries = _table_entries(t, strip[..., row - top : row - top + 1])
    digits = _digit_table(t)[entries].reshape(-1)
    columns, real = _real_columns(t, 0, len(digits))
    result = np.empty(t.columns, np.uint8)
    result[columns] = digits[real]
    return result


def _real_columns(t: IndexedTensor, first: int, count: int) -> tuple[Columns, Columns]:
    """Return the columns of W and, among `count` digits of its column blocks, those that are one.

    The digits are those from number `first` on, of a row with the padding of every block.
    """
    if t.stride > 1:  # a run of blocks is whole in its group: so runs go on through all groups
        j, p = np.divmod(np.arange(first, min(first + count, t.columns)), t.k)
        run, place = np.divmod(j, t.stride)
        return (run * t.k + p) * t.stride + place, slice(0, len(j))
    start = t.block_columns(first // t.k)[0]
    if t.group_columns % t.k == 0 or not t.is_grouped:  # padding is at the end alone
        return slice(start, min(start + count, t.columns)), slice(0, t.columns - start)
    padded = -(-t.group_columns // t.k) * t.k
    group, i = np.divmod(np.arange(first, first + count), padded)
    real = np.flatnonzero((i < t.group_columns) & (group * t.group_columns + i < t.columns))
    return slice(start, start + len(real)), real


def strips(t: IndexedTensor, packed: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Cut an index in encoding ranked into pieces of whole strips.

    Yields:
        The first row of a piece, and its strips: (strips, word columns, rows of a strip) in packing
        w16, (strips, units, 5, rows of a strip) in n4s1. All strips of one piece have the same
        height; padded rows are in the last strip of the last.
    """
    shape, tallest = _strip_shape(t)
    row, padded = prod(shape), w16_rows(t.rows)  # entries of a row, rows
    if not row:
        return
    full = padded // tallest * tallest
    step = max(1, PIECE // (row * tallest)) * tallest
    for r0 in range(0, full, step):
        piece = packed[r0 * row : min(full, r0 + step) * row]
        yield r0, piece.reshape(-1, *shape, tallest)
    if full < padded:
        yield full, packed[full * row :].reshape(1, *shape, padded - full)


def _strip_shape(t: IndexedTensor) -> tuple[tuple[int, ...], int]:
    """Return the cells of a row in a strip, and the rows of a strip that is not the last."""
    if t.packing == "n4s1":
        return (n4s1_units(t.blocks), 5), N4S1_STRIP
    return (w16_words(t.blocks),), STRIP


def _digit_table(t: IndexedTensor) -> npt.NDArray[np.uint8]:
    """Return the digits of the column blocks that share an entry (below): one lookup for all."""
    return _digits_of_entries(t.packing, t.base, t.k, t.pattern_list)


@lru_cache(maxsize=4)  # a table is made of 32,768 entries, and asked for row by row
def _digits_of_entries(
    packing: str, base: int, k: int, pattern_list: bytes | None
) -> npt.NDArray[np.uint8]:
    if packing == "w16":
        entry = np.arange(1 << 15)
        ranks = [entry >> RANK_BITS * i & 31 for i in range(RANKS_PER_WORD)]
    else:
        entry = np.arange(1 << 10)
        ranks = [
            13 + np.where(entry >> 9 - i & 1, -1, 1) * np.minimum(13, entry >> 4 * i & 15)
            for i in range(2)
        ]
    known = pattern_digits(base, k, pattern_list)
    patterns = np.zeros((MAX_RANKED_PATTERNS, k), np.uint8)  # a rank of none means nothing
    patterns[: len(known)] = known
    return patterns[np.stack(ranks, axis=1)].reshape(len(entry), -1)


def _table_entries(t: IndexedTensor, piece: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return rows of `_digit_table`, (strips, entries, rows of a strip), for strips of any width.

    Packing w16: the word. n4s1: bits 0-7 the magnitudes of two blocks, bits 9 and 8 their signs.
    """
    if t.packing == "w16":
        words: npt.NDArray[np.uint16] = piece & np.uint16(0x7FFF)
        return words
    shifts = np.array([6, 4, 2, 0], np.uint8)[:, None]
    signs = (piece[:, :, 4:] >> shifts & np.uint8(3)).astype(np.uint16)
    entries: npt.NDArray[np.uint16] = piece[:, :, :4] | signs << np.uint16(8)
    return entries.reshape(len(piece), -1, piece.shape[-1])


def row_scales(t: IndexedTensor, scale: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the multipliers of each row, float32: (out_features,), or (1,) where one is for all.

    For a tensor with groups of columns: (out_features, groups).

    Args:
        t: the tensor's record.
        scale: what `RsrFile.index_arrays` returns.
    """
    scale = scale.astype(np.float32, copy=False)
    if t.scale is None:
        return scale
    if t.is_grouped:
        scale = scale.reshape(t.groups, -1).T
    elif len(scale) == 1:
        return scale
    return scale if t.scale.rows == 1 else scale[np.arange(t.shape[0]) // t.scale.rows]


def apply_scales(
    t: IndexedTensor, W: npt.NDArray[np.float32], scales: npt.NDArray[np.float32]
) -> None:
    """Multiply digit values (out_features, in_features) in place by what `row_scales` returned."""
    if not t.is_grouped:
        W *= scales.reshape(-1, 1)
        return
    for g in range(t.groups):
        W[:, g * t.group_columns : (g + 1) * t.group_columns] *= scales[:, g : g + 1]


def decode_block(t: IndexedTensor, arrays: Mapping[str, npt.NDArray[Any]], j: int) -> Block:
    """Return the permutation and the segment list of column block `j`, the same from any encoding.

    Raises:
        IndexDataError: a rank is no pattern.
    """
    if t.encoding == "permuted":
        return Block(
            arrays["permutation"][j].astype(np.uint32), arrays["segments"][j].astype(np.uint32)
        )
    unpack = unpack_w16 if t.packing == "w16" else unpack_n4s1
    ranks = unpack(arrays["ranks"], t.rows, t.blocks, j)
    if t.rows and ranks.max() >= t.patterns:
        raise IndexDataError(
            f"ranks of tensor {t.name!r}: rank {ranks.max()} in block {j} is no pattern; "
            f"there are {t.patterns}"
        )
    return block_from_ranks(ranks, t.patterns)
