"""Single kernels, for benchmarks and tests; programs use `Matrix` and `llm`.

Arguments are C-contiguous arrays of the dtypes and shapes listed in `_native.pyi`, or below.
Results go into arrays of the caller.
"""

from collections.abc import Sequence

from ._native import (
    KVCache,
    Rope,
    attend,
    gated,
    multiply_dense,
    multiply_rows_i8,
    normalize,
    plain_read,
    quantize_i8,
)
from .matrix import Array, Matrix
from .products import multiply, quantize_int8, share_tables

__all__ = [
    "KVCache",
    "Rope",
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


def multiply_rows(matrices: Sequence[Matrix], x: Array, outputs: Sequence[Array]) -> None:
    """Compute outputs[j][i] = W[j] x[i].

    Args:
        matrices: W[j], all with the same in_features.
        x: (b, in_features), float32 or int8.
        outputs: (b, out_features) each: float32, scaled, for float32 x; int32, exact and unscaled,
            for int8 x.
    """
    multiply(share_tables([w.index for w in matrices]), x, outputs)
