"""Matrices as numbers, which operators can take as tensors."""

from __future__ import annotations

import itertools
import threading
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from ..errors import ClosedError
from ..matrix import Matrix

_numbers = itertools.count(1)  # never used again, so that no handle names another matrix later
_number_of: WeakKeyDictionary[Matrix, int] = WeakKeyDictionary()
_matrices: WeakValueDictionary[int, Matrix] = WeakValueDictionary()
_lock = threading.Lock()


def handle_of(matrix: Matrix) -> torch.Tensor:
    """Return the number of a matrix in this process, int64 (). It does not keep the matrix.

    A number in a tensor is data to `torch.compile`: layers of one shape share compiled code, and
    code that a cache on disk keeps for other processes holds no number.
    """
    with _lock:
        number = _number_of.get(matrix)
        if number is None:
            number = _number_of[matrix] = next(_numbers)
            _matrices[number] = matrix
    return torch.tensor(number, device="cpu")  # whatever the default device is


def matrix_of(handle: torch.Tensor) -> Matrix:
    """Return the matrix of a handle.

    Raises:
        ClosedError: no module holds the matrix any more, or the handle is of another process.
    """
    matrix = _matrices.get(handle.item())
    if matrix is None:
        raise ClosedError(f"no matrix has the handle {handle.item()}: keep its RsrLinear")
    return matrix
