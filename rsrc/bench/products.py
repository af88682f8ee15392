"""Products of this runtime as contenders, and what every product must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from rsr_runtime import Matrix
from rsr_runtime.kernels import multiply_rows

from .memory import pages
from .turns import Contender, Label, Operand

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
# What multiplies by a copy of the weights, and what says what is wrong with the product.
Product = tuple[Callable[[Any], Any], Callable[[Any], str | None]]

ALL = "all matrices"  # what the rows of a pass over a whole file have as "matrix"
DTYPES = ("int8", "float32")  # of inputs

_VECTORS_AS = {"avx512vnni": "avx512", "amx": "avx512"}  # these are for several vectors only
_PAGE = 4096
_PANEL = 1 << 24  # weights of a reference product widened at a time


@dataclass(frozen=True)
class Expected:
    """What a product must be: exactly `y`, or within `bound` of it."""

    y: Array
    bound: Float64 | None = None

    def check(self, y: Array) -> str | None:
        """Say what is wrong with a product."""
        wrong = y != self.y if self.bound is None else ~(np.abs(y - self.y) <= self.bound)
        if not wrong.any():
            return None
        i = int(np.argmax(wrong))
        found, right = y.reshape(-1)[i], self.y.reshape(-1)[i]
        return f"{np.count_nonzero(wrong)} sums, the first is y[{i}] = {found}, not {right}"


@dataclass(frozen=True)
class Truth:
    """Inputs for one matrix, and what its products must be, by data type of the input."""

    x: dict[str, Array]
    y: dict[str, Expected]


def true_products(matrix: Matrix, W: Array, rng: np.random.Generator, *batch: int) -> Truth:
    """Compute what products must be, in float64, which is exact for int8.

    Inputs have shape (n,), or (b, n) where `batch` is b, and products (m,) or (b, m).

    Args:
        matrix: the matrix, for its scales.
        W: its digit values, int8 (m, n).
        rng: makes the inputs.
        batch: nothing, or the number of vectors.
    """
    m, n = W.shape
    x = random_inputs((*batch, n), rng)
    integers, reals = (x[dtype].reshape(-1, n).astype(np.float64).T for dtype in DTYPES)
    scales = np.broadcast_to(entry_scales(matrix), (m, n))
    height = max(1, _PANEL // n)
    panels = []
    for rows in (slice(r, r + height) for r in range(0, m, height)):
        panel = W[rows].astype(np.float64)
        panels.append(np.hstack([panel @ integers, (panel * scales[rows]) @ reals]))
    exact, real = np.concatenate(panels).T.reshape(len(DTYPES), *batch, m)
    y = {
        "int8": Expected(exact.astype(np.int32)),
        "float32": Expected(real, _bound(x["float32"], matrix.scale)),
    }
    return Truth(x, y)


def entry_scales(matrix: Matrix) -> Array:
    """Return what the digit values are multiplied by: (1, 1), (m, 1) or, by groups, (m, n)."""
    scale = matrix.scale
    if scale.ndim < 2:
        return scale.reshape(-1, 1)
    return np.repeat(scale, matrix._tensor.group_columns, axis=1)[:, : matrix.shape[1]]


def random_inputs(shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
    """Return vectors of each data type."""
    return {
        "int8": rng.integers(-128, 128, shape).astype(np.int8),
        "float32": rng.standard_normal(shape).astype(np.float32),
    }


def _bound(x: Array, scale: Array) -> Float64:
    """Return the bound on a float32 product's error that `Matrix` promises."""
    if scale.ndim == 2:
        scale = np.abs(scale).max(axis=1)
    unscaled = (
        max(x.shape[-1], 3) * 2.0**-24 * np.abs(x).sum(axis=-1, keepdims=True, dtype=np.float64)
    )
    return np.asarray(unscaled * np.abs(scale.astype(np.float64)))


def describe(matrix: Matrix) -> dict[str, Any]:
    """Return the keys of a label that a matrix determines."""
    index = ("encoding", "packing", "direction", "k")
    own = {key: getattr(matrix, key) for key in index}
    return {"matrix": matrix.name, "shape": list(matrix.shape), **own}


def every_kernel(matrix: Matrix, threads: int) -> list[Label]:
    """List what is measured of a compiled matrix: each kernel, and those in use on all threads."""
    labels = [
        Label(dtype=dtype, threads=1, algorithm="rsr++", isa=isa, **describe(matrix))
        for isa in distinct_isas()
        for dtype in DTYPES
    ]
    return labels + [label for label in kernels_in_use(matrix, threads) if label.threads > 1]


def distinct_isas() -> list[str]:
    """List the instruction sets whose kernels for one vector differ; the one in use comes first."""
    info = rsr.cpu_info()
    found: dict[str, str] = {}
    for isa in (info["isa"], *info["supported_isas"]):
        found.setdefault(_VECTORS_AS.get(isa, isa), isa)
    return list(found.values())


