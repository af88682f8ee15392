"""Detect the order of the codes in an I2_S tensor from the codes themselves.

bitnet.cpp packs codes in blocks of 128 on x86. Builds without ACT_PARALLEL pack codes of four rows
into each byte instead, with the same type number and the same size, and every code is valid in both
orders. But the columns of a trained matrix differ: some have more zeros than others, in all rows.
This correlation between rows shows only if the codes are decoded in the right order. (ARM builds
pack blocks of 64. That permutes the columns of all rows alike, so it cannot be detected.)
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from ...common.arrays import ByteArray

Shares = npt.NDArray[np.float64]

BLOCK = 128  # weights
_MIN_GROUPS = 32  # of four rows, for a reliable correlation
_CERTAIN = 0.2  # correlation; if all columns are alike, it is 0 +- 1 / sqrt(columns)


def holds_four_rows_a_byte(codes: ByteArray, columns: int) -> bool:
    """Return whether each byte certainly holds codes of four rows, rather than of one block.

    Args:
        codes: bytes from the start of the tensor, uint8 (n,), any n.
        columns: in_features.
    """
    groups = len(codes) // columns if columns else 0
    if groups < _MIN_GROUPS or columns % BLOCK:
        return False
    codes = codes[: groups * columns]
    planes = [codes >> shift & 3 for shift in (6, 4, 2, 0)]
    together = np.stack([(plane.reshape(groups, columns) == 1).mean(axis=0) for plane in planes])
    blocks = np.stack([plane.reshape(groups, 4, columns // BLOCK, 32) for plane in planes], axis=3)
    apart = (blocks == 1).mean(axis=0).reshape(4, columns)
    correlation = _correlation(together)
    return correlation > _CERTAIN and correlation > 2 * _correlation(apart)


def _correlation(shares: Shares) -> float:
    """Return the mean correlation between four rows of `shares`, (4, columns): zeros per column."""
    deviations = shares - shares.mean(axis=1, keepdims=True)
    norms = np.sqrt((deviations**2).sum(axis=1))
    if not norms.all():
        return 0.0
    pairs = combinations(deviations / norms[:, None], 2)
    return float(np.mean([a @ b for a, b in pairs]))
