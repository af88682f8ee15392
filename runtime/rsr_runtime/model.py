"""A loaded `.rsr` file: a mapping from tensor names to matrices and arrays."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats import records
from rsr_formats.reader import RsrFile

from .cpu import ensure_isa
from .dense import DenseTensor
from .errors import ClosedError, OptionError
from .matrix import Matrix


class _Handle:
    """The file, until the model is closed. Matrices and `Files` hold this instead of the model."""

    def __init__(self, file: RsrFile) -> None:
        self._file: RsrFile | None = file

    def file(self) -> RsrFile:
        file = self._file
        if file is None:
            raise ClosedError("the model was closed")
        return file

    def is_closed(self) -> bool:
        return self._file is None

    def close(self) -> None:
        self._file = None


class Model(Mapping[str, "Matrix | npt.NDArray[Any]"]):
    """The tensors of a `.rsr` file, made by `rsr_runtime.load`.

    `matrix`, `dense` and `matrices` return typed objects. As a mapping, a model returns a `Matrix`
    for an indexed tensor and a read-only array for a dense one: its `DenseTensor.data`, except that
    BF16 is widened to float32, which copies it on every access.

    As a context manager, a model closes its file. Several threads may use it at the same time.

    Attributes:
        files: the model's small files (config.json, tokenizer.json, ...): name to bytes.
    """

    def __init__(self, file: RsrFile) -> None:
        self._handle = _Handle(file)
        self._tensors: dict[str, records.Tensor] = {t.name: t for t in file.header.tensors}
        self._matrices: dict[str, Matrix] = {}
        self._decompressed: dict[str, npt.NDArray[np.uint8]] = {}  # bytes of dense tensors
        self._lock = threading.Lock()
        self._metadata = dict(file.header.metadata)
        self.files = Files(self._handle)

    @property
    def metadata(self) -> dict[str, str]:
        """The free-form metadata of the source checkpoint."""
        return dict(self._metadata)

    def __getitem__(self, name: str) -> Matrix | npt.NDArray[Any]:
        """Return an indexed tensor as a `Matrix`, a dense one as a read-only array.

        Raises:
            KeyError: no tensor has that name.
            FormatError: the index or compressed data is damaged.
            ClosedError: the model was closed.
        """
        tensor = self._record(name)
        if not isinstance(tensor, records.DenseTensor):
            return self._matrix(tensor)
        dense = self._dense(tensor)
        return dense.to_float32() if dense.dtype == "BF16" else dense.data

    def matrix(self, name: str) -> Matrix:
        """Return an indexed tensor; its first use checks its scales, and a permuted index.

        Raises:
            KeyError: no tensor has that name.
            OptionError: the tensor is dense.
            FormatError: the index is damaged.
            ClosedError: the model was closed.
        """
        tensor = self._record(name)
        if isinstance(tensor, records.DenseTensor):
            raise OptionError(
                f"{name!r} is a dense {tensor.dtype} tensor, expected an indexed matrix: "
                "use model.dense(name)"
            )
        return self._matrix(tensor)

    def dense(self, name: str) -> DenseTensor:
        """Return a dense tensor as stored, without copying or widening it.

        Raises:
            KeyError: no tensor has that name.
            OptionError: the tensor is an indexed matrix.
            FormatError: the compressed data is damaged.
            ClosedError: the model was closed.
        """
        tensor = self._record(name)
        if not isinstance(tensor, records.DenseTensor):
            raise OptionError(
                f"{name!r} is an indexed matrix, expected a dense tensor: use model.matrix(name)"
            )
        return self._dense(tensor)

    def matrices(self) -> Iterator[Matrix]:
        """Iterate over the indexed tensors in file order; `Matrix.name` is the name of each.

        Raises:
            FormatError: an index is damaged.
            ClosedError: the model was closed.
        """
        for name in self._tensors:
            if self.is_indexed(name):
                yield self.matrix(name)

    def is_indexed(self, name: str) -> bool:
        """Return whether a tensor is a `Matrix`, without reading its index.

        Raises:
            KeyError: no tensor has that name.
        """
        return not isinstance(self._tensors[name], records.DenseTensor)

    def stored(self, name: str) -> npt.NDArray[Any]:
        """Return `dense(name).data`. Deprecated: use that."""
        warnings.warn(
            "Model.stored(name) is deprecated: use Model.dense(name).data",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.dense(name).data

    def _record(self, name: str) -> records.Tensor:
        self._handle.file()  # first, because a closed model raises for any name
        return self._tensors[name]

    def _matrix(self, tensor: records.IndexedTensor) -> Matrix:
        with self._lock:
            if tensor.name not in self._matrices:
                arrays = self._handle.file().index_arrays(tensor)
                self._matrices[tensor.name] = Matrix(tensor, arrays, self._handle.is_closed)
            return self._matrices[tensor.name]

    def _dense(self, tensor: records.DenseTensor) -> DenseTensor:
        file = self._handle.file()
        if file.header.sections[tensor.section].codec == "raw":
            data = file.section(tensor.section)
        else:
            with self._lock:
                if tensor.name not in self._decompressed:
                    self._decompressed[tensor.name] = self._handle.file().section(tensor.section)
                data = self._decompressed[tensor.name]
        return DenseTensor.from_bytes(tensor.name, tensor.dtype, tensor.shape, data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    # Mapping compares all values; models compare and hash by identity.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        indexed = sum(map(self.is_indexed, self._tensors))
        state = " (closed)" if self._handle.is_closed() else ""
        return f"<rsr_runtime.Model: {indexed} indexed, {len(self) - indexed} dense tensors{state}>"

    def close(self) -> None:
        """Release the file; later products and accesses raise `ClosedError`.

        Arrays returned before stay valid. The file stays mapped until the last of them is freed.
        """
        with self._lock:
            self._handle.close()
            self._matrices.clear()
            self._decompressed.clear()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Files(Mapping[str, bytes]):
    """A model's small files by name, read on access."""

    def __init__(self, handle: _Handle) -> None:
        self._handle = handle
        self._sections = {f.name: f.section for f in handle.file().header.files}

    def __getitem__(self, name: str) -> bytes:
        section = self._sections[name]
        return self._handle.file().section(section).tobytes()

    def __contains__(self, name: object) -> bool:
        return name in self._sections

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def __repr__(self) -> str:
        return f"<files: {', '.join(self._sections) or 'none'}>"


def load(path: str | os.PathLike[str], verify: bool = False, memory: str = "map") -> Model:
    """Open a `.rsr` file. Only the header is read and checked; each tensor is read when used.

    Args:
        path: the file. It may be renamed or replaced while the model is open, but must not be
            modified in place, because its pages are mapped.
        verify: check every byte first: SHA-256 of each section, padding, every index entry.
        memory: "map" maps the file. "huge" reads it into memory backed by huge pages where the
            system grants them: products from main memory get faster, loading reads the whole file.

    Raises:
        FormatError: the file breaks a rule of formats/SPEC.md; the subclass says which.
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
        OptionError: `memory` has another value.
        OSError: the file cannot be read.
    """
    if memory not in ("map", "huge"):
        raise OptionError(f"memory: found {memory!r}, expected 'map' or 'huge'")
    ensure_isa()
    file = RsrFile(path, memory)
    if verify:
        file.verify()
    return Model(file)
