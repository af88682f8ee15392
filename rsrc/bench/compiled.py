"""Compiled matrices as contenders: their kernels, copies and products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

import rsr_runtime as rsr
import rsrc
from rsr_runtime import Matrix

from ..common.scratch import scratch_folder
from .expected import DTYPES, Expected, Reference, random_inputs
from .memory import pages
from .timing import ByteArray, Contender, Label, Operand

Array = npt.NDArray[Any]
# Multiplies by a copy of the weights; describes the error of a wrong product, None if it is right.
Product = tuple[Callable[[Any], Any], Callable[[Any], str | None]]

ALL = "all matrices"  # the key "matrix" in rows of a pass over a whole file

# These differ for batches only.
_VECTORS_AS = {
    "avx512vnni": "avx512",
    "amx": "avx512",
    "neon_dotprod": "neon",
    "neon_i8mm": "neon",
}
_PAGE = 4096


def compile_matrix(W: npt.NDArray[np.int8], *options: dict[str, Any]) -> list[Matrix]:
    """Compile a matrix as a user would, once with each of `options`, and load the results.

    Args:
        W: (out_features, in_features), int8, contiguous; values -1, 0, 1.
        options: keywords of `rsrc.compile`.

    Returns:
        The matrices, mapped from files that are deleted already.
    """
    matrices = []
    with scratch_folder() as folder:
        source = folder / "random.safetensors"
        save_file({"random": W}, source)
        for i, keywords in enumerate(options):
            output = source.with_name(f"{i}.rsr")
            rsrc.compile(source, output, **keywords)
            matrices.append(rsr.load(output).matrix("random"))
    return matrices


def describe(matrix: Matrix) -> dict[str, Any]:
    """Return the keys of a label that the matrix determines."""
    index = {key: getattr(matrix, key) for key in ("encoding", "packing", "direction", "k")}
    return {"matrix": matrix.name, "shape": list(matrix.shape), **index}


def every_kernel(matrix: Matrix, threads: int) -> list[Label]:
    """List each kernel on one thread, then the kernels in use on all threads."""
    labels = [_label(matrix, dtype, isa=isa) for isa in distinct_isas() for dtype in DTYPES]
    return labels + [label for label in kernels_in_use(matrix, threads) if label.threads > 1]


def distinct_isas() -> list[str]:
    """List the instruction sets whose one-vector kernels differ, the one in use first."""
    info = rsr.cpu_info()
    found: dict[str, str] = {}
    for isa in (info["isa"], *info["supported_isas"]):
        found.setdefault(_VECTORS_AS.get(isa, isa), isa)
    return list(found.values())


def kernels_in_use(matrix: Matrix, threads: int, vectors: int = 1) -> list[Label]:
    """List the products users get: the kernels in use, on one thread and on all."""
    return [
        _label(matrix, dtype, threads=count, vectors=vectors)
        for count in sorted({1, threads})
        for dtype in DTYPES
    ]


def by_algorithm(matrix: Matrix, *algorithms: str) -> list[Label]:
    """List the paper's algorithms on a permuted matrix: float32, one thread."""
    return [_label(matrix, "float32", algorithm=algorithm) for algorithm in algorithms]


def _label(matrix: Matrix, dtype: str, **keys: Any) -> Label:
    """Return a label; by default of RSR++, one thread and the kernels in use."""
    defaults = {"threads": 1, "algorithm": "rsr++", "isa": rsr.cpu_info()["isa"]}
    return Label(dtype=dtype, **(defaults | describe(matrix) | keys))


def compiled_operand(matrix: Matrix) -> Operand:
    """Return a matrix with the bytes of its index and scales."""
    return Operand(matrix, tuple(a.reshape(-1).view(np.uint8) for a in matrix.arrays))


def compiled_copies(matrix: Matrix, count: int, huge: bool = False) -> list[Operand]:
    """Return `count` copies of a matrix, each array at the start of a page; 1 is the original."""
    if count == 1 and not huge:
        return [compiled_operand(matrix)]
    # One more page than `arrays` take: a matrix without scales also holds a scale of 1.
    nbytes = _PAGE + sum(_whole_pages(a.nbytes) for a in matrix.arrays)
    memory, offset = pages(count * nbytes, huge), 0

    def allocate(size: int) -> ByteArray:
        nonlocal offset
        start, offset = offset, offset + _whole_pages(size)
        return memory[start : start + size]

    return [compiled_operand(matrix.copy(allocate)) for _ in range(count)]


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def compiled_product(label: Label, matrix: Matrix, reference: Reference) -> Product:
    """Return the product of a vector or a batch with a copy of the matrix, and its check.

    Vectors of a batch are rows of x and of the product, as inside `Matrix.linear`. `matrix @ X`
    would transpose both, and linear(x, "int8") would also quantize x and scale the product.
    """
    x, expected = reference.x[label.dtype], reference.y[label.dtype]
    out = np.empty(expected.y.shape, np.int32 if label.dtype == "int8" else np.float32)
    algorithm = None if matrix.encoding == "ranked" else label.algorithm

    def multiply_batch(copy: Matrix) -> Array:
        rsr.kernels.multiply_rows([copy], x, [out])
        return out

    def multiply_vector(copy: Matrix) -> Array:
        return copy.matvec(x, out, algorithm=algorithm)

    return multiply_vector if x.ndim == 1 else multiply_batch, expected.check


def whole_pass(
    matrices: Sequence[Matrix], threads: int, rng: np.random.Generator
) -> list[Contender]:
    """List the contenders for a pass: one product with each matrix, as mapped."""
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
    """Return the products with all matrices, and a check against the plain C++ kernels.

    Those kernels were checked against a dense matrix of each group before.
    """
    before = rsr.cpu_info()["isa"]
    rsr.use_isa("scalar")
    try:
        plain = [w.matvec(x) for w, x in zip(matrices, xs, strict=True)]
    finally:
        rsr.use_isa(before)
    expected = [Expected.near(y, x, w.scale) for y, x, w in zip(plain, xs, matrices, strict=True)]
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
