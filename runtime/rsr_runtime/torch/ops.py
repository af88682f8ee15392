"""Operators of PyTorch: products of tensors with matrices of a `.rsr` file, on the CPU.

    rsr::linear(x, weight, bias, handle, out_features, activations)
    rsr::linear_all(x, weights, biases, handles, out_features, activations)
    rsr::linear_transposed(y, weight, handle, in_features)
    rsr::embedding(tokens, weight, handle, columns)

`linear` is `Matrix.linear` plus a bias, `linear_all` computes several in one parallel region (an
empty tensor among its biases stands for none), and `linear_transposed` is y @ W, the gradient with
respect to x. Tensors are float32, bfloat16 or float16. Values are widened to float32, computed with
there, and the result is rounded once. `embedding` looks up rows of a matrix, float32, for integers.

Kernels read the matrix that a handle names. `weight` is the tensor of its index: it shows
compilers what a product depends on and keeps the mapped file in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import cpu
from ..errors import InputShapeError, InputTypeError
from ..matrix import linear_all as multiply_all
from .handles import matrix_of

FloatArray = npt.NDArray[np.float32]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# --- on the CPU ---------------------------------------------------------------------------------


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, handle: Tensor, out_features: int,
    activations: str,
) -> Tensor:  # fmt: skip
    cpu.suggest_num_threads(torch.get_num_threads())
    matrix = matrix_of(handle)
    rows = _rows(x)
    if matrix.rotation is not None:
        rows = matrix.rotation.apply(rows)
    return _result(matrix.linear(rows, activations), bias, x)


def _linear_all(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor],
    handles: Sequence[Tensor], out_features: Sequence[int], activations: str,
) -> list[Tensor]:  # fmt: skip
    cpu.suggest_num_threads(torch.get_num_threads())
    matrices = [matrix_of(handle) for handle in handles]
    rows = _rows(x)
    rotation = matrices[0].rotation
    if any(matrix.rotation is not rotation for matrix in matrices):
        raise InputShapeError("linear_all: the matrices have different rotations, expected one")
    if rotation is not None:
        rows = rotation.apply(rows)
    products = multiply_all(matrices, rows, activations)
    return [
        _result(y, bias if len(bias) else None, x) for y, bias in zip(products, biases, strict=True)
    ]


def _linear_transposed(y: Tensor, weight: Tensor, handle: Tensor, in_features: int) -> Tensor:
    matrix = matrix_of(handle)
    rows = torch.from_numpy(_rows(y)).reshape(-1, matrix.shape[0])
    x = torch.zeros(len(rows), in_features, dtype=torch.float32, device="cpu")
    for part, columns, values in matrix.windows():
        x[:, columns] += rows[:, part] @ torch.from_numpy(values)
    if matrix.rotation is not None:
        x = torch.from_numpy(matrix.rotation.undo(x.numpy()))
    return x.reshape(*y.shape[:-1], in_features).to(y.dtype)


def _embedding(tokens: Tensor, weight: Tensor, handle: Tensor, columns: int) -> Tensor:
    matrix = matrix_of(handle)
    rows = matrix.rows(tokens.reshape(-1).numpy())
    if matrix.rotation is not None:
        rows = matrix.rotation.undo(rows)
    return torch.from_numpy(rows).reshape(*tokens.shape, columns)


def _rows(x: Tensor) -> FloatArray:
    """Return the values of a tensor, float32 and contiguous."""
    if x.dtype not in _DTYPES:
        found = str(x.dtype).removeprefix("torch.")
        raise InputTypeError(
            f"x has dtype {found}, expected float32, bfloat16 or float16: pass x.float()"
        )
    values: FloatArray = x.detach().to(torch.float32).contiguous().numpy()
    return values


def _result(y: FloatArray, bias: Tensor | None, x: Tensor) -> Tensor:
    result = torch.from_numpy(y)
    if bias is not None:
        result += bias
    return result.to(x.dtype)


# --- shapes -------------------------------------------------------------------------------------


def _linear_shape(
    x: Tensor, weight: Tensor, bias: Tensor | None, handle: Tensor, out_features: int,
    activations: str,
) -> Tensor:  # fmt: skip
    return x.new_empty((*x.shape[:-1], out_features))


def _linear_all_shapes(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor],
    handles: Sequence[Tensor], out_features: Sequence[int], activations: str,
) -> list[Tensor]:  # fmt: skip
    return [x.new_empty((*x.shape[:-1], width)) for width in out_features]


def _linear_transposed_shape(y: Tensor, weight: Tensor, handle: Tensor, in_features: int) -> Tensor:
    return y.new_empty((*y.shape[:-1], in_features))


def _embedding_shape(tokens: Tensor, weight: Tensor, handle: Tensor, columns: int) -> Tensor:
    return tokens.new_empty((*tokens.shape, columns), dtype=torch.float32)


# --- gradients ----------------------------------------------------------------------------------

# Weights are fixed. Activations that a product quantizes pass their gradient as if it did not, as
# BitNet is trained (the straight-through estimator).


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, handle, _, _ = inputs
    ctx.save_for_backward(weight, handle)
    ctx.in_features = x.shape[-1]


def _linear_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    weight, handle = ctx.saved_tensors
    of_x, _, of_bias, *_ = ctx.needs_input_grad
    return (
        _transposed(gradient, weight, handle, ctx.in_features) if of_x else None,
        None,
        _sum_of_rows(gradient) if of_bias else None,
        None, None, None,
    )  # fmt: skip


def _keep_linear_all(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, weights, _, handles, _, _ = inputs
    ctx.save_for_backward(*weights, *handles)
    ctx.in_features = x.shape[-1]


def _linear_all_gradients(ctx: Any, gradients: list[Tensor]) -> tuple[Any, ...]:
    count = len(gradients)
    weights, handles = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
    of_x, _, of_biases, *_ = ctx.needs_input_grad
    x = None
    if of_x:
        parts = zip(gradients, weights, handles, strict=True)
        x = torch.stack([_transposed(*part, ctx.in_features) for part in parts]).sum(0)
    biases = [
        _sum_of_rows(gradient) if needed else None
        for gradient, needed in zip(gradients, of_biases, strict=True)
    ]
    return x, [None] * count, biases, [None] * count, None, None


def _keep_transposed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, weight, handle, _ = inputs
    ctx.save_for_backward(weight, handle)
    ctx.out_features = y.shape[-1]


def _transposed_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    weight, handle = ctx.saved_tensors
    y = torch.ops.rsr.linear(gradient, weight, None, handle, ctx.out_features, "float32")
    return y, None, None, None


def _sum_of_rows(gradient: Tensor) -> Tensor:
    return gradient.reshape(-1, gradient.shape[-1]).sum(0)


def _transposed(y: Tensor, weight: Tensor, handle: Tensor, in_features: int) -> Tensor:
    return torch.ops.rsr.linear_transposed(y, weight, handle, in_features)


# --- registration -------------------------------------------------------------------------------


def _register(
    name: str,
    schema: str,
    kernel: Callable[..., Any],
    shape: Callable[..., Any],
    keep: Callable[..., None] | None = None,
    gradients: Callable[..., tuple[Any, ...]] | None = None,
) -> None:
    torch.library.define(f"rsr::{name}", schema)
    torch.library.impl(f"rsr::{name}", "cpu", kernel)
    torch.library.register_fake(f"rsr::{name}", shape)
    if gradients is not None:
        torch.library.register_autograd(f"rsr::{name}", gradients, setup_context=keep)


_register(
    "linear",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor handle, SymInt out_features, str activations)"
    " -> Tensor",
    _linear, _linear_shape, _keep_linear, _linear_gradients,
)  # fmt: skip
_register(
    "linear_all",
    "(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] handles, SymInt[] out_features, "
    "str activations) -> Tensor[]",
    _linear_all, _linear_all_shapes, _keep_linear_all, _linear_all_gradients,
)  # fmt: skip
_register(
    "linear_transposed",
    "(Tensor y, Tensor weight, Tensor handle, SymInt in_features) -> Tensor",
    _linear_transposed, _linear_transposed_shape, _keep_transposed, _transposed_gradients,
)  # fmt: skip
_register(
    "embedding",
    "(Tensor tokens, Tensor weight, Tensor handle, SymInt columns) -> Tensor",
    _embedding, _embedding_shape,
)  # fmt: skip
