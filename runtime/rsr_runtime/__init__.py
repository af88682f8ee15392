"""Multiply by ternary and binary matrices straight from a `.rsr` file.

Example:
    import rsr_runtime as rsr
    model = rsr.load("model.rsr")
    y = model.matrix("layers.0.mlp.up_proj.weight") @ x
"""

from typing import TYPE_CHECKING

import rsr_formats
from rsr_formats.errors import FormatError, RsrError

from . import kernels
from .cpu import cpu_info, get_num_threads, set_num_threads, use_isa
from .dense import DenseTensor
from .errors import (
    ClosedError,
    InputShapeError,
    InputTypeError,
    IsaError,
    OptionError,
    OutOfRangeError,
    ReplacedError,
    UnknownNameError,
)
from .matrix import Matrix, linear_all, matmul_all
from .model import Model, load
from .mutable import MutableMatrix
from .rotation import Rotation
from .rows import linear_rows

__all__ = [
    "ClosedError",
    "DenseTensor",
    "FormatError",
    "InputShapeError",
    "InputTypeError",
    "IsaError",
    "Matrix",
    "Model",
    "MutableMatrix",
    "OptionError",
    "OutOfRangeError",
    "ReplacedError",
    "Rotation",
    "RsrError",
    "UnknownNameError",
    "__version__",
    "cpu_info",
    "get_num_threads",
    "kernels",
    "linear_all",
    "linear_rows",
    "load",
    "matmul_all",
    "set_num_threads",
    "use_isa",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name):
        if name == "__version__":
            return rsr_formats.__version__
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
