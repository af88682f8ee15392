"""The KV cache of one sequence."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from .config import Config
from .errors import ModelError

LANES = 16  # positions in a block of keys; rows of values are padded to a multiple of it
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.uint16)}  # float16 as bits


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
    rounded up to 16). All memory is reserved at once; the system provides pages when they are
    first written.

    Attributes:
        context: number of positions.
        length: positions that are filled.
    """

    def __init__(self, config: Config, context: int, dtype: str) -> None:
        """Reserve the memory.

        Args:
            config: the model's settings.
            context: number of positions.
            dtype: "float16" or "float32".

        Raises:
            OptionError: `dtype` has another value, or there is not enough memory.
        """
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise OptionError(f"kv: found {dtype!r}, expected 'float32' or 'float16'")
        self.context = context
        self.length = 0
        self._snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()  # that can be restored
        blocks = -(-context // LANES)
        padded = -(-config.head_dim // LANES) * LANES
        keys = config.num_key_value_heads, blocks, config.head_dim, LANES
        values = config.num_key_value_heads, blocks * LANES, padded
        layers = range(config.num_hidden_layers)
        try:
            self._keys = [np.zeros(keys, DTYPES[dtype]) for _ in layers]
            self._values = [np.zeros(values, DTYPES[dtype]) for _ in layers]
        except MemoryError:
            raise OptionError(
                f"there is not enough memory for keys and values of {context:,} positions: "
                "choose a smaller context, or kv float16"
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
        blocks = -(-length // LANES)
        for own, other in zip(self._keys, source._keys, strict=True):
            own[:, :blocks] = other[:, :blocks]
        for own, other in zip(self._values, source._values, strict=True):
            own[:, :length] = other[:, :length]
        self.append(length)

    def layer(self, i: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the keys and values of layer `i`."""
        return self._keys[i], self._values[i]

    def arrays_at(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return uint8 views of the bytes that attention over `positions` positions reads."""
        reserved = self._values[0].shape[1]
        heads = [
            head.reshape(-1).view(np.uint8)  # contiguous in positions
            for layer in zip(self._keys, self._values, strict=True)
            for array in layer
            for head in array
        ]
        return [head[: len(head) * positions // reserved] for head in heads]
