"""The dense rivals: NumPy, and PyTorch where it is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from .compiled import Expected, Product, Truth
from .timing import Operand

Array = npt.NDArray[Any]

_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Rival:
    """A dense engine: how it wants the weights and what it does with them."""

    engine: str
    dtype: str
    threads: int
    operand: Callable[[Array], Operand]  # a copy of float32 (m, n), or of int8 for dtype int8
    product: Callable[[Truth], Product]


@contextmanager
def rivals_on_one_thread() -> Iterator[list[Rival]]:
    """Yield the dense engines there are, limited to one thread as far as that is possible.

    NumPy reads its environment variables when it is imported, which is too late here: only
    threadpoolctl, where it is installed, can limit it.
    """
    torch, threadpoolctl = _optional("torch"), _optional("threadpoolctl")
    with ExitStack() as stack:
        if threadpoolctl is not None:
            stack.enter_context(threadpoolctl.threadpool_limits(1, "blas"))
        rivals = [_numpy_rival(_environment_threads() if threadpoolctl is None else 1)]
        if torch is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
            rivals += [_torch_rival(torch, dtype) for dtype in ("float32", "bfloat16", "int8")]
        yield rivals


def _numpy_rival(threads: int) -> Rival:
    def operand(W: Array) -> Operand:
        copy = W.copy()
        return Operand(copy, (copy.reshape(-1).view(np.uint8),))

    def product(truth: Truth) -> Product:
        x, expected = truth.x["float32"], truth.y["float32"]
        out = np.empty(len(expected.y), np.float32)
        return lambda W: np.matmul(W, x, out=out), expected.check

    return Rival("numpy", "float32", threads, operand, product)


def _torch_rival(torch: Any, dtype: str) -> Rival:
    kind, source = getattr(torch, dtype), "int8" if dtype == "int8" else "float32"

    def operand(W: Array) -> Operand:
        copy = torch.from_numpy(W).to(kind, copy=True)
        return Operand(copy, (copy.view(torch.uint8).numpy().reshape(-1),))

    def product(truth: Truth) -> Product:
        x, expected = torch.from_numpy(truth.x[source]).to(kind), truth.y[source]
        if dtype == "bfloat16":
            # Input and output are rounded to 8 bits: wide enough for that, narrow enough for
            # mistakes.
            width = np.abs(expected.y) + np.abs(truth.x[source]).sum()
            expected = Expected(expected.y, 2.0**-8 * width)

        def check(y: Any) -> str | None:
            return expected.check(y.double().numpy().reshape(-1))

        if dtype == "int8":
            row = x[None]
            return lambda W: torch._int_mm(row, W.t()), check
        return lambda W: torch.mv(W, x), check

    return Rival("torch", dtype, 1, operand, product)


def _environment_threads() -> int:
    values = [os.environ.get(name, "") for name in _THREADS]
    given = [int(value) for value in values if value.isdecimal() and int(value)]
    return [*given, os.cpu_count() or 1][0]


def _optional(name: str) -> Any:
    """Import a package that may not be installed; None if it is not."""
    return import_module(name) if find_spec(name) else None
