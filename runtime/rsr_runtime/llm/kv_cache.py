"""The KV cache of one sequence."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from .config import Config
from .errors import CacheMemoryError, ModelError

LANES = 16  # positions in a block of keys; rows of values are padded to a multiple of it
DTYPES = {"float32": np.float32, "float16": np.uint16, "int8": np.int8}  # float16 as bits


class Snapshot:
    """The state of a cache at one time; made by `KVCache.snapshot`.

    Attributes:
        length: positions that were filled.
    """

    def __init__(self, length: int) -> None:
        self.length = length


class KVCache:
    """Keys and values of `context` positions in every layer.

    A sequence grows by `append` after a pass has written its positions, and shrinks by `truncate`.
    Positions that are kept never change, so a snapshot is a length: it costs nothing.

    The layout suits attention: keys are (num_key_value_heads, blocks, head_dim, 16), so that one
    load takes a feature of 16 positions; values are (num_key_value_heads, positions, head_dim
    rounded up to 16). In int8, keys and values have a float32 scale for each position of a head.
    All memory is reserved at once; the system provides pages when they are first written.

    Attributes:
        context: number of positions.
        length: positions that are filled.
    """

    def __init__(self, config: Config, context: int, dtype: str) -> None:
        """Reserve the memory.

        Args:
            config: the model's settings.
            context: number of positions.
            dtype: "float16", "float32" or "int8".

        Raises:
            OptionError: `dtype` has another value.
            CacheMemoryError: there is not enough memory.
        """
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise OptionError(f"kv: found {dtype!r}, expected 'float32', 'float16' or 'int8'")
        self.context = context
        self.length = 0
        self._snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()  # that can be restored
        blocks = -(-context // LANES)
        padded = -(-config.head_dim // LANES) * LANES
        heads, positions = config.num_key_value_heads, blocks * LANES
        cells = np.dtype(DTYPES[dtype])
        keys, values = (heads, blocks, config.head_dim, LANES), (heads, positions, padded)
        shapes: list[tuple[tuple[int, ...], npt.DTypeLike]] = [(keys, cells), (values, cells)]
        if dtype == "int8":
            shapes += [((heads, positions), np.float32)] * 2
        try:
            self._layers = [
                tuple(np.zeros(*shape) for shape in shapes) for _ in range(config.num_hidden_layers)
            ]
        except MemoryError:
            raise CacheMemoryError(
                f"there is not enough memory for keys and values of {context:,} positions: "
                "choose a smaller context, or kv int8"
            ) from None

    def append(self, count: int) -> None:
        """Count `count` more positions, which a pass has written, as filled."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions, at most those that are filled.

        Later passes overwrite the others, so snapshots that had them cannot be restored.
        """
        self.length = min(length, self.length)
        for snapshot in list(self._snapshots):
            if snapshot.length > self.length:
                self._snapshots.discard(snapshot)

    def snapshot(self) -> Snapshot:
        """Return the state as it is now, for `restore`."""
        snapshot = Snapshot(self.length)
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
        self.truncate(snapshot.length)

    def copy_prefix(self, source: KVCache, length: int) -> None:
        """Become a copy of the first `length` filled positions of a cache of the same model."""
        self.truncate(0)
        for own, cells in zip(self.prefix(length), source.prefix(length), strict=True):
            own[:] = cells
        self.append(length)

    def prefix(self, length: int) -> list[npt.NDArray[Any]]:
        """Return views of the arrays of all layers, up to the first `length` positions.

        Their second dimension has the positions, or blocks of these.
        """
        blocks = -(-length // LANES)
        return [
            array[:, : blocks if array.ndim == 4 else length]
            for layer in self._layers
            for array in layer
        ]

    def layer(self, i: int) -> tuple[npt.NDArray[Any], ...]:
        """Return the arrays of layer `i`: keys, values and, in int8, the scales of both."""
        return self._layers[i]

    def arrays_at(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return uint8 views of the bytes that attention over `positions` positions reads."""
        reserved = self._layers[0][1].shape[1]
        heads = [
            head.reshape(-1).view(np.uint8)  # contiguous in positions
            for layer in self._layers
            for array in layer
            for head in array
        ]
        return [head[: len(head) * positions // reserved] for head in heads]
