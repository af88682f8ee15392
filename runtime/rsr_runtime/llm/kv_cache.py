"""The KV cache of one sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from .config import Config

LANES = 16  # positions in a block of keys; rows of values are padded to a multiple of it
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.uint16)}  # float16 as bits


class KVCache:
    """Keys and values of `context` positions in every layer.

    The layout suits attention: keys are (num_key_value_heads, blocks, head_dim, 16), so that one
    load takes a feature of 16 positions; values are (num_key_value_heads, positions, head_dim
    rounded up to 16). All memory is reserved at once; the system provides pages when they are
    first written.

    Attributes:
        context: number of positions.
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
