"""Reuse the sections of an earlier compilation: `rsrc compile --reuse`.

An indexed tensor has a key: a hash of its source bytes and of everything else that decides what its
sections hold. The entry `rsr.reuse` of the metadata (formats/SPEC.md, section 5.1) has the keys of
all indexed tensors of a file. Dense tensors and model files need none: their sections are compared
with the source.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.compression import compression_name, decompressed
from rsr_formats.errors import FormatError, TruncatedError
from rsr_formats.parts import FileParts
from rsr_formats.records import DenseTensor, Header, IndexedTensor, Section
from rsr_formats.text import listed

from .._version import __version__
from ..common.arrays import ByteArray
from ..layouts import Layout
from ..layouts.scales import ScaleGrid
from ..source.tensor import SourceTensor
from .plan import IndexPlan

PRODUCER = f"rsrc {__version__}"
_KEY_BYTES = 16


def content_hash(raw: ByteArray) -> bytes:
    """Return the SHA-256 of a tensor's source bytes, uint8 (nbytes,)."""
    return hashlib.sha256(raw.data).digest()


def key_of(p: IndexPlan, content: bytes) -> bytes:
    """Return the key of an indexed tensor: equal keys mean that sections are equal.

    What the user chose, what config.json says and what other tensors hold is in the plan. The name
    is left out, so that a renamed tensor is found.

    Args:
        p: its plan, before patterns are listed.
        content: the hash of its source bytes.
    """
    t = p.source
    held = (
        __version__,
        _plain(t.tensor.form),
        _held(t, "tensor", "note", "auxiliary", "quality"),
        _held(p, "source"),
    )
    return hashlib.sha256(content + repr(held).encode()).digest()[:_KEY_BYTES]


def _held(record: Any, *left_out: str) -> tuple[Any, ...]:
    """Return the fields of a dataclass; those that are not in its repr follow from others."""
    names = (f.name for f in fields(record) if f.repr and f.name not in left_out)
    return tuple(_plain(getattr(record, name)) for name in names)


