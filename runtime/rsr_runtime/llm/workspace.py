"""Buffers of a decoder, kept from token to token: fresh memory costs more than what fills it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


class Workspace:
    """Arrays by name. One name is one memory, whatever the shape asked for."""

    def __init__(self) -> None:
        self._buffers: dict[str, npt.NDArray[np.uint8]] = {}
        self._taken: dict[tuple[Any, ...], npt.NDArray[Any]] = {}

    def take(self, name: str, *shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Return an array of that shape, not cleared; what the name held before is lost."""
        key = (name, shape, dtype)
        array = self._taken.get(key)
        if array is None:
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            buffer = self._buffers.get(name)
            if buffer is None or buffer.nbytes < nbytes:
                buffer = self._buffers[name] = np.empty(nbytes, np.uint8)
                self._taken = {k: v for k, v in self._taken.items() if k[0] != name}
            array = self._taken[key] = buffer[:nbytes].view(dtype).reshape(shape)
        return array
