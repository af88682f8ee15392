"""Whether the codes of an I2_S tensor lie in the order that is assumed, as far as they tell.

bitnet.cpp packs codes in blocks of 128 on x86, and, in builds without ACT_PARALLEL, those of four
rows into each byte, under the same type number and with the same size. Every code is legal in both
orders. But the columns of a trained matrix are not alike: some have more zeros than others, and
that in all rows. In the wrong order, rows r, r + 1, r + 2 and r + 3 have each other's columns, and
the likeness is gone. (ARM builds pack blocks of 64. That exchanges the columns of all rows alike,
so it does not show.)
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Shares = npt.NDArray[np.float64]

BLOCK = 128  # weights
_LEAST = 32  # groups of four rows to judge by
_CERTAIN = 0.2  # correlation; of columns that are alike it is 0, give or take 1 / sqrt(columns)


def holds_four_rows_a_byte(codes: Bytes, columns: int) -> bool:
    """Return whether bytes are certainly in the order of four rows together, and not in blocks.

    Args:
        codes: bytes from the beginning of the tensor, (any number,).
        columns: in_features.
    """
    groups = len(codes) // columns if columns else 0
    if groups < _LEAST or columns % BLOCK:
        return False
    codes = codes[: groups * columns]
    planes = [codes >> shift & 3 for shift in (6, 4, 2, 0)]
    together = np.stack([(plane.reshape(groups, columns) == 1).mean(axis=0) for plane in planes])
    blocks = np.stack([plane.reshape(groups, 4, columns // BLOCK, 32) for plane in planes], axis=3)
    apart = (blocks == 1).mean(axis=0).reshape(4, columns)
    likeness = _likeness(together)
    return likeness > _CERTAIN and likeness > 2 * _likeness(apart)


def _likeness(shares: Shares) -> float:
    """Return the mean correlation between the shares of zeros in the columns of four rows."""
    deviations = shares - shares.mean(axis=1, keepdims=True)
    norms = np.sqrt((deviations**2).sum(axis=1))
    if not norms.all():
        return 0.0
    pairs = combinations(deviations / norms[:, None], 2)
    return float(np.mean([a @ b for a, b in pairs]))
