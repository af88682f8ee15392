"""Read and write `.rsr` files; formats/SPEC.md defines the format.

Reading: `RsrFile`. Writing: `create`, which opens an `RsrWriter`. A `Header` lists the tensors of a
file: `IndexedTensor` (a ternary or binary matrix as its RSR index) and `DenseTensor`. An invalid
file raises a subclass of `FormatError` (in `rsr_formats.errors`).
"""

from typing import TYPE_CHECKING

from .errors import FormatError, OutputExistsError, RsrError
from .reader import RsrFile
from .records import (
    AuxiliaryTensor,
    DenseTensor,
    FileEntry,
    Header,
    IndexedTensor,
    Quantized,
    Rotation,
    Scale,
    Section,
    SourceRecord,
    Stack,
    Tensor,
)
from .writer import RsrWriter, create

__all__ = [
    "AuxiliaryTensor",
    "DenseTensor",
    "FileEntry",
    "FormatError",
    "Header",
    "IndexedTensor",
    "OutputExistsError",
    "Quantized",
    "Rotation",
    "RsrError",
    "RsrFile",
    "RsrWriter",
    "Scale",
    "Section",
    "SourceRecord",
    "Stack",
    "Tensor",
    "__version__",
    "create",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name):
        if name == "__version__":  # on request, because importlib.metadata takes 20 ms to import
            from importlib.metadata import version

            return version("rsr-ternary")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
