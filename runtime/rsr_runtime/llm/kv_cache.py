"""Keys and values of one sequence, kept so that a token looks back without computing them again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from .config import Config

LANES = 16  # positions of a block of keys; features of a row of values are a multiple of it
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.uint16)}  # float16 as its bits


class KVCache:
    """Memory for the keys and values of `context` positions in every layer.

    It is laid out for attention: keys (kv_heads, blocks, head_dim, 16), so that one load takes a
    feature of 16 positions, values (kv_heads, positions, head_dim rounded up to 16). It is reserved
    at once, and the system gives pages when they are first written.
    """

    def __init__(self, config: Config, context: int, dtype: str) -> None:
        """Reserve it.

        Raises:
            OptionError: another dtype than "float32" or "float16", or more memory than there is.
        """
        if dtype not in DTYPES:
            raise OptionError(f"kv: found {dtype!r}, expected 'float32' or 'float16'")
        blocks = -(-context // LANES)
        padded = -(-config.head_dim // LANES) * LANES
        keys = config.kv_heads, blocks, config.head_dim, LANES
        values = config.kv_heads, blocks * LANES, padded
        try:
            self._keys = [np.zeros(keys, DTYPES[dtype]) for _ in range(config.layers)]
            self._values = [np.zeros(values, DTYPES[dtype]) for _ in range(config.layers)]
        except MemoryError:
            raise OptionError(
                f"there is no memory for keys and values of {context:,} positions: "
                "choose a smaller context, or kv float16"
            ) from None

    def layer(self, i: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return keys and values of layer `i`."""
        return self._keys[i], self._values[i]

    def bytes_at(self, positions: int) -> int:
        """Return the bytes that attention reads when that many positions are kept."""
        nbytes: int = sum(array.nbytes for array in self._keys + self._values)
        reserved: int = self._values[0].shape[1]  # positions
        return nbytes * positions // reserved

    def arrays_at(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return views of the bytes that attention reads when that many positions are kept."""
        reserved = self._values[0].shape[1]
        heads = [
            head.reshape(-1).view(np.uint8)  # positions follow each other
            for layer in zip(self._keys, self._values, strict=True)
            for array in layer
            for head in array
        ]
        return [head[: len(head) * positions // reserved] for head in heads]
