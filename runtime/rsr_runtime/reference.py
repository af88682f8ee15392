"""RSR and RSR++ in NumPy, to read alongside the paper (arXiv 2411.06360); an oracle for tests.

A is the indexed matrix, (rows, columns); block b covers columns b*k .. b*k + k - 1 and has a
permutation sigma and a segment list L. Bin_k, (B^k, k), lists the patterns: row s holds the values
of the digits of s. Each product has two steps; RSR++ replaces the one that multiplies by Bin_k.

    v . A    step 1: u[s] = sum of v[sigma[i]] over segment s    step 2: u . Bin_k (RSR++: fold)
    A . x    step 1: t = Bin_k . x_block (RSR++: build_tables)   step 2: y[sigma[i]] += t[s]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.packing import Block, block_from_ranks, padding_digit, pattern_values, ranks_of

Array = npt.NDArray[Any]


def preprocess(A: Array, digits: tuple[int, ...], k: int) -> list[Block]:
    """Return the permutation and segment list of every column block (Algorithm 1).

    Args:
        A: (rows, columns), entries among `digits`.
        digits: values of the digits, ascending: (-1, 0, 1), (-1, 1) or (0, 1).
        k: columns in a column block. The last block is padded with 0, or with the first digit if
            0 is not a digit.
    """
    numbers = np.searchsorted(np.array(digits), A).astype(np.uint8)
    ranks = ranks_of(numbers, len(digits), k, padding_digit(digits))
    return [block_from_ranks(r, len(digits) ** k) for r in ranks]


def reduce(
    v: Array, blocks: Sequence[Block], columns: int, digits: tuple[int, ...], k: int, *,
    plus_plus: bool = True,
) -> Array:  # fmt: skip
    """Return v . A, (columns,), in the dtype of v (rows,), by RSR++, or RSR if not `plus_plus`."""
    Bin = pattern_values(digits, k).astype(v.dtype)
    y = np.zeros(len(blocks) * k, v.dtype)
    for b, block in enumerate(blocks):
        u = segmented_sum(v, block)
        y[b * k : (b + 1) * k] = fold(u, digits, k) if plus_plus else u @ Bin
    return y[:columns]


def segmented_sum(v: Array, block: Block) -> Array:
    """Step 1 of v . A: u[s] = sum of v[sigma[i]] for i from L[s] to L[s + 1] - 1 (Algorithm 2)."""
    sums = np.cumsum(v[block.permutation], dtype=v.dtype)
    total: Array = np.concatenate([np.zeros(1, v.dtype), sums])
    u: Array = total[block.segments[1:]] - total[block.segments[:-1]]
    return u


def fold(u: Array, digits: tuple[int, ...], k: int) -> Array:
    """Step 2 of v . A in RSR++: u . Bin_k in O(B^k); each level removes the last digit."""
    values = np.array(digits, u.dtype)
    y = np.zeros(k, u.dtype)
    for j in reversed(range(k)):
        by_digit = u.reshape(-1, len(digits))
        y[j] = by_digit.sum(axis=0) @ values
        u = by_digit.sum(axis=1)
    return y


def expand(
    x: Array, blocks: Sequence[Block], rows: int, digits: tuple[int, ...], k: int, *,
    plus_plus: bool = True,
) -> Array:  # fmt: skip
    """Return A . x, (rows,), in the dtype of x (columns,), by RSR++, or RSR if not `plus_plus`."""
    Bin = pattern_values(digits, k).astype(x.dtype)
    padded = np.zeros(len(blocks) * k, x.dtype)
    padded[: len(x)] = x
    y = np.zeros(rows, x.dtype)
    for block, x_block in zip(blocks, padded.reshape(-1, k), strict=True):
        lengths: Array = np.diff(block.segments.astype(np.int64))
        t: Array = build_tables(x_block, digits) if plus_plus else Bin @ x_block
        y[block.permutation] += np.repeat(t, lengths)
    return y


def build_tables(x: Array, digits: tuple[int, ...]) -> Array:
    """Step 1 of A . x in RSR++: Bin_k . x in O(B^k); each level appends a digit."""
    t = np.zeros(1, x.dtype)
    for value in x:
        t = (t[:, None] + value * np.array(digits, x.dtype)).ravel()
    return t


def quantize_int8(x: Array) -> tuple[Array, Array]:
    """Quantize each row of x, float32 (b, n), as BitNet b1.58 does (arXiv 2402.17764, section 2).

    Returns:
        q, int8 (b, n), and s, float32 (b, 1): q = clip(round_half_even(x s), -128, 127) with
        s = 127 / max(max|x|, 1e-5), computed as PyTorch does, 127 * (1 / max).
    """
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    s = np.float32(127) * (np.float32(1) / np.maximum(largest, np.float32(1e-5)))
    return np.clip(np.rint(x * s), -128, 127).astype(np.int8), s


def quantize_groups_int8(x: Array, columns: int) -> tuple[Array, Array]:
    """Quantize each row of x, float32 (b, n), by groups of columns.

    Returns:
        q, int8 (b, n), and step, float32 (b, groups), of each group: with m its largest magnitude,
        step = m / 127 and q = round_half_even(x (127 / m)), both 0 where m < 2^-119.
    """
    b, n = x.shape
    groups = np.zeros((b, -(-n // columns), columns), np.float32)  # the last one padded
    groups.reshape(b, -1)[:, :n] = x
    m = np.abs(groups).max(axis=2, initial=0)
    m[m < 2.0**-119] = 0
    inverse = np.divide(np.float32(127), m, out=np.zeros_like(m), where=m > 0)
    q = np.rint(groups * inverse[..., None]).astype(np.int8).reshape(b, -1)[:, :n]
    return q, m / np.float32(127)


def delta_net(
    qkv: Array, a: Array, b: Array, convolution: Array, decay: Array, dt_bias: Array,
    kept: Array, state: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Pass rows through a gated delta net (arXiv 2412.06464), row after row, in the dtype of state.

    Each value head has a state S, (dk, dv), which maps keys to values. A row forgets a part of it,
    moves what it returns for the row's key towards the row's value, and reads it with the query.

    Args:
        qkv: (rows, channels), the heads of queries, of keys and of values one after the other.
        a: (rows, value heads).
        b: (rows, value heads).
        convolution: (taps, channels), of the oldest row first.
        decay: (value heads,), negative.
        dt_bias: (value heads,).
        kept: (taps - 1, channels), the last rows of `qkv` before these; zeros at the beginning.
        state: (value heads, dk, dv); zeros at the beginning.

    Returns:
        The outputs, (rows, value heads, dv), and the new `kept` and `state`.
    """
    heads, dk, dv = state.shape
    key_heads = (qkv.shape[1] - heads * dv) // (2 * dk)
    inputs = np.concatenate([kept, qkv]).astype(state.dtype)
    taps = len(convolution)
    sums = sum(convolution[t] * inputs[t : t + len(qkv)] for t in range(taps))
    x = sums / (1 + np.exp(-sums))  # SiLU
    q, k, v = np.split(x, [key_heads * dk, 2 * key_heads * dk], axis=1)
    group = heads // key_heads  # value heads that share a query and a key head
    q, k = (np.repeat(unit_rows(y.reshape(-1, key_heads, dk)), group, axis=1) for y in (q, k))
    v = v.reshape(-1, heads, dv)
    g = np.exp(decay * np.logaddexp(0, a.astype(state.dtype) + dt_bias))  # of softplus
    rate = 1 / (1 + np.exp(-b.astype(state.dtype)))
    S, out = state.copy(), np.empty_like(v)
    for row in range(len(qkv)):
        S *= g[row, :, None, None]
        error = v[row] - np.einsum("hkv,hk->hv", S, k[row])
        S += np.einsum("hk,hv->hkv", k[row], rate[row, :, None] * error)
        out[row] = np.einsum("hkv,hk->hv", S, q[row] / np.sqrt(dk))
    return out, inputs[len(inputs) - taps + 1 :], S


def unit_rows(x: Array) -> Array:
    """Divide the last axis by its L2 norm, sqrt(sum of squares + 1e-6)."""
    y: Array = x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)
    return y
