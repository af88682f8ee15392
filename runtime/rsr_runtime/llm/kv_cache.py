"""What the layers of a decoder remember of one sequence."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.pages import available_memory
from rsr_formats.text import size

from ..errors import OptionError
from .config import Config
from .errors import CacheMemoryError, ModelError
from .layers.attention import DTYPES
from .layers.layer import state
from .layers.state import LayerState
from .layers.summed_state import SummedState

_PIECE = 1 << 20  # bytes of positions; memory is asked for that many at a time
_RESERVE = 64 << 20  # bytes that other work needs; a smaller cache leaves as many as it has itself


class Snapshot:
    """The state of a cache at one time; made by `KVCache.snapshot`.

    Attributes:
        length: positions that were filled.
        parts: what each layer needs besides.
    """

    def __init__(self, length: int, parts: Sequence[object]) -> None:
        self.length = length
        self.parts = parts


class KVCache:
    """The states of all layers of one sequence of up to `context` positions.

    A sequence grows by `append` after a pass has written its positions, and shrinks by `truncate`,
    as far as its layers know what was there before (`kept`).

    The system provides memory as positions are written, and ends the process if there is none, so
    `check_room` asks before that.

    Attributes:
        context: number of positions.
        length: positions that are filled.
        states: of the layers, in the order of a pass.
    """

    def __init__(self, config: Config, context: int, dtype: str) -> None:
        """Reserve the memory.

        Args:
            config: the model's settings.
            context: number of positions.
            dtype: of keys and values: "float16", "float32" or "int8".

        Raises:
            OptionError: `dtype` has another value.
            CacheMemoryError: there is not enough memory.
        """
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise OptionError(f"kv: found {dtype!r}, expected 'float32', 'float16' or 'int8'")
        self.context = context
        self.length = 0
        self._or_int8 = "" if dtype == "int8" else ", or kv int8"
        self._snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()  # that can be restored
        self._planned: set[int] = set()  # positions at which `append` is to copy the state
        try:
            self.states: tuple[LayerState, ...] = tuple(
                state(config, config.layer(number), context, dtype)
                for number in config.layers_of_a_pass
            )
        except MemoryError:
            raise CacheMemoryError(
                f"there is not enough memory for keys and values of {context:,} positions: "
                f"choose a smaller context{self._or_int8}"
            ) from None
        everything = sum(array.nbytes for array in self.prefix(context))
        self._position_bytes = everything // context  # 0 if nothing grows with the positions
        self._reserve = min(everything, _RESERVE)
        self._roomy = 0  # positions that there was memory for
        # Layers with a summed state are copied at the same positions, so the first one tells.
        self._summed = next((one for one in self.states if isinstance(one, SummedState)), None)

    @property
    def position_bytes(self) -> int:
        """Bytes of a position."""
        return self._position_bytes

    def has_room(self, positions: int) -> bool:
        """Return whether memory holds the first `positions` positions; once it did, it does."""
        positions = min(positions, self.context)
        if positions <= self._roomy or not self._position_bytes:
            return True
        at_least = self._roomy + max(1, _PIECE // self._position_bytes)
        wanted = min(max(positions, at_least), self.context)
        nbytes = (wanted - self._roomy) * self._position_bytes
        available = available_memory()
        if available is not None and nbytes + self._reserve > available.nbytes:
            return False
        self._roomy = wanted
        return True

    def check_room(self, positions: int) -> None:
        """Check that memory holds the first `positions` positions, before they are written.

        Raises:
            CacheMemoryError: it does not.
        """
        if not self.has_room(positions):
            nbytes = (positions - self._roomy) * self._position_bytes
            raise CacheMemoryError(
                f"keys and values of {positions:,} positions need {size(nbytes)} more, and other "
                f"work {size(self._reserve)}, but {available_memory()}: "
                f"choose a shorter text{self._or_int8}"
            )

    def begin(self, count: int) -> None:
        """Note that a pass over `count` tokens begins, which `append` follows if it ends.

        A pass over several can be taken back: it may be a draft, or be interrupted after long work.
        """
        if count > 1 and self.length:
            self._keep(is_brief=True)
        for one in self.states:
            one.begin()

    def append(self, count: int) -> None:
        """Count `count` more positions, which a pass has written, as filled."""
        for one in self.states:
            one.append(self.length, count)
        self.length += count
        if self.length in self._planned:
            self._planned.discard(self.length)
            self._keep(is_brief=False)

    def _keep(self, is_brief: bool) -> None:
        """Copy what sums up the positions so far, so that `truncate` can come back to them."""
        if self._summed is not None:
            for one in self.states:
                one.keep(is_brief)

    def plan(self, position: int) -> None:
        """Let `truncate` come back to `position` positions, once a pass ends there.

        See `until_planned`. States of which every position is known need no plan.
        """
        if self._summed is not None and position > self.length:
            self._planned.add(position)

    def until_planned(self, count: int) -> int:
        """Return how many of `count` further positions a pass may add: up to a planned one."""
        if not self._planned:
            return count
        return min([count, *(n - self.length for n in self._planned if n > self.length)])

    @property
    def positions(self) -> Sequence[int] | None:
        """Numbers of positions that `kept` may return, ascending; None: all."""
        return None if self._summed is None else self._summed.positions

    def kept(self, length: int) -> int:
        """Return the most positions, at most `length`, that `truncate` can keep."""
        length = min(length, self.length)
        return length if self._summed is None else self._summed.kept(length)

    def truncate(self, length: int) -> int:
        """Keep the first `length` positions, or fewer if only these are known.

        Later passes overwrite the others, so snapshots that had them cannot be restored.

        Returns:
            How many are kept: what `kept` returns.
        """
        self._shrink(self.kept(length))
        for one in self.states:
            one.truncate(self.length)
        return self.length

    def _shrink(self, length: int) -> None:
        if length < self.length:
            self._planned.clear()  # of a sequence that went on otherwise
        self.length = length
        for snapshot in list(self._snapshots):
            if snapshot.length > self.length:
                self._snapshots.discard(snapshot)

    def snapshot(self) -> Snapshot:
        """Return the state as it is now, for `restore`.

        Raises:
            ModelError: a pass was interrupted, and not all layers know the state.
        """
        snapshot = Snapshot(self.length, [one.snapshot() for one in self.states])
        self._snapshots.add(snapshot)
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state that is part of the sequence.

        Raises:
            ModelError: the cache was truncated to fewer positions meanwhile, or the snapshot is of
                another cache.
        """
        if snapshot not in self._snapshots:
            raise ModelError(
                f"the snapshot of {snapshot.length:,} positions is of another cache, or its "
                "positions were truncated: read the tokens again"
            )
        self._shrink(snapshot.length)
        for one, part in zip(self.states, snapshot.parts, strict=True):
            one.restore(part)

    def copy_prefix(self, source: KVCache, length: int) -> None:
        """Become a copy of the first `length` positions of a cache of the same model.

        `length` is a number that the source's `kept` returned.
        """
        self.truncate(0)
        for own, other in zip(self.states, source.states, strict=True):
            own.copy_prefix(other, length)
        self.length = length

    def summed(self, position: int) -> list[npt.NDArray[Any]]:
        """Return the arrays of all layers that sum up a number of positions, one of `positions`.

        Of an empty cache, after 0 positions, they may be filled before `append`.
        """
        return [array for one in self.states for array in one.summed(position)]

    def prefix(self, length: int) -> list[npt.NDArray[Any]]:
        """Return views of the arrays of all layers, up to the first `length` positions.

        Their second dimension has the positions, or blocks of these.
        """
        return [array for one in self.states for array in one.prefix(length)]

    def arrays_at(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return uint8 views of the bytes that a token reads after `positions` positions."""
        return [array for one in self.states for array in one.read_at(positions)]
