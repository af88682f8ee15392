"""Read the header of a GGUF file: metadata, and where the tensors are (ggml, docs/gguf.md).

The file is untrusted: every count and length is checked against the remaining bytes before memory
is allocated for it. types.py interprets the tensors' bytes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from rsr_formats.contents import GGUF

from ...common.errors import SourceError
from ..wrong_file import expect

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Limits, far above every published file.
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 15
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 60  # of a tensor
MAX_ARRAY = 1 << 22  # elements of an array in the metadata
MAX_ARRAYS = 1 << 14  # nested arrays, of all keys together
MAX_NAME_BYTES = 1024  # of a key, or of a tensor's name
MAX_STRING_BYTES = 1 << 24
MAX_ALIGNMENT = 1 << 16

_STRING, _ARRAY = 8, 9
_BOOL = 7
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "?", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Strings(Sequence[str]):
    """An array of strings, each decoded on access: a tokenizer has hundreds of thousands.

    Raises:
        SourceError: on access, if a string is not valid UTF-8.
    """

    def __init__(self, data: bytes, ends: npt.NDArray[np.int64], where: str) -> None:
        self._data, self._ends, self._where = data, ends, where

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = 8 + (int(self._ends[index - 1]) if index else 0)
        return _text(self._data[start : int(self._ends[index])], f"{self._where}[{index}]")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for index, end in enumerate(self._ends.tolist()):
            yield _text(self._data[start + 8 : end], f"{self._where}[{index}]")
            start = end


# str, int, float or bool; an array of numbers is a NumPy array, an array of strings is `Strings`,
# an array of arrays is a list.
Value = Any


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the header describes it."""

    path: Path
    name: str
    shape: tuple[int, ...]  # row-major: the reverse of GGUF's order
    type_id: int
    offset: int  # in the file
    room: int  # bytes to the next tensor, or to the end of the file


@dataclass(frozen=True)
class Header:
    """The header of a file."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]  # by offset
    alignment: int


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file, version 2 or 3, little-endian.

    Raises:
        SourceError: it is not such a file, is truncated or inconsistent, or exceeds a limit.
    """
    expect(path, GGUF)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 24:
            raise SourceError(
                f"{path}: {size} bytes are too few for a GGUF file: download it again"
            )
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(path, data, size))


