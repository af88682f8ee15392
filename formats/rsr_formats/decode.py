"""From an index back to the digits of its matrix: for decompiling and inspection only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .encoding import (
    RANK_BITS,
    RANKS_PER_WORD,
    STRIP,
    Block,
    block_from_ranks,
    digits_from_ranks,
    ranks_from_block,
    unpack_w16,
    w16_rows,
    w16_words,
)
from .errors import IndexDataError
from .layout import IndexedTensor


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
        return _decode_w16(t, arrays["ranks"])
    A = np.empty((t.rows, t.blocks * t.k), np.uint8)
    for j, (permutation, segments) in enumerate(
        zip(arrays["permutation"], arrays["segments"], strict=True)
    ):
        ranks = ranks_from_block(Block(permutation, segments))
        A[:, j * t.k : (j + 1) * t.k] = digits_from_ranks(ranks, t.base, t.k)
    A = A[:, : t.columns]
    return np.ascontiguousarray(A if t.direction == "expand" else A.T)


def _decode_w16(t: IndexedTensor, packed: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    # One lookup per word: all digits of its three column blocks at once.
    word = np.arange(1 << 15, dtype=np.uint16)
    ranks = np.stack([word >> (RANK_BITS * i) & 31 for i in range(RANKS_PER_WORD)], axis=1)
    table = digits_from_ranks(ranks, t.base, t.k).reshape(1 << 15, RANKS_PER_WORD * t.k)
    words, padded = w16_words(t.blocks), w16_rows(t.rows)
    A = np.empty((t.rows, t.columns), np.uint8)
    for first in range(0, t.rows, STRIP):
        height = min(STRIP, padded - first)
        strip = packed[first * words : (first + height) * words].reshape(words, height).T
        rows = A[first : first + height]
        rows[:] = table[strip[: len(rows)] & 0x7FFF].reshape(len(rows), -1)[:, : t.columns]
    return A


def row_scales(t: IndexedTensor, scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the multiplier of each row, (out_features,); or `scale` where it is one for all.

    Args:
        t: the tensor's record.
        scale: what `RsrFile.index_arrays` returns.
    """
    if len(scale) == 1 or t.scale is None or t.scale.rows == 1:
        return scale
    return scale[np.arange(t.shape[0]) // t.scale.rows]


def decode_block(t: IndexedTensor, arrays: Mapping[str, npt.NDArray[Any]], j: int) -> Block:
    """Return the permutation and the segment list of column block `j`, the same from any encoding.

    Raises:
        IndexDataError: a rank is no pattern.
    """
    if t.encoding == "permuted":
        return Block(
            arrays["permutation"][j].astype(np.uint32), arrays["segments"][j].astype(np.uint32)
        )
    ranks = unpack_w16(arrays["ranks"], t.rows, t.blocks, j)
    if t.rows and ranks.max() >= t.patterns:
        raise IndexDataError(
            f"ranks of tensor {t.name!r}: rank {ranks.max()} in block {j} is no pattern; "
            f"there are {t.patterns}"
        )
    return block_from_ranks(ranks, t.patterns)
