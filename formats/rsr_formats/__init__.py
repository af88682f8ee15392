"""The `.rsr` container: layout, header, reader, writer and every way a file can be wrong."""

from .errors import FormatError, RsrError
from .reader import RsrFile
from .records import DenseTensor, Header, IndexedTensor, Section
from .writer import RsrWriter, create

__all__ = [
    "DenseTensor",
    "FormatError",
    "Header",
    "IndexedTensor",
    "RsrError",
    "RsrFile",
    "RsrWriter",
    "Section",
    "create",
]
