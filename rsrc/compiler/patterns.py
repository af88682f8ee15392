"""List the patterns of matrices in which few occur, so that column blocks can be wider.

A rank has five bits, which suffice for all patterns of three ternary columns. In a 3:4-sparse
matrix (Sherry: exactly one zero in every four weights) only 32 patterns of four columns occur. With
these listed, a rank covers four columns: 1.33 bits per weight instead of 1.78. The four columns
need not be neighbors; in STQ1_0, the GGUF type of such matrices, they are 16 apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rsr_formats.packing import pattern_digits
from rsr_formats.records import MAX_RANKED_PATTERNS

from .. import _native
from ..common.arrays import ByteArray
from ..common.errors import OptionError
from ..layouts import TernaryTensor
from .plan import LISTED_K, IndexPlan

_STRIDES = (1, 16)
_MIN_WEIGHTS = 4096  # with fewer, the list takes more bytes than it saves
_FIRST = 1 << 13  # digits of the first window; most matrices show more than 32 patterns in it
_PANEL = 1 << 20  # digits of the following windows


def list_patterns(p: IndexPlan, raw: ByteArray) -> IndexPlan:
    """Return the plan with the patterns that occur listed, or `p` if too many occur.

    Args:
        p: the plan of the tensor.
        raw: all bytes of the source tensor, uint8 (nbytes,).

    Raises:
        OptionError: the plan's k requires a list, but too many patterns occur.
    """
    if not p.lists:
        return p
    t = p.source
    if p.k == LISTED_K or t.shape[0] * t.shape[1] >= _MIN_WEIGHTS:
        for stride in _STRIDES:
            listed = _occurring(t, raw, stride)
            if listed is not None:
                return replace(p, k=LISTED_K, packing="w16", pattern_list=listed, stride=stride)
    if p.k == LISTED_K:
        raise OptionError(
            f"{t.name}: k = {p.k}, expected 1 to {LISTED_K - 1} for base 3 in encoding ranked: it "
            f"has more than {MAX_RANKED_PATTERNS} patterns of {p.k} columns"
        )
    return p


def _occurring(t: TernaryTensor, raw: ByteArray, stride: int) -> bytes | None:
    """Return the numbers of the patterns of columns `stride` apart; None if too many occur."""
    run = LISTED_K * stride
    if not t.shape[0] or not t.shape[1] or t.shape[1] % run or (t.group_columns or 0) % run:
        return None
    seen = np.zeros(256, np.uint8)
    for rows, columns in _windows(t.shape, run):
        try:
            digits = t.layout.digits(raw, t, rows, columns)
            _native.mark_patterns(digits, len(t.digits), LISTED_K, stride, seen)
        except ValueError:  # an invalid code; the encoder reports it
            return None
        if np.count_nonzero(seen) > MAX_RANKED_PATTERNS:
            return None
    return pattern_digits(len(t.digits), LISTED_K)[np.flatnonzero(seen)].tobytes()


def _windows(shape: tuple[int, int], run: int) -> Iterator[tuple[slice, slice]]:
    """Divide a matrix into windows of whole runs of columns: small ones first."""
    out_features, in_features = shape
    width = min(in_features, _PANEL // run * run)
    row = 0
    while row < out_features:
        size = _PANEL if row else _FIRST
        rows = slice(row, min(row + max(1, size // width), out_features))
        for c in range(0, in_features, width):
            yield rows, slice(c, min(c + width, in_features))
        row = rows.stop
