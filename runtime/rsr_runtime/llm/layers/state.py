"""What a mixer remembers of one sequence from token to token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class LayerState(ABC):
    """The state of one layer of one sequence; `KVCache` holds one for each layer.

    The cache counts positions and calls all its layers alike. A state is known at every position
    if its mixer keeps something of each (attention), or only at some if it sums them up.
    """

    def begin(self) -> None:  # noqa: B027
        """Note that a pass begins to change the state, which `append` follows if it ends."""

    def append(self, start: int, count: int) -> None:  # noqa: B027
        """Note that a pass has added `count` positions after the first `start`."""

    def keep(self, is_brief: bool) -> None:  # noqa: B027
        """Copy the state as it is now, unless every position is known anyway.

        A state keeps a few copies; a brief one replaces the brief one before.
        """

    def summed(self, length: int) -> Sequence[npt.NDArray[Any]]:
        """Return the arrays that sum up the first `length` positions; none if nothing sums up."""
        return ()

    def truncate(self, length: int) -> None:  # noqa: B027
        """Go back to the state after `length` positions, a number that `KVCache.kept` returned."""

    def snapshot(self) -> object:
        """Return what `restore` needs besides the positions themselves."""
        return None

    def restore(self, snapshot: object) -> None:  # noqa: B027
        """Go back to the state that `snapshot` returned; its positions are there still."""

    @abstractmethod
    def copy_prefix(self, source: LayerState, length: int) -> None:
        """Become the state of `source`, of the same layer, after `length` positions.

        `length` is a number that `kept` of the source's cache returned.
        """

    @abstractmethod
    def prefix(self, length: int) -> list[npt.NDArray[Any]]:
        """Return views of the arrays that hold the first `length` positions."""

    @abstractmethod
    def read_at(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return uint8 views of the bytes that a token reads after that many positions."""
