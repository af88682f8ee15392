"""Kernels called one at a time, for benchmarks and tests; programs use `Matrix` and `llm`.

The functions take arrays as the kernels read them: C-contiguous, with the dtypes and shapes listed
in `_native.pyi`. They write into arrays of the caller and allocate nothing.
"""

from ._native import (
    attend,
    gated,
    multiply_dense,
    multiply_rows_i8,
    normalize,
    plain_read,
    quantize_i8,
)
from .products import multiply_rows, quantize_int8

__all__ = [
    "attend",
    "gated",
    "multiply_dense",
    "multiply_rows",
    "multiply_rows_i8",
    "normalize",
    "plain_read",
    "quantize_i8",
    "quantize_int8",
]
