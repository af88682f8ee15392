"""The dense baselines: NumPy, and PyTorch if it is installed."""

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

from .compiled import Product
from .expected import Expected, Reference
from .timing import Operand

Array = npt.NDArray[Any]

_TORCH_INT8 = "_int_mm"  # PyTorch has no public product of int8 matrices
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Baseline:
    """A dense engine: the form in which it takes the weights, and its product."""

    engine: str
    dtype: str
    threads: int
    operand: Callable[[Array], Operand]  # copies float32 (m, n), or int8 (m, n) for dtype int8
    product: Callable[[Reference], Product]


@contextmanager
def single_threaded_baselines() -> Iterator[list[Baseline]]:
    """Yield the installed dense engines, limited to one thread where possible.

    NumPy's BLAS reads its environment variables when NumPy is imported, which has already
    happened; only threadpoolctl, if installed, can limit it now.
    """
    torch, threadpoolctl = _optional("torch"), _optional("threadpoolctl")
    with ExitStack() as stack:
        if threadpoolctl is not None:
            stack.enter_context(threadpoolctl.threadpool_limits(1, "blas"))
        baselines = [_numpy(_environment_threads() if threadpoolctl is None else 1)]
        if torch is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
            baselines += [_torch(torch, dtype) for dtype in ("float32", "bfloat16", "int8")]
        yield baselines


def _numpy(threads: int) -> Baseline:
    def operand(W: Array) -> Operand:
        copy = W.copy()
        return Operand(copy, (copy.reshape(-1).view(np.uint8),))

    def product(reference: Reference) -> Product:
        x, expected = reference.x["float32"], reference.y["float32"]
        out = np.empty(len(expected.y), np.float32)
        return lambda W: np.matmul(W, x, out=out), expected.check

    return Baseline("numpy", "float32", threads, operand, product)


def _torch(torch: Any, dtype: str) -> Baseline:
    kind, source = getattr(torch, dtype), "int8" if dtype == "int8" else "float32"

    def operand(W: Array) -> Operand:
        copy = torch.from_numpy(W).to(kind, copy=True)
        return Operand(copy, (copy.view(torch.uint8).numpy().reshape(-1),))

    def product(reference: Reference) -> Product:
        x, expected = torch.from_numpy(reference.x[source]).to(kind), reference.y[source]
        if dtype == "bfloat16":
            # Input and output are rounded to 8 bits: the bound allows for that, not for mistakes.
            width = np.abs(expected.y) + np.abs(reference.x[source]).sum()
            expected = Expected(expected.y, 2.0**-8 * width)

        def check(y: Any) -> str | None:
            return expected.check(y.double().numpy().reshape(-1))

        if dtype == "int8":
            row = x[None]
            return lambda W: getattr(torch, _TORCH_INT8)(row, W.t()), check
        return lambda W: torch.mv(W, x), check

    return Baseline("torch", dtype, 1, operand, product)


def _environment_threads() -> int:
    values = [os.environ.get(name, "") for name in _THREADS]
    given = [int(value) for value in values if value.isdecimal() and int(value)]
    return [*given, os.cpu_count() or 1][0]


def _optional(name: str) -> Any:
    """Import a package that may not be installed; None if it is not."""
    return import_module(name) if find_spec(name) else None
