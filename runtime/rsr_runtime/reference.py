"""RSR and RSR++ in NumPy, to be read beside the paper (arXiv 2411.06360): the oracle of the tests.

A is the indexed matrix, (rows, columns); block b covers columns b*k .. b*k + k - 1 and has a
permutation sigma and a segment list L. Bin_k, (B^k, k), lists the patterns: row s holds the values
of the digits of s. Both products have two steps; in each, "++" is about the step with Bin_k.

    v . A    step 1: u[s] = sum of v[sigma[i]] over segment s       step 2: u . Bin_k   (fold)
    A . x    step 1: t = Bin_k . x_block  (grow)                    step 2: y[sigma[i]] += t[s]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.packing import Block, block_from_ranks, padding_digit, pattern_values, ranks_of

Array = npt.NDArray[Any]


def preprocess(A: Array, digits: tuple[int, ...], k: int) -> list[Block]:
    """Index a matrix (paper, Algorithm 1).

    Args:
        A: (rows, columns), entries among `digits`.
        digits: the values of the digits, ascending: (-1, 0, 1), (-1, 1) or (0, 1).
        k: columns of a column block.
    """
    numbers = np.searchsorted(np.array(digits), A).astype(np.uint8)
    ranks = ranks_of(numbers, len(digits), k, padding_digit(digits))
    return [block_from_ranks(r, len(digits) ** k) for r in ranks]


def segmented_sum(v: Array, block: Block) -> Array:
    """Step 1 of v . A: u[s] = sum of v[sigma[i]] for i from L[s] to L[s + 1] - 1 (Algorithm 2)."""
    sums = np.cumsum(v[block.permutation], dtype=v.dtype)
    total: Array = np.concatenate([np.zeros(1, v.dtype), sums])
    u: Array = total[block.segments[1:]] - total[block.segments[:-1]]
    return u


def fold(u: Array, digits: tuple[int, ...], k: int) -> Array:
    """Step 2 of v . A in RSR++: u . Bin_k in O(B^k), taking off the last digit again and again."""
    values = np.array(digits, u.dtype)
    y = np.zeros(k, u.dtype)
    for j in reversed(range(k)):
        by_digit = u.reshape(-1, len(digits))
        y[j] = by_digit.sum(axis=0) @ values
        u = by_digit.sum(axis=1)
    return y


def grow(x: Array, digits: tuple[int, ...]) -> Array:
    """Step 1 of A . x in RSR++: Bin_k . x in O(B^k), putting on one digit after the other."""
    t = np.zeros(1, x.dtype)
    for value in x:
        t = (t[:, None] + value * np.array(digits, x.dtype)).ravel()
    return t


def reduce(
    v: Array, blocks: Sequence[Block], columns: int, digits: tuple[int, ...], k: int, *,
    plus_plus: bool = True,
) -> Array:  # fmt: skip
    """Return v . A, (columns,), in the dtype of v (rows,): RSR++, or RSR if not `plus_plus`."""
    y = np.zeros(len(blocks) * k, v.dtype)
    for b, block in enumerate(blocks):
        u = segmented_sum(v, block)
        step2 = fold(u, digits, k) if plus_plus else u @ pattern_values(digits, k).astype(v.dtype)
        y[b * k : (b + 1) * k] = step2
    return y[:columns]


def expand(
    x: Array, blocks: Sequence[Block], rows: int, digits: tuple[int, ...], k: int, *,
    plus_plus: bool = True,
) -> Array:  # fmt: skip
    """Return A . x, (rows,), in the dtype of x (columns,): RSR++, or RSR if not `plus_plus`."""
    y = np.zeros(rows, x.dtype)
    padded = np.zeros(len(blocks) * k, x.dtype)
    padded[: len(x)] = x
    for b, block in enumerate(blocks):
        x_block = padded[b * k : (b + 1) * k]
        Bin = pattern_values(digits, k).astype(x.dtype)
        t: Array = grow(x_block, digits) if plus_plus else Bin @ x_block
        lengths: Array = np.diff(block.segments.astype(np.int64))
        y[block.permutation] += np.repeat(t, lengths)
    return y


def quantize_int8(x: Array) -> tuple[Array, Array]:
    """Quantize each row of x, float32 (b, n), as BitNet b1.58 does (arXiv 2402.17764, section 2).

    Returns:
        q, int8 (b, n), and s, float32 (b, 1): q = clip(round_half_even(x s), -128, 127) with
        s = 127 / max(max|x|, 1e-5), computed as PyTorch does, 127 * (1 / max).
    """
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    s = np.float32(127) * (np.float32(1) / np.maximum(largest, np.float32(1e-5)))
    return np.clip(np.rint(x * s), -128, 127).astype(np.int8), s
