"""The encodings and packings of an RSR index in NumPy: the reference for the native code.

A digit is a number 0 .. B-1 that stands for a value, -2 to 2. In a column block of k columns,
each row is a pattern of k digits. The rank of the pattern is the digits read as a number in base B,
most significant digit first; if a tensor lists its patterns, it is the position in the list.
The rank is also the number of the segment that the row belongs to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LANES = 32  # rows are padded to a multiple of this
RANK_BITS = 5
RANK_MASK = (1 << RANK_BITS) - 1
RANKS_PER_WORD = 3  # column blocks per 16-bit word in packing w16
STRIP = 128  # rows of a full strip in packing w16
N4S1_STRIP = 64  # rows of a full strip in packing n4s1
N4S1_BLOCKS = 8  # column blocks per unit in packing n4s1
N4S1_VECTORS = 5  # bytes per row and unit: 4 with two magnitudes each, 1 with eight signs
N4S1_BITS = 5  # of a rank: its magnitude and its sign
ZERO_RANK = 13  # rank of the pattern (0, 0, 0), k = 3; also the largest magnitude in n4s1

UInt = npt.NDArray[np.unsignedinteger[Any]]


class Block(NamedTuple):
    """The index of one column block (RSR paper, section 3).

    The rows with pattern s are permutation[segments[s]] .. permutation[segments[s + 1] - 1].
    """

    permutation: UInt  # sigma, (rows,)
    segments: UInt  # L, (patterns + 1,)


@lru_cache(maxsize=256)  # bounded, because lists come from untrusted files
def pattern_digits(base: int, k: int, listed: bytes | None = None) -> npt.NDArray[np.uint8]:
    """Return the digits of each rank, uint8 (patterns, k), read-only.

    Args:
        base: B.
        k: columns of a column block.
        listed: the digits of the listed patterns in rank order; None: all B^k patterns.
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
    """Return Bin_k, int8 (patterns, k), read-only: row s holds the values of pattern s.

    Args:
        digits: the alphabet: the value of each digit.
        k: columns of a column block.
        listed: as for `pattern_digits`.
    """
    patterns = np.array(digits, np.int8)[pattern_digits(len(digits), k, listed)]
    patterns.flags.writeable = False
    return patterns


def padding_rank(digits: tuple[int, ...], k: int, listed: bytes | None = None) -> int:
    """Return the rank of padding rows and blocks: k padding digits, or 0 if that is not listed."""
    pad = bytes([padding_digit(digits)] * k)
    patterns = [row.tobytes() for row in pattern_digits(len(digits), k, listed)]
    return patterns.index(pad) if pad in patterns else 0


def padding_digit(digits: tuple[int, ...]) -> int:
    """Return the digit of padding rows and columns: the digit of value 0, or 0 if there is none."""
    return digits.index(0) if 0 in digits else 0


def ranks_of(A: npt.NDArray[np.uint8], base: int, k: int, pad: int) -> npt.NDArray[np.uint16]:
    """Return the rank of each row in each column block, uint16 (blocks, rows).

    Args:
        A: digits, (rows, columns).
        base: B.
        k: columns of a column block.
        pad: the digit of the columns that the last block lacks.
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
    """Return the positions of patterns in a list of patterns, uint16, in the shape of `numbers`.

    Args:
        numbers: the patterns, as numbers in base B.
        base: B.
        k: columns of a column block.
        listed: as for `pattern_digits`.

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
    """Return the column numbers in the order of the column blocks, (columns,), k per block.

    Args:
        columns: number of columns, a multiple of `k` * `stride`.
        k: columns of a column block.
        stride: distance between neighboring columns of a block.
    """
    return np.arange(columns).reshape(-1, k, stride).swapaxes(1, 2).reshape(-1)


class Places(NamedTuple):
    """Where columns are in their column blocks; entry c of an array is of column c."""

    blocks: npt.NDArray[np.uint32]
    digits: npt.NDArray[np.intp]  # 0 .. k - 1, most significant first


