"""Which weights share a scale: the grid that the scales of every layout become."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import _native
from ..common.errors import OptionError, SourceError
from ..source.tensor import SourceTensor
from .float_bits import to_float32

Scales = npt.NDArray[np.float32]
Per = Literal["tensor", "row"] | int  # what shares a scale; int: that many columns of a row

GROUPS = (32, 64, 128, 256)  # columns of a group in published checkpoints
SHARDS = 64  # the most equal parts of rows or columns to try: shards of model-parallel training


class ScaleGrid:
    """The scales of a matrix: values[r // rows, c // columns] multiplies weight [r, c].

    Grids of all tensors are in memory at once, so values that float16 can hold are stored so:
    0.4 GB for 27 billion weights with groups of 128 columns.

    Attributes:
        rows: of a row block; at least 1.
        columns: of a column group; None: one group has all columns.
        stored: the scales, (row blocks, column groups), in float16 if that is exact, else float32.
    """

    def __init__(self, values: Scales, rows: int, columns: int | None = None) -> None:
        """Hold scales, (row blocks, column groups)."""
        self.rows = rows
        self.columns = columns
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        self.stored: npt.NDArray[Any] = half if np.array_equal(half, values) else values

    @property
    def values(self) -> Scales:
        """The scales, (row blocks, column groups)."""
        return _widened(self.stored)

    @property
    def words(self) -> str:
        """What shares a scale, for reports: "per row and 128 columns"."""
        if self.stored.size == 1:
            return "per tensor"
        rows = "row" if self.rows == 1 else f"{self.rows:,} rows"
        if self.columns is None:
            return f"per {rows}"
        if len(self.stored) == 1 and self.rows > 1:
            return f"per {self.columns:,} columns"
        return f"per {rows} and {self.columns:,} columns"

    def window(self, rows: slice, columns: slice) -> Scales:
        """Return the scale of each weight in a window of the matrix.

        Args:
            rows: rows of the window, with start and stop.
            columns: columns of the window, with start and stop.

        Returns:
            float32 that broadcasts to (rows, columns): 1 long along an axis that shares a scale.
        """
        stored = self.stored
        if self.rows == 1:
            stored = stored[rows]
        elif len(stored) > 1:
            stored = stored[np.arange(rows.start, rows.stop) // self.rows]
        if self.columns is None:
            return _widened(stored)
        first = columns.start // self.columns
        stored = stored[:, first : -(-columns.stop // self.columns)]
        skipped = first * self.columns
        wide = np.repeat(_widened(stored), self.columns, axis=1)
        return wide[:, columns.start - skipped : columns.stop - skipped]


def _widened(stored: npt.NDArray[Any]) -> Scales:
    values: Scales = stored.astype(np.float32) if stored.dtype == np.float16 else stored
    return values


def per_tensor(scale: np.float32 | float, rows: int) -> ScaleGrid:
    """Return the grid of one scale for a matrix of `rows` rows."""
    return ScaleGrid(np.full((1, 1), scale, np.float32), max(1, rows))


def per_row(scales: Scales) -> ScaleGrid:
    """Return the grid of one scale per row; `scales` has one entry per row."""
    return ScaleGrid(scales.reshape(-1, 1), 1)


def finite_values(tensor: SourceTensor) -> Scales:
    """Read a float tensor of scales or biases as float32, in its shape.

    Raises:
        SourceError: a value is NaN or infinite.
    """
    values = to_float32(tensor.read(), tensor.dtype).reshape(tensor.shape)
    if not np.isfinite(values).all():
        at = tuple(np.argwhere(~np.isfinite(values))[0])
        raise SourceError(
            f"{tensor.name}: {values[at]} at {[*map(int, at)]}, expected finite numbers. The file "
            "is damaged; --exclude the weight to keep it as it is"
        )
    return values


def parse_per(text: str) -> Per:
    """Parse the value of `--per`.

    Raises:
        OptionError: it is not "tensor", "row" or "group:N" with N at least 1.
    """
    if text == "tensor":
        return "tensor"
    if text == "row":
        return "row"
    kind, _, columns = text.partition(":")
    is_number = columns.isascii() and columns.isdecimal() and len(columns) < 10
    if kind == "group" and is_number and int(columns):
        return int(columns)
    raise OptionError(
        f"per: found {text[:64]!r}, expected tensor, row or group:N with N columns, 1 or more"
    )


def group_columns(columns: int, groups: int) -> int | None:
    """Return the width of a group where a row of `columns` columns has `groups` scales.

    It is 32, 64, 128 or 256, where the last group may be narrower, or else an equal part of the
    columns; None if neither fits. At most one of the four widths gives a number of groups above 1.
    """
    if groups > 1:
        for width in GROUPS:
            if -(-columns // width) == groups:
                return width
    return None if groups < 1 or columns % groups else columns // groups


def coarsest_grid(scales: Scales, rows: int, columns: int, shape: tuple[int, int]) -> ScaleGrid:
    """Return the grid with the fewest scales that gives every weight the scale of a finer grid.

    Heights tried for a cell are the finer grid's, all rows, 1/2 to 1/64 of them (the shards of
    model-parallel training), 32, 64, 128 and 256, wherever that is a multiple of `rows`. Widths are
    tried likewise. Of two grids with equally many scales, the one with fewer column groups wins.

    Args:
        scales: (row blocks, column groups), finite, of either sign. 0 marks a cell without a
            nonzero weight: it takes the scale of the cells that it is joined with.
        rows: rows of a row block; the last block may have fewer.
        columns: columns of a group, at most those of the matrix; the last group may have fewer.
        shape: of the matrix.
    """
    if not scales.size or 0 in shape:
        return per_tensor(0, shape[0])

    @cache
    def joined_columns(width: int) -> Scales | None:
        return _join(scales, 1, -(-width // columns))

    def cost(cell: tuple[int, int]) -> tuple[int, int]:
        groups = -(-shape[1] // cell[1])
        return -(-shape[0] // cell[0]) * groups, groups

    cells = product(_candidates(rows, shape[0]), _candidates(columns, shape[1]))
    for height, width in sorted(cells, key=cost):
        if (wide := joined_columns(width)) is not None:
            joined = _join(wide, -(-height // rows), 1)
            if joined is not None:
                return ScaleGrid(joined, height, width if width < shape[1] else None)
    raise AssertionError("the finest grid equals itself")


def _candidates(unit: int, whole: int) -> list[int]:
    """Return the heights (or widths) to try for a cell: multiples of `unit`, and `whole`."""
    tried = {unit, *GROUPS, *(whole // n for n in range(1, SHARDS + 1) if whole % n == 0)}
    return sorted(s for s in tried if s == whole or (s < whole and s % unit == 0))


def _join(scales: Scales, height: int, width: int) -> Scales | None:
    """Join cells of height x width scales into one each; None if one holds two nonzero scales."""
    joined = np.zeros((-(-len(scales) // height), -(-scales.shape[1] // width)), np.float32)
    return joined if _native.join(scales, height, width, joined) else None
