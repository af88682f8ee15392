"""`rsrc bench`: time products and language models against dense baselines and the memory limit.

The method (benchmarks/README.md explains the result):

* Timing is interleaved in one process: a round gives each contender a few milliseconds, followed or
  preceded by a plain read of the same bytes, and rounds repeat until the time is up. A disturbance
  of the machine then affects all contenders, and ratios within a round vary less than times.
* Two levels. "cache" uses one matrix repeatedly. "memory" uses copies in rotation, far more than
  the last-level cache holds, so that each product reads main memory. The copies lie in anonymous
  memory in pages of 4 KiB, like a mapped `.rsr` file.
* Every timed product is checked: int8 exactly, float32 against the bound that `Matrix` promises.

`measure` and the names around it are for benchmarks that choose their own contenders.
"""

from ..common.errors import MissingPackageError
from .compiled import (
    by_algorithm,
    compile_matrix,
    compiled_operand,
    compiled_product,
    kernels_in_use,
)
from .expected import Expected, reference_products
from .language import bench_model
from .matrix import bench_file, bench_shape
from .plots import check_picture, plot, plot_model, require_matplotlib
from .tables import render_model_table, render_table
from .timing import Contender, Label, Operand, WrongResultError, measure

__all__ = [
    "Contender",
    "Expected",
    "Label",
    "MissingPackageError",
    "Operand",
    "WrongResultError",
    "bench_file",
    "bench_model",
    "bench_shape",
    "by_algorithm",
    "check_picture",
    "compile_matrix",
    "compiled_operand",
    "compiled_product",
    "kernels_in_use",
    "measure",
    "plot",
    "plot_model",
    "reference_products",
    "render_model_table",
    "render_table",
    "require_matplotlib",
]