def column_places(columns: int, k: int, stride: int, group_columns: int) -> Places:
    """Return the column block of each column, and which digit of the pattern it is.

    Args:
        columns: number of columns.
        k: columns of a column block.
        stride: distance between neighboring columns of a block.
        group_columns: columns of a group, which is cut into blocks by itself.
    """
    group, inner = np.divmod(np.arange(columns), group_columns)
    run, inner = np.divmod(inner, k * stride)
    digit, place = np.divmod(inner, stride)
    blocks = group * -(-group_columns // k) + run * stride + place
    return Places(blocks.astype(np.uint32), digit)


def block_from_ranks(ranks: UInt, patterns: int) -> Block:
    """Return the index of a column block: a stable counting sort of its rows by rank.

    Args:
        ranks: (rows,), each below `patterns`.
        patterns: B^k or the number of listed patterns.
    """
    counts = np.bincount(ranks, minlength=patterns)
    segments = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    return Block(np.argsort(ranks, kind="stable").astype(np.uint32), segments)


def ranks_from_block(block: Block) -> npt.NDArray[np.uint16]:
    """Return the rank of each row, uint16 (rows,): the inverse of `block_from_ranks`."""
    ranks = np.empty(len(block.permutation), np.uint16)
    lengths = block.segments[1:].astype(np.int64) - block.segments[:-1]
    ranks[block.permutation] = np.repeat(np.arange(len(lengths), dtype=np.uint16), lengths)
    return ranks


def digits_from_ranks(ranks: UInt, base: int, k: int) -> npt.NDArray[np.uint8]:
    """Return the digits of each rank, uint8 (..., k), most significant first."""
    weights = base ** np.arange(k - 1, -1, -1)
    return ((ranks[..., None].astype(np.int64) // weights) % base).astype(np.uint8)


def w16_words(blocks: int) -> int:
    """Return the number of word columns in packing w16."""
    return -(-blocks // RANKS_PER_WORD)


def padded_rows(rows: int) -> int:
    """Return the number of rows, including padding, in packings w16 and n4s1."""
    return -(-rows // LANES) * LANES


def w16_size(rows: int, blocks: int) -> int:
    """Return the size in bytes of an index in packing w16."""
    return 2 * w16_words(blocks) * padded_rows(rows)


def pack_w16(ranks: UInt, pad_rank: int) -> npt.NDArray[np.uint16]:
    """Pack ranks (blocks, rows) in packing w16 (SPEC.md section 7.1), uint16 (words * rows,).

    A strip has up to 128 rows and one word per row in each word column. Bits 0-4, 5-9 and 10-14 of
    a word in word column g are the ranks of column blocks 3g, 3g+1 and 3g+2. Padding rows and
    blocks have rank `pad_rank`.
    """
    blocks, rows = ranks.shape
    words, R = w16_words(blocks), padded_rows(rows)
    padded = np.full((words * RANKS_PER_WORD, R), pad_rank, np.uint16)
    padded[:blocks, :rows] = ranks
    word = padded[0::3] | padded[1::3] << RANK_BITS | padded[2::3] << 2 * RANK_BITS
    strips = [word[:, r : r + STRIP].ravel() for r in range(0, R, STRIP)]
    return np.concatenate(strips) if strips else np.empty(0, np.uint16)


def unpack_w16(packed: npt.NDArray[np.uint16], rows: int, blocks: int, j: int) -> UInt:
    """Return the ranks of column block `j`, uint16 (rows,); only its words are read."""
    words, R = w16_words(blocks), padded_rows(rows)
    g, shift = j // RANKS_PER_WORD, RANK_BITS * (j % RANKS_PER_WORD)
    full = R // STRIP * STRIP
    head = packed[: full * words].reshape(-1, words, STRIP)[:, g].reshape(-1)
    tail = packed[full * words :].reshape(words, R - full)[g]
    ranks: UInt = (np.concatenate([head, tail])[:rows] >> np.uint16(shift)) & np.uint16(RANK_MASK)
    return ranks


class N4s1Places(NamedTuple):
    """Where packing n4s1 stores each column block of a row.

    A row is a sequence of bytes, each of its own vector; entry j of an array is of column block j.
    """

    magnitudes: npt.NDArray[np.intp]  # byte of the magnitude
    signs: npt.NDArray[np.intp]  # byte of the sign
    places: npt.NDArray[np.intp]  # i: the magnitude in nibble i mod 2, the sign in bit 7 - i


def n4s1_bytes(blocks: int, group_blocks: int | None = None) -> int:
    """Return the number of bytes of a row in packing n4s1.

    Args:
        blocks: column blocks of the matrix.
        group_blocks: column blocks of a group, if groups have their own scales. Each group is then
            cut into units by itself, and its last unit may be short.
    """
    if group_blocks is None:
        return N4S1_VECTORS * -(-blocks // N4S1_BLOCKS)
    whole, rest = divmod(blocks, group_blocks)
    return whole * _group_bytes(group_blocks) + _group_bytes(rest)


def _group_bytes(blocks: int) -> int:
    units, short = divmod(blocks, N4S1_BLOCKS)
    return units * N4S1_VECTORS + -(-short * N4S1_BITS // 8)


@lru_cache(maxsize=4)  # rows of a matrix are decoded one by one
def n4s1_places(blocks: int, group_blocks: int | None = None) -> N4s1Places:
    """Return where the column blocks are; see `n4s1_bytes` for the arguments."""
    every = -(-blocks // N4S1_BLOCKS) * N4S1_BLOCKS  # without groups, units have eight blocks
    per_group = every if group_blocks is None else group_blocks
    group, inner = np.divmod(np.arange(blocks), max(1, per_group))
    unit, place = np.divmod(inner, N4S1_BLOCKS)
    size = np.minimum(per_group, (every if group_blocks is None else blocks) - group * per_group)
    in_unit = np.minimum(N4S1_BLOCKS, size - unit * N4S1_BLOCKS)
    first = group * _group_bytes(per_group) + unit * N4S1_VECTORS
    found = N4s1Places(first + place // 2, first + -(-in_unit * N4S1_BITS // 8) - 1, place)
    for array in found:
        array.setflags(write=False)
    return found


def n4s1_size(rows: int, blocks: int, group_blocks: int | None = None) -> int:
    """Return the size in bytes of an index in packing n4s1; see `n4s1_bytes`."""
    return n4s1_bytes(blocks, group_blocks) * padded_rows(rows)


def pack_n4s1(ranks: UInt, group_blocks: int | None = None) -> npt.NDArray[np.uint8]:
    """Pack ternary ranks (blocks, rows) of k = 3 in packing n4s1 (SPEC.md section 7.2), flat uint8.

    A rank is 13 plus or minus a magnitude 0 .. 13. A strip has up to 64 rows; a unit of a strip
    holds eight column blocks in five vectors of one byte per row. Vector i < 4 has the magnitudes
    of blocks 2i (low nibble) and 2i + 1 (high nibble). Bit 7 - j of the last vector is set if the
    rank of block j is below 13. Padding has rank 13: all its bits are zero. With groups, the last
    unit of each may have fewer blocks and vectors.

    Args:
        ranks: (blocks, rows).
        group_blocks: as for `n4s1_bytes`.
    """
    blocks, rows = ranks.shape
    R = padded_rows(rows)
    at = n4s1_places(blocks, group_blocks)
    signed = ranks.astype(np.int16) - ZERO_RANK
    vectors = np.zeros((n4s1_bytes(blocks, group_blocks), R), np.uint8)
    for j in range(blocks):
        place = int(at.places[j])
        vectors[at.magnitudes[j], :rows] |= np.abs(signed[j]).astype(np.uint8) << 4 * (place % 2)
        vectors[at.signs[j], :rows] |= (signed[j] < 0).astype(np.uint8) << (7 - place)
    strips = [vectors[:, r : r + N4S1_STRIP].ravel() for r in range(0, R, N4S1_STRIP)]
    return np.concatenate(strips) if strips else np.empty(0, np.uint8)


def unpack_n4s1(
    packed: npt.NDArray[np.uint8], rows: int, blocks: int, j: int, group_blocks: int | None = None
) -> UInt:
    """Return the ranks of column block `j`, uint16 (rows,); only its bytes are read."""
    size, R = n4s1_bytes(blocks, group_blocks), padded_rows(rows)
    at = n4s1_places(blocks, group_blocks)
    full = R // N4S1_STRIP * N4S1_STRIP
    head = packed[: full * size].reshape(-1, size, N4S1_STRIP)
    tail = packed[full * size :].reshape(size, R - full)

    def vector(v: int) -> npt.NDArray[np.uint8]:
        return np.concatenate([head[:, v].reshape(-1), tail[v]])[:rows]

    place = int(at.places[j])
    nibbles = vector(int(at.magnitudes[j])) >> np.uint8(4 * (place % 2))
    magnitudes = (nibbles & np.uint8(15)).astype(np.int16)
    negative = (vector(int(at.signs[j])) >> np.uint8(7 - place) & np.uint8(1)).astype(bool)
    ranks: UInt = np.where(negative, ZERO_RANK - magnitudes, ZERO_RANK + magnitudes).astype(
        np.uint16
    )
    return ranks
