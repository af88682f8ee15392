"""Decode an index into the digits of its matrix, for decompiling, checks and inspection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IndexDataError
from .packing import (
    N4S1_BLOCKS,
    N4S1_STRIP,
    RANK_BITS,
    RANK_MASK,
    RANKS_PER_WORD,
    STRIP,
    ZERO_RANK,
    Block,
    block_from_ranks,
    digits_from_ranks,
    n4s1_bytes,
    n4s1_places,
    padded_rows,
    pattern_digits,
    ranks_from_block,
    unpack_n4s1,
    unpack_w16,
    w16_words,
)
from .records import MAX_RANKED_PATTERNS, IndexedTensor

PIECE = 1 << 20  # index entries per NumPy operation, which bounds the memory
_PAIR = 2  # column blocks of an entry of packing n4s1

Columns = slice | npt.NDArray[np.intp]


def decode_digits(
    t: IndexedTensor, arrays: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.uint8]:
    """Return the digits of W, uint8 (out_features, in_features).

    Args:
        t: the tensor's record.
        arrays: the result of `RsrFile.index_arrays`. Ranks that are out of range decode to
            arbitrary digits; `check_ranks` finds them.
    """
    W = np.empty(t.shape, np.uint8)
    for rows, columns, digits in dense_windows(t, arrays):
        W[rows, columns] = digits
    return W


def dense_windows(
    t: IndexedTensor, arrays: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[slice, Columns, npt.NDArray[np.uint8]]]:
    """Decode an index in either encoding in windows: for a ranked one those of `digit_windows`.

    Args:
        t: the tensor's record.
        arrays: the result of `RsrFile.index_arrays`.
    """
    if t.encoding == "ranked":
        yield from digit_windows(t, arrays["ranks"])
        return
    for j, block in enumerate(zip(arrays["permutation"], arrays["segments"], strict=True)):
        indexed = slice(j * t.k, min((j + 1) * t.k, t.columns))
        digits = digits_from_ranks(ranks_from_block(Block(*block)), t.base, t.k)
        digits = digits[:, : indexed.stop - indexed.start]
        if t.direction == "expand":
            yield slice(0, t.rows), indexed, digits
        else:
            yield indexed, slice(0, t.rows), digits.T


def digit_windows(
    t: IndexedTensor, packed: npt.NDArray[Any]
) -> Iterator[tuple[slice, Columns, npt.NDArray[np.uint8]]]:
    """Decode an index in encoding ranked in windows of bounded size.

    Args:
        t: the tensor's record.
        packed: its ranks, uint16 (packing w16) or uint8 (n4s1), flat.

    Yields:
        (rows, columns, digits) of each window of W; together the windows cover W once. `columns`
        is a slice, or an array of column numbers if the tensor has a stride; `digits` is uint8.
    """
    if not t.rows:  # the file has no bytes for its columns
        return
    table = digit_table(t)
    entries = Entries(t)
    for r0, piece in strips(t, packed):
        count, height = len(piece), piece.shape[-1]
        rows = slice(r0, min(r0 + count * height, t.rows))
        step = max(1, PIECE // (count * height))
        for first in range(0, entries.count, step):
            some = entries.of(piece, first, min(first + step, entries.count))
            digits = table[some.transpose(0, 2, 1)].reshape(count * height, -1)
            columns, real = _real_columns(t, first * table.shape[1], digits.shape[1])
            yield rows, columns, digits[: rows.stop - r0, real]


def decode_row(t: IndexedTensor, packed: npt.NDArray[Any], row: int) -> npt.NDArray[np.uint8]:
    """Return the digits of one row of W, uint8 (in_features,), from an index in encoding ranked.

    Args:
        t: the tensor's record.
        packed: its ranks; ranks that are out of range decode to arbitrary digits.
        row: below out_features.
    """
    cells, tallest = _strip_shape(t)
    if not cells:
        return np.empty(0, np.uint8)
    top = row // tallest * tallest
    height = min(tallest, padded_rows(t.rows) - top)
    strip = packed[top * cells : (top + height) * cells].reshape(1, cells, height)
    entries = Entries(t)
    some = entries.of(strip[..., row - top : row - top + 1], 0, entries.count)
    digits = digit_table(t)[some].reshape(-1)
    columns, real = _real_columns(t, 0, len(digits))
    result = np.empty(t.columns, np.uint8)
    result[columns] = digits[real]
    return result


def _real_columns(t: IndexedTensor, first: int, count: int) -> tuple[Columns, Columns]:
    """Find the digits that are not padding in a part of a padded row.

    Args:
        t: the tensor's record.
        first: position of the part in a row of all column blocks, padding included.
        count: digits of the part.

    Returns:
        The columns of W that the part covers, and their positions in it.
    """
    if t.stride > 1:  # groups are multiples of k * stride, so runs of blocks ignore the groups
        j, p = np.divmod(np.arange(first, min(first + count, t.columns)), t.k)
        run, place = np.divmod(j, t.stride)
        return (run * t.k + p) * t.stride + place, slice(0, len(j))
    width = _group_digits(t)
    if width == t.group_columns or not t.is_grouped:  # only the last block has padding
        return slice(first, min(first + count, t.columns)), slice(0, t.columns - first)
    group, i = np.divmod(np.arange(first, first + count), width)
    real = np.flatnonzero((i < t.group_columns) & (group * t.group_columns + i < t.columns))
    if not len(real):
        return slice(0, 0), real
    start = int(group[real[0]] * t.group_columns + i[real[0]])
    return slice(start, start + len(real)), real


def _group_digits(t: IndexedTensor) -> int:
    """Return how many digits of a decoded row belong to a group, padding included."""
    blocks = -(-t.group_columns // t.k)
    if t.packing == "n4s1":
        blocks += blocks % _PAIR  # a group is whole pairs of blocks
    return blocks * t.k


def strips(t: IndexedTensor, packed: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Cut an index in encoding ranked into pieces of whole strips.

    Yields:
        The first row of a piece and its strips: (strips, word columns, rows of a strip) in packing
        w16, (strips, bytes of a row, rows of a strip) in n4s1. All strips of a piece have the same
        height. Only the last strip of the last piece has padding rows.
    """
    cells, tallest = _strip_shape(t)
    padded = padded_rows(t.rows)
    if not cells:
        return
    full = padded // tallest * tallest
    step = max(1, PIECE // (cells * tallest)) * tallest
    for r0 in range(0, full, step):
        piece = packed[r0 * cells : min(full, r0 + step) * cells]
        yield r0, piece.reshape(-1, cells, tallest)
    if full < padded:
        yield full, packed[full * cells :].reshape(1, cells, padded - full)


def _strip_shape(t: IndexedTensor) -> tuple[int, int]:
    """Return the words or bytes of a row, and the rows of a full strip."""
    if t.packing == "n4s1":
        return n4s1_bytes(t.blocks, t.unit_blocks), N4S1_STRIP
    return w16_words(t.blocks), STRIP


def digit_table(t: IndexedTensor) -> npt.NDArray[np.uint8]:
    """Return the digits of all column blocks that share a table entry, (entries, digits)."""
    return _digits_of_entries(t.packing, t.base, t.k, t.pattern_list)


@lru_cache(maxsize=4)  # a table has up to 32,768 entries and serves single rows
def _digits_of_entries(
    packing: str, base: int, k: int, pattern_list: bytes | None
) -> npt.NDArray[np.uint8]:
    if packing == "w16":
        entry = np.arange(1 << 15)
        ranks = [entry >> RANK_BITS * i & RANK_MASK for i in range(RANKS_PER_WORD)]
    else:
        entry = np.arange(1 << 10)
        signs = [np.where(entry >> 9 - i & 1, -1, 1) for i in range(2)]
        magnitudes = [np.minimum(ZERO_RANK, entry >> 4 * i & 15) for i in range(2)]
        ranks = [ZERO_RANK + s * m for s, m in zip(signs, magnitudes, strict=True)]
    known = pattern_digits(base, k, pattern_list)
    patterns = np.zeros((MAX_RANKED_PATTERNS, k), np.uint8)  # invalid ranks give 0
    patterns[: len(known)] = known
    return patterns[np.stack(ranks, axis=1)].reshape(len(entry), -1)


class Entries:
    """The indices into `digit_table` of the rows of a tensor.

    An entry is a word in packing w16. In n4s1 it is two neighboring column blocks of a group: bits
    0-7 have their magnitudes, bits 9 and 8 their signs. The last pair of a group may have one.
    """

    def __init__(self, t: IndexedTensor) -> None:
        self._places: tuple[npt.NDArray[Any], ...] | None = None
        self.count = w16_words(t.blocks)  # of a row
        if t.packing == "n4s1":
            at = n4s1_places(t.blocks, t.unit_blocks)
            left = np.flatnonzero(at.places % _PAIR == 0)
            self.count = len(left)
            right = np.minimum(left + 1, t.blocks - 1)
            has_two = at.places[right] == at.places[left] + 1
            mask = np.where(has_two, 0xFF, 0x0F).astype(np.uint8)[:, None]
            shift = (6 - at.places[left]).astype(np.uint8)[:, None]
            both = np.where(has_two, 3, 2).astype(np.uint8)[:, None]
            self._places = at.magnitudes[left], mask, at.signs[left], shift, both

    def of(self, piece: npt.NDArray[Any], first: int, end: int) -> npt.NDArray[np.uint16]:
        """Return entries first .. end - 1 of each row, (strips, entries, rows of a strip).

        Args:
            piece: strips as `strips` yields them, or some of their rows.
            first: first entry.
            end: one past the last.
        """
        if self._places is None:
            words: npt.NDArray[np.uint16] = piece[:, first:end] & np.uint16(0x7FFF)
            return words
        magnitudes, mask, signs, shift, both = (a[first:end] for a in self._places)
        signed = (piece[:, signs] >> shift & both).astype(np.uint16)
        entries: npt.NDArray[np.uint16] = piece[:, magnitudes] & mask | signed << np.uint16(8)
        return entries

    def replace(
        self, piece: npt.NDArray[Any], at: npt.NDArray[np.intp], values: npt.NDArray[np.uint16]
    ) -> None:
        """Replace some entries of whole strips in place; all other bits stay as they are.

        Args:
            piece: strips as `strips` yields them, contiguous and writable.
            at: different positions in the flat result of `of` for all entries.
            values: the new entries.
        """
        if self._places is None:
            flat = piece.reshape(-1)
            flat[at] = flat[at] & np.uint16(0x8000) | values
            return
        _, cells, height = piece.shape
        cell, row = np.divmod(at, height)
        strip, entry = np.divmod(cell, self.count)
        first = strip * cells * height + row
        magnitudes, mask, signs, shift, both = (a.reshape(-1)[entry] for a in self._places)
        flat = piece.reshape(-1)
        magnitudes, signs = first + magnitudes * height, first + signs * height
        signed = (flat[signs] >> shift & both).astype(np.uint16)
        flipped = (flat[magnitudes] & mask | signed << np.uint16(8)) ^ values
        flat[magnitudes] ^= flipped.astype(np.uint8) & mask
        signed_flips = ((flipped >> np.uint16(8)).astype(np.uint8) & both) << shift
        for place in range(0, N4S1_BLOCKS, _PAIR):  # a byte holds the signs of up to four entries
            some = np.flatnonzero(shift == N4S1_BLOCKS - _PAIR - place)
            flat[signs[some]] ^= signed_flips[some]


def row_scales(t: IndexedTensor, scale: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Expand the scales of a tensor to rows.

    Args:
        t: the tensor's record.
        scale: array "scale" of `RsrFile.index_arrays`.

    Returns:
        float32: (1,) for one scale per tensor, (out_features, groups) for groups of columns, else
        (out_features,).
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
    """Multiply digit values in place by their scales.

    Args:
        t: the tensor's record.
        W: digit values, (out_features, in_features).
        scales: the result of `row_scales`.
    """
    if not t.is_grouped:
        W *= scales.reshape(-1, 1)
        return
    for g in range(t.groups):
        W[:, g * t.group_columns : (g + 1) * t.group_columns] *= scales[:, g : g + 1]


def decode_block(t: IndexedTensor, arrays: Mapping[str, npt.NDArray[Any]], j: int) -> Block:
    """Return the permutation and segment list of column block `j`, whatever the encoding.

    Args:
        t: the tensor's record.
        arrays: the result of `RsrFile.index_arrays`.
        j: number of the column block, below `t.blocks`.

    Raises:
        IndexDataError: a rank is out of range.
    """
    if t.encoding == "permuted":
        return Block(
            arrays["permutation"][j].astype(np.uint32), arrays["segments"][j].astype(np.uint32)
        )
    if t.packing == "w16":
        ranks = unpack_w16(arrays["ranks"], t.rows, t.blocks, j)
    else:
        ranks = unpack_n4s1(arrays["ranks"], t.rows, t.blocks, j, t.unit_blocks)
    if t.rows and ranks.max() >= t.patterns:
        raise IndexDataError(
            f"ranks of tensor {t.name!r}: rank {ranks.max()} in block {j}, "
            f"expected 0 to {t.patterns - 1}"
        )
    return block_from_ranks(ranks, t.patterns)