def _plain(value: Any) -> Any:
    """Return a value whose repr says all that `value` holds, the same in every process."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Layout | ScaleGrid):
        return type(value).__name__, _plain(tuple(sorted(vars(value).items())))
    if is_dataclass(value):
        return type(value).__name__, _held(value)
    return value


@dataclass(frozen=True)
class ReuseEntry:
    """The entry `rsr.reuse` of the metadata.

    Attributes:
        compression: how sections are compressed, as `compression_name` returns it.
        keys: of the indexed tensors, in the order of the file.
    """

    compression: str
    keys: tuple[bytes, ...]

    def encoded(self) -> str:
        """Return the entry as it is in the file."""
        return f"{self.compression} {b64encode(b''.join(self.keys)).decode()}"

    @classmethod
    def of(cls, header: Header) -> ReuseEntry | None:
        """Return the entry of a file, None if it has none or an invalid one."""
        compression, _, text = (header.reuse or "").partition(" ")
        try:
            data = b64decode(text, validate=True)
        except ValueError:
            return None
        keys = tuple(data[i : i + _KEY_BYTES] for i in range(0, len(data), _KEY_BYTES))
        indexed = sum(isinstance(t, IndexedTensor) for t in header.tensors)
        is_valid = compression and len(data) == _KEY_BYTES * indexed
        return cls(compression, keys) if is_valid else None


class OldFile:
    """An earlier `.rsr` file whose sections are reused.

    Args:
        path: the file.
        zstd: the level at which the new file is compressed, None if it is not.

    Attributes:
        parts: its bytes.
        damaged: what would have been reused, but is damaged.

    Raises:
        FormatError: it is not a valid `.rsr` file.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], zstd: int | None) -> None:
        self._path = Path(path)
        self._header = RsrFile(path).header
        self._names = self._header.owners()
        self.damaged: list[str] = []
        self._by_key: dict[bytes, IndexedTensor] = {}
        self._dense: dict[str, DenseTensor] = {}
        self._files: dict[str, int] = {}
        entry = ReuseEntry.of(self._header)
        self._reason = self._why_not(entry, compression_name(zstd))
        if entry is not None and self._reason is None:
            tensors = self._header.tensors
            indexed = [t for t in tensors if isinstance(t, IndexedTensor)]
            self._by_key = dict(zip(entry.keys, indexed, strict=True))
            self._dense = {t.name: t for t in tensors if isinstance(t, DenseTensor)}
            self._files = {f.name: f.section for f in self._header.files}
        self.parts = FileParts(self._path)

    def __enter__(self) -> OldFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file: Windows cannot replace an open one."""
        self.parts.close()

    def _why_not(self, entry: ReuseEntry | None, compression: str) -> str | None:
        """Return why nothing can be reused, None if something can."""
        if entry is None:
            return (
                f"nothing was reused: {self._path} has no keys of its tensors; it was compiled by "
                "an earlier version, or has too many tensors"
            )
        if entry.compression != compression:
            return (
                f"nothing was reused: {self._path} has compression {entry.compression[:64]!r}, "
                f"the new file {compression!r}"
            )
        return None

    def notes(self, reused: int) -> list[str]:
        """Return what the user should know, as sentences.

        Args:
            reused: how many indexed tensors were.
        """
        if self._reason is not None:
            return [self._reason]
        notes = []
        if self.damaged:
            names = listed(sorted(set(self.damaged)))
            notes.append(f"{self._path} is damaged and was not reused for: {names}")
        elif not reused:
            producer = self._header.producer
            other = "" if producer == PRODUCER else f"; {producer[:64]} compiled it, not {PRODUCER}"
            notes.append(f"no index was reused: none in {self._path} fits the source{other}")
        return notes

    def section(self, number: int) -> Section:
        """Return the entry of a section."""
        return self._header.sections[number]

    def indexed(self, key: bytes) -> IndexedTensor | None:
        """Return the tensor with a key, None if there is none or it is damaged."""
        record = self._by_key.get(key)
        if record is None or not all(map(self._is_intact, record.all_sections().values())):
            return None
        return record

    def dense(self, t: SourceTensor) -> Section | None:
        """Return the section that holds a tensor of the source, None if there is none."""
        record = self._dense.get(t.name)
        if record is None or (record.dtype, record.shape) != (t.dtype, t.shape):
            return None
        return self._if_same(record.section, t.pieces())

    def file(self, name: str, pieces: Iterator[bytes]) -> Section | None:
        """Return the section that holds a model file with these bytes, None if there is none."""
        number = self._files.get(name)
        return None if number is None else self._if_same(number, pieces)

    def _if_same(
        self, number: int, pieces: Iterator[memoryview] | Iterator[bytes]
    ) -> Section | None:
        """Return a section if it is intact and its contents are `pieces`."""
        s = self.section(number)
        contents = self.parts.pieces(s.offset, s.stored_size)
        if s.codec == "zstd":
            contents = decompressed(self.parts.part(s.offset, s.stored_size), self._names[number])
        try:
            is_same = _is_same(contents, pieces)
        except FormatError:
            self.damaged.append(self._names[number])
            return None
        return s if is_same and self._is_intact(number) else None

    def _is_intact(self, number: int) -> bool:
        s = self.section(number)
        digest = hashlib.sha256()
        with suppress(TruncatedError):
            for piece in self.parts.pieces(s.offset, s.stored_size):
                digest.update(piece)
            if digest.digest() == s.sha256:
                return True
        self.damaged.append(self._names[number])
        return False


def _is_same(a: Iterator[memoryview], b: Iterator[memoryview] | Iterator[bytes]) -> bool:
    """Return whether two sequences of pieces hold the same bytes."""
    left, right = memoryview(b""), memoryview(b"")
    while True:
        left = left or next(a, memoryview(b""))
        right = right or memoryview(next(b, b""))
        count = min(len(left), len(right))
        if not count:
            return not left and not right
        if (np.frombuffer(left, np.uint8, count) != np.frombuffer(right, np.uint8, count)).any():
            return False
        left, right = left[count:], right[count:]
