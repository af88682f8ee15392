"""A loaded `.rsr` file: a mapping from tensor names to matrices and arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.bf16 import widen_bf16
from rsr_formats.reader import RsrFile
from rsr_formats.records import DenseTensor, Tensor

from .cpu import ensure_isa
from .errors import ClosedError, OptionError
from .matrix import Matrix

# What NumPy can hold as it lies in the file; the rest is widened or handed out as bytes.
_NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip


class _Handle:
    """The file of a model until it is closed; what it hands out holds this, not the model."""

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
    """Tensors of a `.rsr` file by name: a `Matrix` where indexed, else a read-only array.

    Dense tensors are views of the file, or of what was decompressed on first access, with two
    exceptions: BF16, which NumPy lacks, is widened to float32 on each access (exact, a copy), and
    4-, 6- and 8-bit floats are their raw bytes.
    """

    def __init__(self, file: RsrFile) -> None:
        self._handle = _Handle(file)
        self._tensors: dict[str, Tensor] = {t.name: t for t in file.header.tensors}
        self._matrices: dict[str, Matrix] = {}
        self._decompressed: dict[str, npt.NDArray[np.uint8]] = {}  # dense tensors' bytes
        self._lock = threading.Lock()
        self._metadata = dict(file.header.metadata)
        self._files = Files(self._handle)

    @property
    def metadata(self) -> dict[str, str]:
        """The free metadata of the source."""
        return dict(self._metadata)

    @property
    def files(self) -> Files:
        """The model's small files (config.json, tokenizer.json, ...): name to bytes."""
        return self._files

    def __getitem__(self, name: str) -> Matrix | npt.NDArray[Any]:
        """Return a tensor; the first use of a matrix checks its index.

        Raises:
            KeyError: there is no tensor of that name.
            FormatError: its index or compressed data is damaged.
            ClosedError: the model was closed.
        """
        self._handle.file()  # before anything else: a closed model has no tensor
        tensor = self._tensors[name]
        if isinstance(tensor, DenseTensor):
            return _as_array(self._data(tensor), tensor)
        with self._lock:
            if name not in self._matrices:
                arrays = self._handle.file().index_arrays(tensor)
                self._matrices[name] = Matrix(tensor, arrays, self._handle.is_closed)
            return self._matrices[name]

    def is_indexed(self, name: str) -> bool:
        """Return whether the tensor of that name is a `Matrix`, without touching its index.

        Raises:
            KeyError: there is no tensor of that name.
        """
        return not isinstance(self._tensors[name], DenseTensor)

    def stored(self, name: str) -> npt.NDArray[Any]:
        """Return a dense tensor as it lies in the file: `model[name]` without the widening of BF16.

        Large tensors of BF16 (an embedding, an output head) are multiplied from here, not from a
        copy of twice the size.

        Returns:
            Read-only; for BF16 its bits as uint16, of the tensor's shape.

        Raises:
            KeyError: there is no tensor of that name.
            OptionError: it is a matrix, whose index is not an array.
            FormatError: its compressed data is damaged.
            ClosedError: the model was closed.
        """
        self._handle.file()
        tensor = self._tensors[name]
        if not isinstance(tensor, DenseTensor):
            raise OptionError(
                f"{name!r} is an indexed matrix, expected a dense tensor: use model[name]"
            )
        data = self._data(tensor)
        if tensor.dtype == "BF16":
            return data.view("<u2").reshape(tensor.shape)
        return _as_array(data, tensor)

    def _data(self, t: DenseTensor) -> npt.NDArray[np.uint8]:
        file = self._handle.file()
        if file.header.sections[t.section].codec == "raw":
            return file.section(t.section)
        with self._lock:
            if t.name not in self._decompressed:
                self._decompressed[t.name] = self._handle.file().section(t.section)
            return self._decompressed[t.name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    # A mapping would compare all its values; models are compared, and hashed, as objects.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        indexed = sum(not isinstance(t, DenseTensor) for t in self._tensors.values())
        state = " (closed)" if self._handle.is_closed() else ""
        return f"<rsr_runtime.Model: {indexed} indexed, {len(self) - indexed} dense tensors{state}>"

    def close(self) -> None:
        """Let go of the file: every later product or access raises `ClosedError`.

        Arrays already handed out stay valid; the memory goes when the last of them does.
        """
        with self._lock:
            self._handle.close()
            self._matrices.clear()
            self._decompressed.clear()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Files(Mapping[str, bytes]):
    """The small files kept in a model, read when asked for."""

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
    """Open a `.rsr` file. Reads and checks its header; sections are touched when used.

    Args:
        path: the file. It may be renamed or replaced while the model lives, but must not be
            written to in place: its pages are mapped.
        verify: check every byte first (SHA-256 of each section, padding, every index entry).
        memory: "map" maps the file; "huge" reads it once into memory for which the system is
            asked to use huge pages: products from main memory gain, loading takes a full read.

    Raises:
        FormatError: the file breaks a rule of formats/SPEC.md; the subclass says which.
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
        OptionError: another value of `memory`.
        OSError: the file cannot be read.
    """
    if memory not in ("map", "huge"):
        raise OptionError(f"memory: found {memory!r}, expected 'map' or 'huge'")
    ensure_isa()
    file = RsrFile(path, memory)
    if verify:
        file.verify()
    return Model(file)


def _as_array(data: npt.NDArray[np.uint8], t: DenseTensor) -> npt.NDArray[Any]:
    if t.dtype == "BF16":
        widened = widen_bf16(data.view("<u2")).reshape(t.shape)
        widened.flags.writeable = False
        return widened
    if t.dtype in _NUMPY:
        return data.view(_NUMPY[t.dtype]).reshape(t.shape)
    return data if t.nbytes != np.prod(t.shape, dtype=np.int64) else data.reshape(t.shape)
