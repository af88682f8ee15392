"""The two encodings of an RSR index, in NumPy: the definition every native encoder must equal.

A digit is a number 0 .. B-1; the values the digits stand for (-1, 0, 1) matter only to products.
In a column block of k columns a row is a pattern of k digits; read as a number in base B, most
significant digit first, it is the number of the row's segment: its rank. Where a tensor lists its
patterns, the rank is the pattern's place in the list.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

STRIP = 128  # rows of a full strip in packing w16
LANES = 32  # rows are padded to a multiple of this
RANK_BITS = 5
RANKS_PER_WORD = 3
N4S1_STRIP = 64  # rows of a full strip in packing n4s1
N4S1_BLOCKS = 8  # column blocks of a unit in packing n4s1

UInt = npt.NDArray[np.unsignedinteger[Any]]


class Block(NamedTuple):
    """The index of one column block (paper, section 3).

    Rows permutation[segments[s]] .. permutation[segments[s + 1] - 1] carry pattern s.
    """

    permutation: UInt  # (rows,) sigma
    segments: UInt  # (patterns + 1,) L


@lru_cache(maxsize=256)  # lists come from files: not for ever
def pattern_digits(base: int, k: int, listed: bytes | None = None) -> npt.NDArray[np.uint8]:
    """Return the digits of each rank, uint8 (patterns, k), read-only.

    Args:
        base: B.
        k: columns of a column block.
        listed: the digits of the patterns, one pattern after the other; None: all B^k in order.
    """
    if listed is not None:
        return np.frombuffer(listed, np.uint8).reshape(-1, k)
    patterns = digits_from_ranks(np.arange(base**k, dtype=np.uint32), base, k)
    patterns.flags.writeable = False
    return patterns


@lru_cache(maxsize=256)
def pattern_values(
    digits: tuple[int, ...], k: int, listed: bytes | None = None
) -> npt.NDArray[np.int8]:
    """Return Bin_k, int8 (patterns, k), read-only: row s holds the values of the digits of rank s.

    `listed` is as for `pattern_digits`.
    """
    patterns = np.array(digits, np.int8)[pattern_digits(len(digits), k, listed)]
    patterns.flags.writeable = False
    return patterns


def padding_rank(digits: tuple[int, ...], k: int, listed: bytes | None = None) -> int:
    """Return the rank of padding rows and blocks: that of k padding digits; 0 if not listed."""
    pad = bytes([padding_digit(digits)] * k)
    patterns = [row.tobytes() for row in pattern_digits(len(digits), k, listed)]
    return patterns.index(pad) if pad in patterns else 0


def padding_digit(digits: tuple[int, ...]) -> int:
    """Return the digit of padding rows and columns: that of the value 0 if there is one, else 0."""
    return digits.index(0) if 0 in digits else 0


def ranks_of(A: npt.NDArray[np.uint8], base: int, k: int, pad: int) -> npt.NDArray[np.uint16]:
    """Return the rank of each row in each column block, uint16 (blocks, rows).

    `A` holds digits, uint8 (rows, columns); missing columns of the last block are digit `pad`.
    """
    rows, columns = A.shape
    blocks = -(-columns // k)
    padded = np.full((rows, blocks * k), pad, np.uint16)
    padded[:, :columns] = A
    weights = (base ** np.arange(k - 1, -1, -1)).astype(np.uint16)
    ranks: npt.NDArray[np.uint16] = np.einsum("rbk,k->br", padded.reshape(rows, blocks, k), weights)
    return ranks


def listed_ranks(
    numbers: npt.NDArray[np.uint16], base: int, k: int, listed: bytes
) -> npt.NDArray[np.uint16]:
    """Return the places in the list of patterns that have these numbers, of the same shape.

    Raises:
        ValueError: a pattern is not listed.
    """
    weights = base ** np.arange(k - 1, -1, -1)
    known = pattern_digits(base, k, listed) @ weights
    ranks = np.searchsorted(known, numbers)
    if (known[np.minimum(ranks, len(known) - 1)] != numbers).any():
        raise ValueError("a pattern is not listed")
    return ranks.astype(np.uint16)


def column_order(columns: int, k: int, stride: int) -> npt.NDArray[np.intp]:
    """Return the columns in the order of the column blocks, (columns,): each k are one block's.

    Args:
        columns: a multiple of `k` * `stride`.
        k: columns of a column block.
        stride: from one column of a block to the next.
    """
    return np.arange(columns).reshape(-1, k, stride).swapaxes(1, 2).reshape(-1)


def block_from_ranks(ranks: UInt, patterns: int) -> Block:
    """Sort the rows by rank, stably: this gives the permutation and the segment list back.

    Args:
        ranks: (rows,), each below `patterns`.
        patterns: B^k, or as many as are listed.
    """
    counts = np.bincount(ranks, minlength=patterns)
    segments = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    return Block(np.argsort(ranks, kind="stable").astype(np.uint32), segments)


def ranks_from_block(block: Block) -> npt.NDArray[np.uint16]:
    """Compose permutation and segment list into one array: the segment number of each row."""
    ranks = np.empty(len(block.permutation), np.uint16)
    lengths = block.segments[1:].astype(np.int64) - block.segments[:-1]
    ranks[block.permutation] = np.repeat(np.arange(len(lengths), dtype=np.uint16), lengths)
    return ranks


def digits_from_ranks(ranks: UInt, base: int, k: int) -> npt.NDArray[np.uint8]:
    """Return the digits of each rank, uint8 (..., k), most significant first."""
    weights = base ** np.arange(k - 1, -1, -1)
    return ((ranks[..., None].astype(np.int64) // weights) % base).astype(np.uint8)


def w16_words(blocks: int) -> int:
    """Return the word columns of packing w16: three column blocks share a 16-bit word."""
    return -(-blocks // RANKS_PER_WORD)


def w16_rows(rows: int) -> int:
    """Return the rows of packing w16, padding included."""
    return -(-rows // LANES) * LANES


def pack_w16(ranks: UInt, pad_rank: int) -> npt.NDArray[np.uint16]:
    """Pack ranks (blocks, rows) as packing w16 (SPEC.md, section 7.1): one flat uint16 array.

    Rows lie in strips of up to 128; in a strip, word column g holds one word per row; bits 0-4,
    5-9 and 10-14 are the ranks of column blocks 3g, 3g+1, 3g+2. Padding has rank `pad_rank`.
    """
    blocks, rows = ranks.shape
    words, padded_rows = w16_words(blocks), w16_rows(rows)
    padded = np.full((words * RANKS_PER_WORD, padded_rows), pad_rank, np.uint16)
    padded[:blocks, :rows] = ranks
    word = padded[0::3] | padded[1::3] << RANK_BITS | padded[2::3] << 2 * RANK_BITS
    strips = [word[:, r : r + STRIP].ravel() for r in range(0, padded_rows, STRIP)]
    return np.concatenate(strips) if strips else np.empty(0, np.uint16)


def unpack_w16(packed: npt.NDArray[np.uint16], rows: int, blocks: int, j: int) -> UInt:
    """Return the ranks of column block `j`, uint16 (rows,), reading only that block's words."""
    words, padded_rows = w16_words(blocks), w16_rows(rows)
    g, shift = j // RANKS_PER_WORD, RANK_BITS * (j % RANKS_PER_WORD)
    full = padded_rows // STRIP * STRIP
    head = packed[: full * words].reshape(-1, words, STRIP)[:, g].reshape(-1)
    tail = packed[full * words :].reshape(words, padded_rows - full)[g]
    ranks: UInt = (np.concatenate([head, tail])[:rows] >> np.uint16(shift)) & np.uint16(31)
    return ranks