class _Cursor:
    """Reads values from a file, never beyond its end."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size = path, data, size
        self.position = 0
        self.arrays_left = MAX_ARRAYS

    def fail(self, message: str) -> SourceError:
        return SourceError(f"{self.path}: not a valid GGUF file: {message}")

    def take(self, count: int, what: str) -> int:
        """Advance by `count` bytes and return where they begin."""
        start = self.position
        if count > self.size - start:
            raise self.fail(
                f"{what} at byte {start} needs {count} bytes, but the file ends after "
                f"{self.size - start}: download it again"
            )
        self.position += count
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self.take(4, what))[0])

    def u64(self, what: str, limit: int | None = None) -> int:
        value = int(_U64.unpack_from(self.data, self.take(8, what))[0])
        if limit is not None and value > limit:
            raise self.fail(f"{what} is {value}, the limit is {limit}")
        return value

    def string(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        length = self.u64(f"the length of {what}", limit)
        start = self.take(length, what)
        return _text(self.data[start : start + length], f"{self.path}: {what}")

    def numbers(self, dtype: str, count: int, what: str) -> npt.NDArray[Any]:
        item = np.dtype(dtype)
        start = self.take(count * item.itemsize, what)
        raw = np.frombuffer(self.data[start : self.position], np.uint8)
        return raw != 0 if dtype == "?" else raw.view(item)

    def strings(self, count: int, what: str) -> Strings:
        first = self.position
        if 8 * count > self.size - first:
            raise self.fail(f"{what} lists {count} strings, but the file ends before them")
        ends = np.empty(count, np.int64)
        unpack, data, position, last = _U64.unpack_from, self.data, first, self.size - 8
        for i in range(count):
            if position > last:
                raise self.fail(f"the file ends in string {i} of {what}")
            position += 8 + unpack(data, position)[0]
            if position > self.size:
                raise self.fail(f"the file ends in string {i} of {what}")
            ends[i] = position - first
        self.position = position
        return Strings(data[first:position], ends, f"{self.path}: {what}")

    def value(self, what: str) -> Value:
        kind = self.u32(f"the type of {what}")
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what)
        return self.numbers(self.dtype(kind, what), 1, what)[0].item()

    def array(self, what: str, inner: bool = False) -> Value:
        kind = self.u32(f"the element type of {what}")
        nested = kind == _ARRAY
        if nested and inner:
            raise self.fail(f"{what} has arrays nested three deep, the limit is two")
        limit = self.arrays_left if nested else MAX_ARRAY
        count = self.u64(f"the length of {what}", limit)
        if nested:
            self.arrays_left -= count
            return [self.array(what, inner=True) for _ in range(count)]
        if kind == _STRING:
            return self.strings(count, what)
        return self.numbers(self.dtype(kind, what), count, what)

    def dtype(self, kind: int, what: str) -> str:
        if kind not in _NUMBERS:
            raise self.fail(f"{what} has value type {kind}, expected 0 to 12")
        return _NUMBERS[kind]


def _read(c: _Cursor) -> Header:
    c.take(4, "magic")
    if c.data[:4] != MAGIC:
        raise SourceError(
            f"{c.path}: begins with {c.data[:4]!r}, expected {MAGIC!r} of a GGUF file"
        )
    version = c.u32("version")
    if version & 0xFFFF == 0 and version:
        raise SourceError(
            f"{c.path}: a big-endian GGUF file: convert it with gguf_convert_endian of the gguf "
            "package"
        )
    if version not in VERSIONS:
        raise SourceError(f"{c.path}: GGUF version {version}, expected 2 or 3")
    tensor_count = c.u64("tensor count", MAX_TENSORS)
    key_count = c.u64("key count", MAX_KEYS)
    metadata: dict[str, Value] = {}
    for i in range(key_count):
        key = c.string(f"key {i}", MAX_NAME_BYTES)
        if key in metadata:
            raise c.fail(f"key {key[:80]!r} occurs twice")
        metadata[key] = c.value(f"value of {key[:80]!r}")
    alignment = _alignment(c, metadata)
    listed: list[_Listed] = []
    names: set[str] = set()
    for i in range(tensor_count):
        name = c.string(f"name of tensor {i}", MAX_NAME_BYTES)
        if name in names:
            raise c.fail(f"tensor {name[:80]!r} occurs twice")
        names.add(name)
        listed.append(_tensor(c, name, alignment))
    start = -(-c.position // alignment) * alignment
    return Header(c.path, metadata, tuple(_place(c, listed, start)), alignment)


def _alignment(c: _Cursor, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise c.fail(
            f"general.alignment is {str(value)[:40]!r}, expected a power of two up to "
            f"{MAX_ALIGNMENT}"
        )
    return int(value)


class _Listed(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int  # from the start of the tensor data


def _tensor(c: _Cursor, name: str, alignment: int) -> _Listed:
    what = f"tensor {name[:80]!r}"
    dimensions = c.u32(f"dimension count of {what}")
    if dimensions > MAX_DIMENSIONS:
        raise c.fail(f"{what} has {dimensions} dimensions, the limit is {MAX_DIMENSIONS}")
    sizes = [c.u64(f"dimension {i} of {what}", MAX_ELEMENTS) for i in range(dimensions)]
    if prod(n for n in sizes if n) > MAX_ELEMENTS:
        raise c.fail(f"{what} has shape {sizes}, more than {MAX_ELEMENTS} elements")
    type_id = c.u32(f"type of {what}")
    offset = c.u64(f"offset of {what}")
    if offset % alignment:
        raise c.fail(f"{what} begins at offset {offset}, which is not a multiple of {alignment}")
    return _Listed(name, tuple(reversed(sizes)), type_id, offset)


def _place(c: _Cursor, listed: list[_Listed], start: int) -> Iterator[TensorInfo]:
    """Yield tensors by offset, each with its room; a tensor without elements needs none."""
    ordered = sorted(listed, key=lambda t: (t.offset, prod(t.shape)))
    ends = [*(start + t.offset for t in ordered[1:]), c.size]
    for t, end in zip(ordered, ends, strict=False):  # c.size, even without tensors
        begin = start + t.offset
        if begin > c.size:
            raise c.fail(
                f"tensor {t.name[:80]!r} begins at byte {begin}, but the file has {c.size}: "
                "download it again"
            )
        room = max(0, min(end, c.size) - begin)
        yield TensorInfo(c.path, t.name, t.shape, t.type_id, begin, room)


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{where} is not valid UTF-8: {error.reason}") from None
