"""One pass over a float matrix whose rows, or groups of columns in them, have one magnitude."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native

Bits = npt.NDArray[np.unsignedinteger[Any]]


class Scan(NamedTuple):
    """What `scan_groups` found in the rows that it looked at."""

    largest: Bits  # (rows, groups): the magnitude bits of all entries but zeros; 0 without any
    several: int | None  # the row that ended the scan: a group in it has several magnitudes
    negative: bool
    zero: bool
    positive: bool
    negative_zero: bool


def scan_groups(panels: Iterable[Bits], shape: tuple[int, ...], columns: int) -> Scan:
    """Find the magnitude of every group of columns in every row, up to a group with several.

    Args:
        panels: the bit patterns of a float matrix that is not empty, all its rows in order.
        shape: of the matrix.
        columns: of a group; the last may have fewer.
    """
    whole, rest = divmod(shape[1], columns)
    largest: Bits | None = None
    seen = [False] * 4
    first = 0
    for bits in panels:
        if largest is None:
            largest = np.zeros((shape[0], whole + (rest != 0)), bits.dtype)
        found = largest[first : first + len(bits)]
        edge = whole * columns
        parts = [(bits[:, :edge].reshape(-1, columns), found[:, :whole])]
        if rest:
            parts.append((bits[:, edge:], found[:, whole:]))
        for part, to in parts:
            most = np.zeros(len(part), bits.dtype)
            several, *now = _native.scan(part, most)
            to[:] = most.reshape(to.shape)
            if several < len(part):
                row = first + several // to.shape[1]
                return Scan(largest[: row + 1], row, *seen)
            seen = [a or b for a, b in zip(seen, now, strict=True)]
        first += len(bits)
    assert largest is not None
    return Scan(largest, None, *seen)