def n4s1_units(blocks: int) -> int:
    """Return the units of packing n4s1: eight column blocks share one."""
    return -(-blocks // N4S1_BLOCKS)


def n4s1_size(rows: int, blocks: int) -> int:
    """Return the bytes of packing n4s1: five per row and unit."""
    return 5 * n4s1_units(blocks) * w16_rows(rows)


def pack_n4s1(ranks: UInt) -> npt.NDArray[np.uint8]:
    """Pack ternary ranks (blocks, rows) of k = 3 as packing n4s1 (SPEC.md, section 7.2).

    One flat uint8 array. A rank is 13 plus or minus a magnitude 0 .. 13. Rows lie in strips of up
    to 64; a unit holds eight column blocks as five vectors of one byte per row: vector i < 4 has
    the magnitudes of blocks 2i (low nibble) and 2i + 1 (high nibble), the last has bit 7 - j set if
    the rank of block j is below 13. Padding has rank 13: all bits zero.
    """
    blocks, rows = ranks.shape
    units, padded_rows = n4s1_units(blocks), w16_rows(rows)
    padded = np.full((units * N4S1_BLOCKS, padded_rows), 13, np.int16)
    padded[:blocks, :rows] = ranks
    signed = (padded - 13).reshape(units, N4S1_BLOCKS, padded_rows)
    magnitudes = np.abs(signed).astype(np.uint8)
    nibbles = magnitudes[:, 0::2] | magnitudes[:, 1::2] << 4
    signs = np.packbits(signed < 0, axis=1)
    vectors = np.concatenate([nibbles, signs], axis=1)  # (units, 5, rows)
    strips = [vectors[:, :, r : r + N4S1_STRIP].ravel() for r in range(0, padded_rows, N4S1_STRIP)]
    return np.concatenate(strips) if strips else np.empty(0, np.uint8)


def unpack_n4s1(packed: npt.NDArray[np.uint8], rows: int, blocks: int, j: int) -> UInt:
    """Return the ranks of column block `j`, uint16 (rows,), reading only that block's bytes."""
    units, padded_rows = n4s1_units(blocks), w16_rows(rows)
    u, i = divmod(j, N4S1_BLOCKS)
    full = padded_rows // N4S1_STRIP * N4S1_STRIP
    head = packed[: full * units * 5].reshape(-1, units, 5, N4S1_STRIP)[:, u]
    tail = packed[full * units * 5 :].reshape(units, 5, padded_rows - full)[u]

    def vector(v: int) -> npt.NDArray[np.uint8]:
        return np.concatenate([head[:, v].reshape(-1), tail[v]])[:rows]

    magnitudes = (vector(i // 2) >> np.uint8(4 * (i % 2)) & np.uint8(15)).astype(np.int16)
    negative = (vector(4) >> np.uint8(7 - i) & np.uint8(1)).astype(bool)
    ranks: UInt = np.where(negative, 13 - magnitudes, 13 + magnitudes).astype(np.uint16)
    return ranks