def kernels_in_use(matrix: Matrix, threads: int, vectors: int = 1) -> list[Label]:
    """List the products users get: by each kernel in use, on one thread and on all."""
    own = {"algorithm": "rsr++", "isa": rsr.cpu_info()["isa"], **describe(matrix)}
    return [
        Label(dtype=dtype, threads=count, vectors=vectors, **own)
        for count in sorted({1, threads})
        for dtype in DTYPES
    ]


def by_algorithm(matrix: Matrix, *algorithms: str) -> list[Label]:
    """List what is measured of a permuted matrix to compare the paper's algorithms."""
    isa = rsr.cpu_info()["isa"]
    return [
        Label(dtype="float32", threads=1, algorithm=algorithm, isa=isa, **describe(matrix))
        for algorithm in algorithms
    ]


def compiled_operand(matrix: Matrix) -> Operand:
    """Return a matrix with the bytes of its index and scales."""
    scaled = matrix._tensor.scale is not None
    arrays = [a for part, a in matrix._arrays.items() if part != "scale" or scaled]
    return Operand(matrix, tuple(a.reshape(-1).view(np.uint8) for a in arrays))


def compiled_copies(matrix: Matrix, count: int, huge: bool = False) -> list[Operand]:
    """Return `count` copies of a loaded matrix, each array at the start of a page."""
    if count == 1 and not huge:
        return [compiled_operand(matrix)]
    arrays = matrix._arrays
    memory = pages(count * sum(_pages(a) for a in arrays.values()), huge)
    operands, offset = [], 0
    for _ in range(count):
        copy = {}
        for part, a in arrays.items():
            copy[part] = memory[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape)
            copy[part][...] = a
            offset += _pages(a)
        operands.append(compiled_operand(Matrix(matrix._tensor, copy, lambda: False)))
    return operands


def _pages(a: Array) -> int:
    return -(-a.nbytes // _PAGE) * _PAGE


def compiled_product(label: Label, matrix: Matrix, truth: Truth) -> Product:
    """Return what multiplies a copy of a compiled matrix, and its check."""
    x, expected = truth.x[label.dtype], truth.y[label.dtype]
    out = np.empty(matrix.shape[0], np.int32 if label.dtype == "int8" else np.float32)
    algorithm = None if matrix.encoding == "ranked" else label.algorithm
    return lambda copy: copy.matvec(x, out, algorithm=algorithm), expected.check


def batch_product(label: Label, matrix: Matrix, truth: Truth) -> Product:
    """Return what multiplies a batch by a matrix, and its check.

    As within `Matrix.linear`: vectors are rows, of x and of the product. `matrix @ X` transposes
    both, and linear(x, "int8") quantizes x and scales the product, besides.
    """
    x, expected = truth.x[label.dtype], truth.y[label.dtype]
    dtype = np.int32 if label.dtype == "int8" else np.float32
    out = np.empty((label.vectors, matrix.shape[0]), dtype)

    def multiply(copy: Matrix) -> Array:
        multiply_rows([copy], x, [out])
        return out

    return multiply, expected.check


def whole_pass(
    matrices: Sequence[Matrix], threads: int, rng: np.random.Generator
) -> list[Contender]:
    """List the contenders for one product with each matrix, as the file is mapped."""
    inputs = {n: random_inputs((n,), rng) for n in sorted({w.shape[1] for w in matrices})}
    parts = [part for w in matrices for part in compiled_operand(w).parts]
    copies = cycle([Operand(matrices, tuple(parts))])
    weights = sum(math.prod(w.shape) for w in matrices)
    isa = rsr.cpu_info()["isa"]
    found = []
    for dtype in DTYPES:
        product = _pass_product(matrices, [inputs[w.shape[1]][dtype] for w in matrices])
        for count in sorted({1, threads}):
            label = Label(ALL, dtype, count, algorithm="rsr++", isa=isa, level="model")
            found.append(Contender(label, copies, weights, *product))
    return found


def _pass_product(matrices: Sequence[Matrix], xs: Sequence[Array]) -> Product:
    """Return what multiplies by all matrices, and a check against the plain C++ kernels.

    Those were checked against dense matrices with one of each group.
    """
    before = rsr.cpu_info()["isa"]
    rsr.use_isa("scalar")
    try:
        plain = [w.matvec(x) for w, x in zip(matrices, xs, strict=True)]
    finally:
        rsr.use_isa(before)
    expected = [_near(y, x, w.scale) for y, x, w in zip(plain, xs, matrices, strict=True)]
    outs = [np.empty_like(y) for y in plain]

    def multiply(weights: Sequence[Matrix]) -> list[Array]:
        for w, x, out in zip(weights, xs, outs, strict=True):
            w.matvec(x, out)
        return outs

    def check(ys: Sequence[Array]) -> str | None:
        for w, y, e in zip(matrices, ys, expected, strict=True):
            wrong = e.check(y)
            if wrong is not None:
                return f"{w.name!r} differs from the plain C++ kernels: {wrong}"
        return None

    return multiply, check


def _near(y: Array, x: Array, scale: Array) -> Expected:
    """Return what another product may be if `y` itself may be off by the bound."""
    if y.dtype == np.int32:
        return Expected(y)
    return Expected(y.astype(np.float64), 2 * _bound(x, scale))
