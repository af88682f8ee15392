"""A loaded `.rsr` file: a mapping from tensor names to matrices and arrays."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from rsr_formats import records
from rsr_formats.pages import huge_page_bytes
from rsr_formats.reader import RsrFile
from rsr_formats.text import alternatives

from .cpu import ensure_isa
from .dense import DenseTensor
from .errors import ClosedError, InputTypeError, OptionError, ReplacedError, UnknownNameError
from .huge_pages import Mover, worth_moving
from .matrix import Matrix
from .rotation import Rotation

Identity = tuple[str, str, bytes]  # what a pickle holds: absolute path, memory, digest of the file


class _Handle:
    """The file, until the model is closed. Matrices and `Files` hold this instead of the model."""

    def __init__(self, file: RsrFile, memory: str) -> None:
        self._file: RsrFile | None = file
        self._mover: Mover | None = None
        self.identity: Identity = (str(file.path.absolute()), memory, file.digest)
        self._rotations = [Rotation(r) for r in file.header.rotations]
        if memory == "auto":
            self.move(file.header.tensors, time.process_time)

    def file(self) -> RsrFile:
        file = self._file
        if file is None:
            raise ClosedError("the model was closed")
        return file

    def is_closed(self) -> bool:
        return self._file is None

    def rotation(self, t: records.Tensor) -> Rotation | None:
        return None if t.rotation is None else self._rotations[t.rotation]

    def move(self, tensors: Iterable[records.Tensor], busy: Callable[[], float]) -> None:
        """Move these tensors, and no others, into huge pages as soon as that pays."""
        file = self.file()
        pieces = worth_moving(file.memory(), file.ranges(tensors))
        self._end_move()
        if pieces:
            self._mover = Mover(pieces, busy)
            weakref.finalize(self, self._mover.stop)

    def move_now(self) -> None:
        mover = self._mover
        if mover is not None:
            mover.move_now()

    def close(self) -> None:
        self._file = None
        self._end_move()

    def _end_move(self) -> None:
        mover, self._mover = self._mover, None
        if mover is not None:
            mover.close()


class Model(Mapping[str, "Matrix | npt.NDArray[Any]"]):
    """The tensors of a `.rsr` file, made by `rsr_runtime.load`.

    `matrix`, `dense` and `matrices` return typed objects. As a mapping, a model returns a `Matrix`
    for an indexed tensor and a read-only array for a dense one: its `DenseTensor.data`, except that
    BF16 is widened to float32, which copies it on every access. A loop over `values()` or `items()`
    makes such a copy of every BF16 tensor; `dense` makes none.

    As a context manager, a model closes its file. Several threads may use it at the same time.

    A model is pickled as the path of its file, and so is a matrix: every process opens the file
    itself. With memory "map" all processes share its pages.

    Attributes:
        files: the model's small files (config.json, tokenizer.json, ...): name to bytes.
    """

    def __init__(self, handle: _Handle) -> None:
        file, self._handle = handle.file(), handle
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
            UnknownNameError: no tensor has that name; it is a KeyError.
            FormatError: the compressed data of a dense tensor is damaged.
            ClosedError: the model was closed.
        """
        tensor = self._open_record(name)
        if not isinstance(tensor, records.DenseTensor):
            return self._matrix(tensor)
        dense = self._dense(tensor)
        return dense.to_float32() if dense.dtype == "BF16" else dense.data

    def matrix(self, name: str) -> Matrix:
        """Return an indexed tensor; its first use checks its scales, and a permuted index.

        Raises:
            UnknownNameError: no tensor has that name; it is a KeyError.
            OptionError: the tensor is dense.
            ClosedError: the model was closed.
        """
        tensor = self._open_record(name)
        if isinstance(tensor, records.DenseTensor):
            raise OptionError(
                f"{name!r} is a dense {tensor.dtype} tensor, expected an indexed matrix: "
                "use model.dense(name)"
            )
        return self._matrix(tensor)

    def dense(self, name: str) -> DenseTensor:
        """Return a dense tensor as stored, without copying or widening it.

        Raises:
            UnknownNameError: no tensor has that name; it is a KeyError.
            OptionError: the tensor is an indexed matrix.
            FormatError: the compressed data is damaged.
            ClosedError: the model was closed.
        """
        tensor = self._open_record(name)
        if not isinstance(tensor, records.DenseTensor):
            raise OptionError(
                f"{name!r} is an indexed matrix, expected a dense tensor: use model.matrix(name)"
            )
        return self._dense(tensor)

    def matrices(self) -> Iterator[Matrix]:
        """Iterate over the indexed tensors in file order; `Matrix.name` is the name of each.

        Raises:
            ClosedError: the model was closed.
        """
        for name in self._tensors:
            if self.is_indexed(name):
                yield self.matrix(name)

    def is_indexed(self, name: str) -> bool:
        """Return whether a tensor is a `Matrix`.

        Raises:
            UnknownNameError: no tensor has that name; it is a KeyError.
        """
        return not isinstance(self.record(name), records.DenseTensor)

    def record(self, name: str) -> records.Tensor:
        """Return what the header of the file says of a tensor, also after `close`.

        Raises:
            UnknownNameError: no tensor has that name; it is a KeyError.
        """
        try:
            return self._tensors[name]
        except (KeyError, TypeError):  # TypeError: no hash
            raise _unknown("tensor", name, list(self._tensors)) from None

    def move_by(self, names: Iterable[str], busy: Callable[[], float]) -> None:
        """Say what products read, and what they cost, for memory "auto"; other memory ignores it.

        Args:
            names: the tensors worth moving into huge pages; at first all of them.
            busy: returns the seconds that products have taken so far; at first the processor time
                of the process.

        Raises:
            UnknownNameError: the model has no such tensor.
            ClosedError: the model was closed.
        """
        tensors = [self._open_record(name) for name in names]
        if self._handle.identity[1] == "auto":
            self._handle.move(tensors, busy)

    def use_huge_pages(self) -> None:
        """Move a model with memory "auto" into huge pages now, and return when that is done.

        It stays mapped if the system has none, or if it would take more than half of the memory
        available. Nothing happens with other memory, or in a child made by `fork`: move the model
        before the fork, or load it in the child.

        Raises:
            ClosedError: the model was closed.
        """
        self._handle.file()
        self._handle.move_now()

    def mapped_bytes(self) -> int:
        """Return the bytes of the file if it is mapped, 0 with memory "huge".

        The system drops mapped pages if it needs memory, and reads them again when they are used.

        Raises:
            ClosedError: the model was closed.
        """
        mapped = self._handle.file().memory().nbytes
        return 0 if self._handle.identity[1] == "huge" else mapped

    def huge_page_bytes(self) -> int:
        """Return how many bytes of the file lie in huge pages; 0 if the system does not say.

        Raises:
            ClosedError: the model was closed.
        """
        return huge_page_bytes(self._handle.file().memory())

    def stored(self, name: str) -> npt.NDArray[Any]:
        """Return `dense(name).data`. Deprecated: use that."""
        warnings.warn(
            "Model.stored(name) is deprecated: use Model.dense(name).data",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.dense(name).data

    def _open_record(self, name: str) -> records.Tensor:
        self._handle.file()  # first, because a closed model raises for any name
        return self.record(name)

    def _matrix(self, tensor: records.IndexedTensor) -> Matrix:
        with self._lock:
            if tensor.name not in self._matrices:
                self._matrices[tensor.name] = _open_matrix(self._handle, tensor)
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
        rotation = self._handle.rotation(tensor)
        return DenseTensor.from_bytes(tensor.name, tensor.dtype, tensor.shape, data, rotation)

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

    @property
    def digest(self) -> bytes:
        """A hash of the file: SHA-256 of its header, which holds the hash of every section."""
        return self._handle.identity[2]

    def __reduce__(self) -> tuple[Callable[..., Model], Identity]:
        """Pickle the path of the file: the process that unpickles loads it again.

        Raises:
            ClosedError: the model was closed.
        """
        self._handle.file()
        return _load_pickled, self._handle.identity

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
        try:
            section = self._sections[name]
        except (KeyError, TypeError):  # TypeError: no hash
            raise _unknown("file", name, list(self._sections)) from None
        return self._handle.file().section(section).tobytes()

    def __contains__(self, name: object) -> bool:
        return name in self._sections

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def __repr__(self) -> str:
        return f"<files: {', '.join(self._sections) or 'none'}>"

    def __reduce__(self) -> tuple[type[dict[str, bytes]], tuple[dict[str, bytes]]]:
        return dict, (dict(self),)


def load(path: str | os.PathLike[str], verify: bool = False, memory: str = "map") -> Model:
    """Open a `.rsr` file. Only the header is read and checked; each tensor is read when used.

    Args:
        path: the file. It may be renamed or replaced while the model is open, but must not be
            modified in place, because its pages are mapped.
        verify: check every byte first: SHA-256 of each section, padding, every index entry.
        memory: "map" maps the file. "huge" reads it into memory backed by huge pages where the
            system grants them: products from main memory get faster, loading reads the whole file.
            "auto" maps the file, and moves it into huge pages, in a thread of its own, once the
            process has computed for so long that this pays; a file that takes more than half of
            the memory available stays mapped. Huge pages are memory of this process, unless the
            system can collect the pages of the file itself.

    Raises:
        FormatError: the file breaks a rule of formats/SPEC.md; the subclass says which.
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
        OptionError: `memory` has another value.
        InputTypeError: `path` is not a path.
        OSError: the file cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputTypeError(f"path: found {type(path).__name__}, expected the path of a .rsr file")
    if memory not in ("auto", "map", "huge"):
        raise OptionError(f"memory: found {memory!r}, expected 'auto', 'map' or 'huge'")
    ensure_isa()
    file = _open(path, memory)
    if verify:
        file.verify()
    return Model(_Handle(file, memory))


def _open(path: str | os.PathLike[str], memory: str) -> RsrFile:
    return RsrFile(path, "huge" if memory == "huge" else "map")


def _unknown(what: str, name: object, names: Sequence[str]) -> UnknownNameError:
    if not isinstance(name, str):
        return UnknownNameError(f"found {type(name).__name__}, expected the name of a {what}")
    return UnknownNameError(f"the model has no {what} {name!r:.130}; {alternatives(name, names)}")


# --- pickling -----------------------------------------------------------------------------------

_shared: WeakValueDictionary[Identity, _Handle] = WeakValueDictionary()  # of unpickled matrices
_shared_lock = threading.Lock()


def _load_pickled(path: str, memory: str, digest: bytes) -> Model:
    return Model(_Handle(_open_same(path, memory, digest), memory))


def _load_pickled_matrix(path: str, memory: str, digest: bytes, name: str) -> Matrix:
    """Load one matrix; matrices of one file share its memory."""
    identity = path, memory, digest
    with _shared_lock:
        handle = _shared.get(identity)
        if handle is None:
            handle = _shared[identity] = _Handle(_open_same(path, memory, digest), memory)
    tensor = next(t for t in handle.file().header.tensors if t.name == name)
    assert isinstance(tensor, records.IndexedTensor)
    return _open_matrix(handle, tensor)


def _open_same(path: str, memory: str, digest: bytes) -> RsrFile:
    ensure_isa()
    file = _open(path, memory)
    if file.digest != digest:
        raise ReplacedError(
            f"{path} was replaced since the model was pickled: load the new file instead"
        )
    return file


def _open_matrix(handle: _Handle, tensor: records.IndexedTensor) -> Matrix:
    origin = _load_pickled_matrix, (*handle.identity, tensor.name)
    rotation = handle.rotation(tensor)
    return Matrix(
        tensor, lambda: handle.file().index_arrays(tensor), handle.is_closed, origin, rotation
    )
