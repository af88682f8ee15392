"""Single kernels, for benchmarks and tests; programs use `Matrix` and `llm`.

Arguments are C-contiguous arrays of the dtypes and shapes that `_native.pyi` or the docstrings here
state. The caller allocates the results.
"""

from collections.abc import Sequence

from ._native import KVCache as KVCache
from ._native import Rope as Rope
from ._native import attend as attend
from ._native import gated as gated
from ._native import multiply_dense as multiply_dense
from ._native import multiply_rows_i8 as multiply_rows_i8
from ._native import normalize as normalize
from ._native import plain_read as plain_read
from ._native import quantize_groups_i8 as quantize_groups_i8
from ._native import quantize_i8 as quantize_i8
from .matrix import Array, Matrix
from .products import multiply, share_tables
from .products import quantize_groups_int8 as quantize_groups_int8
from .products import quantize_int8 as quantize_int8


def multiply_rows(matrices: Sequence[Matrix], x: Array, outputs: Sequence[Array]) -> None:
    """Compute outputs[j][i] = W[j] x[i].

    Args:
        matrices: W[j], all with the same in_features.
        x: (b, in_features), float32 or int8.
        outputs: (b, out_features) each: float32, scaled, for float32 x; int32, exact and unscaled,
            for int8 x.
    """
    multiply(share_tables([w.index for w in matrices]), x, outputs)
