"""Multiply by ternary and binary matrices straight from a `.rsr` file.

Example:
    import rsr_runtime as rsr
    model = rsr.load("model.rsr")
    y = model["layers.0.mlp.up_proj.weight"] @ x
"""

from rsr_formats.errors import FormatError, RsrError

from .cpu import cpu_info, get_num_threads, set_num_threads, use_isa
from .errors import ClosedError, InputShapeError, InputTypeError, IsaError, OptionError
from .matrix import Matrix
from .model import Model, load
from .products import linear_all, matmul_all
from .rows import linear_rows

__all__ = [
    "ClosedError",
    "FormatError",
    "InputShapeError",
    "InputTypeError",
    "IsaError",
    "Matrix",
    "Model",
    "OptionError",
    "RsrError",
    "cpu_info",
    "get_num_threads",
    "linear_all",
    "linear_rows",
    "load",
    "matmul_all",
    "set_num_threads",
    "use_isa",
]
