"""What modules for PyTorch have in common whose weights are in a `.rsr` file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..matrix import Matrix
from .errors import DeviceError
from .handles import handle_of


class MatrixModule(torch.nn.Module):  # type: ignore[misc]
    """A module that computes with a matrix of a `.rsr` file, on the CPU.

    Copies share the mapped file. Pickles hold its path, so that another process maps the file
    itself. State dicts do not have the matrix.

    Attributes:
        matrix: fixed.
        weight: its index, uint8 (bytes,): a view of the mapped file, which must not be written.
        handle: its number, for operators.
    """

    def _take(self, matrix: Matrix) -> None:
        # Plain attributes, as whatever converts, moves or saves parameters and buffers would copy
        # the index out of the mapped file.
        self.matrix = matrix
        self.weight = _view(matrix)
        self.handle = handle_of(matrix)

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> MatrixModule:
        device = fn(torch.empty(0, device="cpu")).device
        if device.type != "cpu":
            raise DeviceError(
                f"{self.matrix.name!r} cannot move to {device}: an {type(self).__name__} computes "
                "on the CPU, straight from the mapped .rsr file"
            )
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if f"{prefix}weight" in state_dict:
            error_msgs.append(
                f"{prefix}weight cannot be loaded: the weights of this module are those of "
                f"{self.matrix.name!r} in its .rsr file; remove it from the state dict"
            )

    def __getstate__(self) -> dict[str, Any]:
        self.matrix.check_open()
        return {k: v for k, v in self.__dict__.items() if k not in ("weight", "handle")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._take(self.matrix)

    def __deepcopy__(self, memo: dict[int, Any]) -> MatrixModule:
        memo[id(self.matrix)] = self.matrix  # never changes, so that copies share it
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied


def _view(matrix: Matrix) -> torch.Tensor:
    """Return the index of a matrix as uint8 (bytes,), without copying it."""
    index = matrix.arrays[0].reshape(-1).view(np.uint8)
    with warnings.catch_warnings():
        # PyTorch has no tensors that are read-only, and says so.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(index)
