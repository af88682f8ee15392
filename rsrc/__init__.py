"""The offline compiler: it turns a ternary checkpoint into one `.rsr` file.

Example:
    import rsrc
    report = rsrc.compile("model.safetensors", "model.rsr")
"""

from rsr_formats.errors import FormatError, OutputExistsError, RsrError

from ._version import __version__
from .common.errors import (
    DeltaError,
    ExecutorError,
    ExportError,
    MismatchError,
    MissingPackageError,
    NothingToCompileError,
    OptionError,
    SourceError,
    WrongBaseError,
)
from .compiler.pipeline import compile
from .compiler.report import HeadReport, Report, TensorReport
from .delta.diff import DeltaReport, diff
from .delta.patch import patch
from .export.unpack import unpack

__all__ = [
    "DeltaError",
    "DeltaReport",
    "ExecutorError",
    "ExportError",
    "FormatError",
    "HeadReport",
    "MismatchError",
    "MissingPackageError",
    "NothingToCompileError",
    "OptionError",
    "OutputExistsError",
    "Report",
    "RsrError",
    "SourceError",
    "TensorReport",
    "WrongBaseError",
    "__version__",
    "compile",
    "diff",
    "patch",
    "unpack",
]
