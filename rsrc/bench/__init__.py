"""Time products beside their rivals, and language models, beside the memory limit: `rsrc bench`.

How it measures (benchmarks/README.md says how to read the result):

* Everything runs in one process, turn and turn about: a round gives each contender a few
  milliseconds, with a plain read of the same bytes beside it, and rounds go on until the time is
  up. What disturbs the machine then disturbs all contenders alike, and ratios within a round are
  steadier than times are.
* Two levels. "cache": one matrix again and again. "memory": copies in rotation, far more than the
  last-level cache holds, so that each product reads main memory. The copies lie in anonymous
  memory in pages of 4 KiB, as a mapped `.rsr` file does.
* Every timed product is checked: int8 exactly, float32 against the bound that `Matrix` promises.
"""

from ..common.errors import MissingPackageError
from .language import bench_model
from .language_plot import plot_model
from .language_table import render_model_table
from .matrix import bench_file, bench_shape
from .plots import check_picture, plot, require_matplotlib
from .tables import render_table
from .timing import WrongResultError

__all__ = [
    "MissingPackageError",
    "WrongResultError",
    "bench_file",
    "bench_model",
    "bench_shape",
    "check_picture",
    "plot",
    "plot_model",
    "render_model_table",
    "render_table",
    "require_matplotlib",
]
