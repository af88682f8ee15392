"""Which weights share a scale: the grid that every layout's scales are brought to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ScaleGrid:
    """Multipliers of a matrix: values[r // rows, c // columns] is that of row r and column c."""

    values: npt.NDArray[np.float32]  # (row blocks, column groups)
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


def per_row(scales: npt.NDArray[np.float32]) -> ScaleGrid:
    """Return the grid of one scale for each row; `scales` is (rows,)."""
    return ScaleGrid(scales.reshape(-1, 1), 1)
