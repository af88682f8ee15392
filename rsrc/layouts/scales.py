"""Which weights share a scale: the grid that every layout's scales are brought to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from .. import _native

Scales = npt.NDArray[np.float32]

GROUPS = (32, 64, 128, 256)  # weights that quantizers give a scale together
SHARDS = 64  # most equal parts of the rows, or of the columns, that are tried


@dataclass(frozen=True)
class ScaleGrid:
    """Multipliers of a matrix: values[r // rows, c // columns] is that of row r and column c."""

    values: Scales  # (row blocks, column groups)
    rows: int  # that share a scale; at least 1
    columns: int | None = None  # that share a scale; None: all

    @property
    def words(self) -> str:
        """What shares a scale, in words."""
        if self.values.size == 1:
            return "per tensor"
        rows = "row" if self.rows == 1 else f"{self.rows:,} rows"
        if self.columns is None:
            return f"per {rows}"
        if len(self.values) == 1 and self.rows > 1:
            return f"per {self.columns:,} columns"
        return f"per {rows} and {self.columns:,} columns"


def per_tensor(scale: np.float32 | float, rows: int) -> ScaleGrid:
    """Return the grid of one scale for a matrix of `rows` rows."""
    return ScaleGrid(np.full((1, 1), scale, np.float32), max(1, rows))


def per_row(scales: Scales) -> ScaleGrid:
    """Return the grid of one scale for each row; `scales` is (rows,)."""
    return ScaleGrid(scales.reshape(-1, 1), 1)


def group_columns(columns: int, groups: int) -> int | None:
    """Return the columns of a group where that many of a row have a scale each, or None: unknown.

    32, 64, 128 or 256, of which the last group may have fewer; else equal parts. At most one of
    the four makes so many groups, if they are several.
    """
    if groups > 1:
        for width in GROUPS:
            if -(-columns // width) == groups:
                return width
    return None if groups < 1 or columns % groups else columns // groups


def coarsest(scales: Scales, rows: int, columns: int, shape: tuple[int, int]) -> ScaleGrid:
    """Return the grid with the fewest scales that says the same as a finer one.

    A cell of the grid has all rows, an equal part of them (2 to 64 parts: the shards of
    model-parallel training), 32, 64, 128 or 256 of them, or `rows`, wherever that is a multiple of
    `rows`; and of the columns likewise. Of two grids with as many scales, the one with fewer
    groups of columns is taken.

    Args:
        scales: (row blocks, column groups), finite, of either sign. 0 is for cells without a
            weight that is not zero: they take the scale of those they are joined with.
        rows: rows of a row block; the last may have fewer.
        columns: columns of a group, at most those of the matrix; the last may have fewer.
        shape: of the matrix.
    """
    if not scales.size or 0 in shape:
        return per_tensor(0, shape[0])

    @cache
    def across(width: int) -> Scales | None:
        """Return the scales of cells as wide as this and no higher than before."""
        return _join(scales, 1, -(-width // columns))

    def cost(cell: tuple[int, int]) -> tuple[int, int]:
        groups = -(-shape[1] // cell[1])
        return -(-shape[0] // cell[0]) * groups, groups

    cells = product(_spans(rows, shape[0]), _spans(columns, shape[1]))
    for height, width in sorted(cells, key=cost):
        if (wide := across(width)) is not None:
            joined = _join(wide, -(-height // rows), 1)
            if joined is not None:
                return ScaleGrid(joined, height, width if width < shape[1] else None)
    raise AssertionError("the finest grid says the same as itself")


def _spans(unit: int, whole: int) -> list[int]:
    """Return the numbers of rows, or columns, that a cell may have: multiples of `unit`, or all."""
    tried = {unit, *GROUPS, *(whole // n for n in range(1, SHARDS + 1) if whole % n == 0)}
    return sorted(s for s in tried if s == whole or (s < whole and s % unit == 0))


def _join(scales: Scales, height: int, width: int) -> Scales | None:
    """Return the scales of cells of so many finer ones, or None where two in one cell differ."""
    joined = np.zeros((-(-len(scales) // height), -(-scales.shape[1] // width)), np.float32)
    return joined if _native.join(scales, height, width, joined) else None
