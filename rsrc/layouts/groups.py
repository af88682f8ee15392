"""Groups of columns that have a magnitude of their own in each row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native

Bits = npt.NDArray[np.unsignedinteger[Any]]

_FINEST, _COARSEST = 32, 256  # columns of a group; powers of two between them are tried


class Groups(NamedTuple):
    """What `find_groups` found."""

    columns: int  # of a group; the last may be shorter
    largest: Bits  # (rows, groups): the magnitude bits of all entries but zeros; 0 without any
    negative: bool
    zero: bool
    positive: bool
    negative_zero: bool


def find_groups(panels: Iterable[Bits], shape: tuple[int, ...]) -> Groups | None:
    """Find the widest groups, 32 to 256 columns, in which each row has one magnitude beside zero.

    Args:
        panels: the bit patterns of a float matrix, all its rows in order.
        shape: of the matrix. Groups are narrower than its rows.
    """
    rows, columns = shape
    if columns <= _FINEST:
        return None
    edge = columns // _FINEST * _FINEST
    largest: Bits | None = None
    seen = [False] * 4
    first = 0
    for bits in panels:
        if largest is None:
            largest = np.zeros((rows, -(-columns // _FINEST)), bits.dtype)
        found = largest[first : first + len(bits)]
        for part, to in (
            (bits[:, :edge].reshape(-1, _FINEST), found[:, : edge // _FINEST]),
            (bits[:, edge:], found[:, edge // _FINEST :]),
        ):
            if not to.size:
                continue
            most = np.empty(to.size, bits.dtype)
            several, *now = _native.scan(part, most)
            if several < len(part):
                return None
            seen = [a or b for a, b in zip(seen, now, strict=True)]
            to[:] = most.reshape(to.shape)
        first += len(bits)
    if largest is None:
        return None
    width = _FINEST
    while 2 * width <= _COARSEST and 2 * width < columns:
        wider = _join_pairs(largest)
        if wider is None:
            break
        width, largest = 2 * width, wider
    return Groups(width, largest, *seen)


def _join_pairs(largest: Bits) -> Bits | None:
    """Return the magnitudes of groups twice as wide, or None if two that are joined differ."""
    padded = np.pad(largest, ((0, 0), (0, largest.shape[1] % 2)))
    left, right = padded[:, 0::2], padded[:, 1::2]
    if ((left != right) & (left != 0) & (right != 0)).any():
        return None
    return np.maximum(left, right)
