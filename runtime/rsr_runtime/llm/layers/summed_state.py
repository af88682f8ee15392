"""A state that sums up a sequence, and the copies of it that were made on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .state import LayerState

_MOST_COPIES = 2  # besides a brief one; each is as large as the state

Arrays = tuple[npt.NDArray[Any], ...]


class SummedState(LayerState):
    """Arrays of fixed size, which a pass overwrites: positions cannot be taken back.

    The state is known after the tokens so far, after those of a copy, and before the first token,
    where all arrays are zero. While a pass runs, and if it was interrupted, only copies are known.

    Attributes:
        arrays: the state, which passes change in place.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self._length: int | None = 0  # positions that the arrays sum up; None: a pass changes them
        self._copies: dict[int, Arrays] = {}  # by position; the last was used most recently
        self._brief: tuple[int, Arrays] | None = None

    @property
    def positions(self) -> Sequence[int]:
        """Numbers of positions after which the state is known, ascending."""
        brief = () if self._brief is None else (self._brief[0],)
        own = () if self._length is None else (self._length,)
        return sorted({*own, *self._copies, *brief})

    def kept(self, length: int) -> int:
        """Return the last of `positions` up to `length`, or 0."""
        return max((n for n in self.positions if n <= length), default=0)

    def begin(self) -> None:
        """Note that a pass begins; until `append`, only copies are known."""
        self._length = None

    def append(self, start: int, count: int) -> None:
        """Note that the pass has ended."""
        self._length = start + count

    def keep(self, is_brief: bool) -> None:
        """Copy the arrays; see `LayerState.keep`."""
        if self._length is None:
            return
        if is_brief:
            arrays = self._copied() if self._brief is None else self._brief[1]
            for to, own in zip(arrays, self.arrays, strict=True):
                to[:] = own
            self._brief = self._length, arrays
            return
        self._copies.pop(self._length, None)
        self._copies[self._length] = self._copied()
        for oldest in list(self._copies)[:-_MOST_COPIES]:
            del self._copies[oldest]

    def _copied(self) -> Arrays:
        return tuple(array.copy() for array in self.arrays)

    def truncate(self, length: int) -> None:
        """Go back to a copy, and drop those that are beyond it."""
        if length != self._length:
            self._become(length, self.summed(length))
        self._forget_beyond(length)

    def _forget_beyond(self, length: int) -> None:
        """Drop the copies of more positions: others will follow."""
        self._copies = {n: arrays for n, arrays in self._copies.items() if n <= length}
        if self._brief is not None and self._brief[0] > length:
            self._brief = None

    def summed(self, length: int) -> Arrays:
        """Return the arrays themselves, or those of a copy."""
        if length == self._length:
            return self.arrays
        if length in self._copies:
            self._copies[length] = found = self._copies.pop(length)
            return found
        if self._brief is not None and self._brief[0] == length:
            return self._brief[1]
        return ()

    def _become(self, length: int, arrays: Sequence[npt.NDArray[Any]]) -> None:
        """Take over the arrays that sum up `length` positions; none of them stand for zeros."""
        self._length = None  # in case this is interrupted
        for i, own in enumerate(self.arrays):
            own[:] = arrays[i] if arrays else 0
        self._length = length

    def snapshot(self) -> object:
        """Return the length and a copy.

        Raises:
            ModelError: a pass was interrupted, so that the state is known only before it.
        """
        if self._length is None:
            raise ModelError(
                "a pass was interrupted, so there is no state to return to: call truncate with "
                "the length of the cache, and read the tokens again that it does not keep"
            )
        return self._length, self._copied()

    def restore(self, snapshot: object) -> None:
        """Take over the copy, and drop those that were made after it."""
        assert isinstance(snapshot, tuple)
        length, arrays = snapshot
        self._become(length, arrays)
        self._forget_beyond(length)

    def copy_prefix(self, source: LayerState, length: int) -> None:
        """Take over the arrays of the source."""
        self._become(length, source.summed(length))

    def prefix(self, length: int) -> list[npt.NDArray[Any]]:
        """Return no arrays: none grows with the positions."""
        return []

    def read_at(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return the whole arrays: a token reads all of them, whatever its position."""
        return [array.reshape(-1).view(np.uint8) for array in self.arrays]
