"""Products of one input with one or several matrices (q, k and v; gate and up)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _native
from .errors import InputShapeError, InputTypeError, OptionError

if TYPE_CHECKING:
    from .matrix import Matrix

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]

# The data type of a product, by that of x.
PRODUCTS = {np.dtype(np.float32): np.dtype(np.float32), np.dtype(np.int8): np.dtype(np.int32)}


def matmul_all(matrices: Sequence[Matrix], x: Array) -> list[Array]:
    """Return [w @ x for w in matrices], bit for bit, in one call.

    The sums of x under all patterns are made once for all ranked matrices of one k, and their
    products run in one parallel region.

    Args:
        matrices: of one in_features; at least one.
        x: (in_features,) or (in_features, b); float32 or int8, any memory layout.

    Raises:
        OptionError: there are no matrices.
        InputTypeError, InputShapeError, ClosedError: as `w @ x` does.
    """
    x = input_array(x)
    _check_matrices(matrices)
    for w in matrices:
        if x.ndim not in (1, 2) or x.shape[0] != w.shape[1]:
            raise shape_error(w, x)
    rows = contiguous(x[None] if x.ndim == 1 else x.T)
    outputs = [np.empty((len(rows), w.shape[0]), PRODUCTS[x.dtype]) for w in matrices]
    multiply_rows(matrices, rows, outputs)
    return [y[0] if x.ndim == 1 else np.ascontiguousarray(y.T) for y in outputs]


def linear_all(
    matrices: Sequence[Matrix], x: Array, activations: str = "float32"
) -> list[FloatArray]:
    """Return [w.linear(x, activations) for w in matrices], bit for bit, in one call.

    Args:
        matrices: of one in_features; at least one.
        x: (..., in_features), float32.
        activations: "float32" or "int8", as `Matrix.linear` explains; x is quantized once.

    Returns:
        (..., out_features) of each matrix, float32, scale applied.

    Raises:
        OptionError: there are no matrices, or another value of `activations`.
        InputTypeError, InputShapeError, ClosedError: as `Matrix.linear` does.
    """
    if activations not in ("float32", "int8"):
        raise OptionError(f"activations: found {activations!r}, expected 'float32' or 'int8'")
    x = input_array(x)
    if x.dtype != np.float32:
        raise InputTypeError(f"linear: x has dtype {x.dtype}, expected float32")
    _check_matrices(matrices)
    for w in matrices:
        if x.ndim == 0 or x.shape[-1] != w.shape[1]:
            raise InputShapeError(
                f"{w.name!r}: x has shape {x.shape}, expected (..., {w.shape[1]})"
            )
    count = int(np.prod(x.shape[:-1]))  # not -1: it cannot be told from 0 elements
    rows = contiguous(x).reshape(count, x.shape[-1])
    outputs = [np.empty((count, w.shape[0]), np.float32) for w in matrices]
    if activations == "float32":
        multiply_rows(matrices, rows, outputs)
    else:
        multiply_quantized(matrices, *quantize_int8(rows), outputs)
    return [y.reshape(*x.shape[:-1], w.shape[0]) for w, y in zip(matrices, outputs, strict=True)]


def quantize_int8(x: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Quantize each row of x (b, n), contiguous, by its largest magnitude, as BitNet b1.58 does.

    Returns:
        q, int8 (b, n), and s, float32 (b, 1), with x ~ q / s; s is NaN for a row that is not
        finite.
    """
    q = np.empty(x.shape, np.int8)
    s = np.empty((len(x), 1), np.float32)
    _native.quantize_i8(x, q, s)
    return q, s


def multiply_rows(matrices: Sequence[Matrix], x: Array, outputs: Sequence[Array]) -> None:
    """outputs[j][i] = W[j] x[i]; x (b, in_features), outputs[j] (b, out_features), contiguous."""
    multiply = _native.multiply_i8 if x.dtype == np.int8 else _native.multiply_f32
    for native, members in by_tables(matrices):
        if native:
            multiply(native, x, [outputs[j] for j in members])
        else:
            for j in members:
                matrices[j].multiply_permuted(x, outputs[j])


def multiply_quantized(
    matrices: Sequence[Matrix], q: Array, s: FloatArray, outputs: Sequence[FloatArray]
) -> None:
    """outputs[j][i] = (W[j] q[i]) * scale / s[i], as `Matrix.linear` defines it."""
    for native, members in by_tables(matrices):
        if native:
            _native.multiply_quantized(native, q, s, [outputs[j] for j in members])
            continue
        for j in members:
            w = matrices[j]
            sums = np.empty((len(q), w.shape[0]), np.int32)
            w.multiply_permuted(q, sums)
            with np.errstate(over="ignore"):  # beyond float32 is infinite, as in a dense product
                outputs[j][:] = sums.astype(np.float32) * w.scale / s


def by_tables(matrices: Sequence[Matrix]) -> list[tuple[list[_native.Ranked], list[int]]]:
    """Group the matrices that can share tables of sums; those that have none come by themselves."""
    if len(matrices) == 1:
        native = matrices[0].ranked
        return [([native] if native else [], [0])]
    groups: list[tuple[list[_native.Ranked], list[int]]] = []
    for j, w in enumerate(matrices):
        native = w.ranked
        for members, numbers in groups:
            if native and members and members[0].shares_input(native):
                members.append(native)
                numbers.append(j)
                break
        else:
            groups.append(([native] if native else [], [j]))
    return groups


def _check_matrices(matrices: Sequence[Matrix]) -> None:
    if not matrices:
        raise OptionError("found no matrices, expected at least one")
    for w in matrices:
        w.check_open()


def shape_error(w: Matrix, x: Array) -> InputShapeError:
    """Return the error of a product with an x of another shape."""
    n = w.shape[1]
    return InputShapeError(f"{w.name!r}: x has shape {x.shape}, expected ({n},) or ({n}, b)")


def input_array(x: Any) -> Array:
    """Return `x` if it is an array of a dtype that products take."""
    if not isinstance(x, np.ndarray):
        raise InputTypeError(f"x is {type(x).__name__}, expected a NumPy array")
    if x.dtype not in PRODUCTS:
        raise InputTypeError(
            f"x has dtype {x.dtype}, expected float32 or int8: convert it with x.astype(...)"
        )
    return x


def contiguous(x: Array) -> Array:
    """Return `x`, or a copy of it, as native code wants it: C-contiguous and aligned."""
    x = np.ascontiguousarray(x)
    return x if x.flags.aligned else x.copy()
