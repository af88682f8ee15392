"""Encode and decode the header: a msgpack map of the records in records.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from io import BytesIO
from typing import Any, TypeVar

import msgpack

from .errors import HeaderFieldError, HeaderSyntaxError, LimitError
from .records import (
    DIGITS,
    DIRECTIONS,
    DTYPE_BITS,
    ENCODINGS,
    FLOAT_DTYPES,
    KINDS,
    LAYOUTS,
    MAX_AUXILIARY,
    MAX_DIMENSION,
    MAX_DIMENSIONS,
    MAX_ENTRIES,
    MAX_HEADER_SIZE,
    MAX_IN_FEATURES,
    MAX_INLINE_BYTES,
    MAX_K,
    MAX_METADATA,
    MAX_OUT_FEATURES,
    MAX_RECORD,
    MAX_ROTATION_BLOCK,
    MAX_STACKED,
    MIN_ROTATION_BLOCK,
    PACKINGS,
    PARTS,
    REUSE,
    ROW_RULES,
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

T = TypeVar("T")
_MAX_INT = (1 << 63) - 1
_MISSING = object()
_READ = 1 << 16  # bytes that the msgpack library buffers


def encode_header(header: Header) -> bytes:
    """Return the msgpack bytes of `header`; equal headers give equal bytes.

    Raises:
        HeaderFieldError: a string is not Unicode text, or an integer exceeds 64 bits.
    """
    document = {
        "producer": header.producer,
        "metadata": _metadata_document(header),
        "files": [_map_of(f) for f in header.files],
        "tensors": [_tensor_document(t) for t in header.tensors],
        **({"stacks": [_map_of(s) for s in header.stacks]} if header.stacks else {}),
        "sections": [_map_of(s) for s in header.sections],
        **({"rotations": [_map_of(r) for r in header.rotations]} if header.rotations else {}),
    }
    try:
        return _packed(document)
    except (UnicodeEncodeError, OverflowError) as error:  # lone surrogate, huge integer
        raise HeaderFieldError(f"header: a field cannot be encoded in msgpack: {error}") from None


def fits_limits(header: Header, encoded: bytes) -> bool:
    """Return whether an encoded header and its metadata are within their limits."""
    metadata = _packed(_metadata_document(header))
    return len(encoded) <= MAX_HEADER_SIZE and len(metadata) <= MAX_METADATA


def _packed(value: object) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True))


def _metadata_document(header: Header) -> dict[str, str]:
    reuse = {} if header.reuse is None else {REUSE: header.reuse}
    return dict(sorted({**header.metadata, **reuse}.items()))


def _map_of(
    record: FileEntry | AuxiliaryTensor | Quantized | Rotation | Section | Stack,
) -> dict[str, Any]:
    """Return a record whose keys in the file are the names of its attributes."""
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _tensor_document(t: Tensor) -> dict[str, Any]:
    if isinstance(t, DenseTensor):
        return {
            "name": t.name,
            "kind": "dense",
            "dtype": t.dtype,
            "shape": t.shape,
            "section": t.section,
            **({} if t.quantized is None else {"quantised": _map_of(t.quantized)}),
            **_rotation_document(t),
        }
    return {
        "name": t.name,
        "kind": t.kind,
        "shape": t.shape,
        "digits": t.digits,
        "k": t.k,
        **({} if t.pattern_list is None else {"patterns": t.pattern_list}),
        **({} if t.stride == 1 else {"stride": t.stride}),
        "direction": t.direction,
        "encoding": t.encoding,
        "packing": t.packing,
        "sections": dict(sorted(t.sections.items())),
        "scale": None if t.scale is None else _scale_document(t.scale),
        "source": {
            "layout": t.source.layout,
            "dtype": t.source.dtype,
            "shape": t.source.shape,
            "negative_zeros": t.source.negative_zeros,
            "companions": [_map_of(a) for a in t.source.auxiliary],
        },
        **_rotation_document(t),
    }


def _rotation_document(t: Tensor) -> dict[str, Any]:
    return {} if t.rotation is None else {"rotation": t.rotation}


def _scale_document(s: Scale) -> dict[str, Any]:
    return {
        "rows": s.rows,
        "section": s.section,
        **({} if s.columns is None else {"columns": s.columns}),
        **({} if s.dtype == "F32" else {"dtype": s.dtype}),
    }


def decode_header(data: bytes) -> Header:
    """Decode a header and check it against the schema of SPEC.md section 5.

    Raises:
        HeaderSyntaxError: it is not exactly one well-formed msgpack value.
        HeaderFieldError: a field is missing, unknown, or of the wrong type or value.
        LimitError: a list or a list entry exceeds a limit.
    """
    top: dict[str, Any] = {}
    try:
        stream = _Stream(data)
        for key in stream.fields():
            if key in top:
                raise HeaderSyntaxError("header: duplicate key in a msgpack map")
            read = _LISTS.get(key)
            if read is not None and stream.is_list():
                items = enumerate(stream.items())
                top[key] = [read(_Fields(v, f"{key}[{i}]")) for i, v in items]
            else:
                top[key] = stream.value(MAX_METADATA, f"header.{key[:32]!r}")
        stream.end()
    except (ValueError, TypeError, MemoryError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise HeaderSyntaxError(f"header: not one well-formed msgpack value: {reason}") from None
    f = _Fields(top, "header")
    metadata = _string_map(f.take("metadata", dict), "header.metadata")
    reuse = metadata.pop(REUSE, None)
    return f.done(
        Header(
            producer=f.string("producer"),
            metadata=metadata,
            files=tuple(f.take("files", list)),
            tensors=tuple(f.take("tensors", list)),
            sections=tuple(f.take("sections", list)),
            stacks=_not_empty(f, "stacks"),
            rotations=_not_empty(f, "rotations"),
            reuse=reuse,
        )
    )


class _Stream:
    """Decodes the msgpack of a header one list entry at a time, which bounds the memory.

    A decoded entry takes up to 70x its bytes, and the msgpack library allocates containers at the
    length that they claim. Every value is therefore skipped first, which allocates nothing and
    proves that all it claims to contain is there.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        # Bytes that are fed to an Unpacker are copied twice; a file is read in pieces.
        self._walk: Any = msgpack.Unpacker(BytesIO(data), read_size=_READ, max_buffer_size=0)

    def fields(self) -> Iterator[str]:
        """Yield the keys of the header; the caller reads each value before the next key."""
        first = self._first()
        if first & 0xF0 != 0x80 and first not in (0xDE, 0xDF):
            self._walk.skip()
            self.end()
            raise HeaderFieldError("header: expected a map")
        for _ in range(self._count(self._walk.read_map_header())):
            key = self.value(MAX_RECORD, "header")
            if not isinstance(key, str):
                raise TypeError(f"a key is {_kind(key)}, expected a string")
            yield key

    def is_list(self) -> bool:
        """Whether the next value is a list."""
        first = self._first()
        return first & 0xF0 == 0x90 or first in (0xDC, 0xDD)

    def _first(self) -> int:
        """Return the first byte of the next value, which encodes its type; 0 at the end."""
        return int.from_bytes(self._data[(at := self._walk.tell()) : at + 1], "big")

    def items(self) -> Iterator[Any]:
        """Yield the entries of the next value, a list."""
        for _ in range(self._count(self._walk.read_array_header())):
            yield self.value(MAX_RECORD, "header")

    def value(self, limit: int, where: str) -> Any:
        """Decode the next value, which may have up to `limit` bytes."""
        start = self._walk.tell()
        self._walk.skip()
        size = self._walk.tell() - start
        if size > limit:
            raise LimitError(f"{where}: an entry of {size} bytes, the limit is {limit}")
        return msgpack.unpackb(
            self._data[start : start + size],
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique_map,
            ext_hook=_no_extension,
        )

    def end(self) -> None:
        """Check that no data follows."""
        if self._walk.tell() != len(self._data):
            raise ValueError(f"it ends at byte {self._walk.tell()} of {len(self._data)}")

    def _count(self, entries: int) -> int:
        if entries > MAX_ENTRIES:
            raise LimitError(f"header: {entries} entries in a list, the limit is {MAX_ENTRIES}")
        return entries


def _unique_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise HeaderSyntaxError("header: duplicate key in a msgpack map")
    return result


def _no_extension(code: int, data: bytes) -> None:
    raise HeaderSyntaxError(f"header: msgpack extension type {code} is not allowed")


class _Fields:
    """The fields of a map. Reading a field removes it; `done` rejects those that are left."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise HeaderFieldError(f"{where}: found {_kind(value)}, expected a map")
        self._left = value
        self.where = where

    def take(self, key: str, kind: type[T]) -> T:
        value = self._left.pop(key, _MISSING)
        if type(value) is kind:  # not isinstance: True is an int
            return value
        raise self._wrong(key, value, _kind(kind()))

    def string(self, key: str, allowed: Collection[str] | None = None) -> str:
        value = self._left.pop(key, _MISSING)
        if type(value) is str and (allowed is None or value in allowed):
            return value if allowed is None else sys.intern(value)  # shared by all tensors
        raise self._wrong(key, value, "a string" if allowed is None else " or ".join(allowed))

    def integer(self, key: str, low: int = 0, high: int = _MAX_INT) -> int:
        value = self._left.pop(key, _MISSING)
        if type(value) is int and low <= value <= high:
            return value
        raise self._wrong(key, value, f"an integer from {low} to {high}")

    def has(self, key: str) -> bool:
        """Whether there is a field `key`: for keys that may be absent."""
        return key in self._left

    def optional(self, key: str) -> bool:
        """Whether field `key` has a value other than nil; nil is removed."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return False
        return True

    def shape(self, key: str = "shape") -> tuple[int, ...]:
        value = self.take(key, list)
        if len(value) > MAX_DIMENSIONS:
            raise LimitError(
                f"{self.where}.{key}: {len(value)} dimensions, the limit is {MAX_DIMENSIONS}"
            )
        for n in value:
            if type(n) is not int or not 0 <= n <= MAX_DIMENSION:
                raise self._wrong(key, n, f"integers from 0 to {MAX_DIMENSION}")
        return tuple(value)

    def each(self, key: str, read: Callable[[_Fields], T]) -> tuple[T, ...]:
        values = enumerate(self.take(key, list))
        return tuple(read(_Fields(v, f"{self.where}.{key}[{i}]")) for i, v in values)

    def done(self, record: T) -> T:
        """Return what was made of the fields, unless some were not read."""
        if self._left:
            extra = ", ".join(sorted(repr(k[:32]) for k in self._left)[:5])
            raise HeaderFieldError(f"{self.where}: unknown field {extra}")
        return record

    def _wrong(self, key: str, value: Any, expected: str) -> HeaderFieldError:
        if value is _MISSING:
            return HeaderFieldError(f"{self.where}: field {key!r} is missing")
        found = repr(value[:64]) if type(value) is str else _kind(value)
        found = str(value) if type(value) is int else found
        return HeaderFieldError(f"{self.where}.{key}: found {found}, expected {expected}")


def _kind(value: Any) -> str:
    names = {dict: "a map", list: "a list", str: "a string", bytes: "bytes", type(None): "nil"}
    return names.get(type(value), type(value).__name__)


def _string_map(value: dict[Any, Any], where: str) -> dict[str, str]:
    for k, v in value.items():
        if not isinstance(k, str) or not isinstance(v, str):
            raise HeaderFieldError(f"{where}: found {_kind(v)}, expected strings only")
    return value


def _read_section(f: _Fields) -> Section:
    section = Section(
        offset=f.integer("offset"),
        stored_size=f.integer("stored_size"),
        size=f.integer("size"),
        codec=sys.intern(f.take("codec", str)),  # validate.py rejects unknown codecs
        sha256=f.take("sha256", bytes),
    )
    if len(section.sha256) != 32:
        raise HeaderFieldError(f"{f.where}.sha256: found {len(section.sha256)} bytes, expected 32")
    return f.done(section)


def _read_file(f: _Fields) -> FileEntry:
    return f.done(FileEntry(f.string("name"), f.integer("section")))


def _read_rotation(f: _Fields) -> Rotation:
    return f.done(
        Rotation(f.integer("block", MIN_ROTATION_BLOCK, MAX_ROTATION_BLOCK), f.take("signs", bytes))
    )


def _read_tensor(f: _Fields) -> Tensor:
    kind = f.string("kind", ("dense", *KINDS.values()))
    if kind != "dense":
        return f.done(_read_indexed(f, kind))
    tensor = DenseTensor(
        name=f.string("name"),
        dtype=f.string("dtype", DTYPE_BITS),
        shape=f.shape(),
        section=f.integer("section"),
        quantized=_read_quantized(f) if f.has("quantised") else None,
        rotation=f.integer("rotation") if f.has("rotation") else None,
    )
    return f.done(tensor)


def _read_quantized(f: _Fields) -> Quantized:
    g = _Fields(f.take("quantised", dict), f"{f.where}.quantised")
    rule, of = g.string("rule", ROW_RULES), g.string("of")
    return g.done(Quantized(rule, of, g.string("dtype", FLOAT_DTYPES)))


def _read_indexed(f: _Fields, kind: str) -> IndexedTensor:
    shape = f.shape()
    if len(shape) != 2:
        raise HeaderFieldError(f"{f.where}.shape: {len(shape)} dimensions, expected 2")
    digits = tuple(f.take("digits", list))
    if (
        any(type(d) is not int for d in digits)
        or digits not in DIGITS
        or kind != KINDS[len(digits)]
    ):
        raise HeaderFieldError(f"{f.where}.digits: not a digit alphabet of kind {kind}")
    encoding = f.string("encoding", ENCODINGS)
    g = _Fields(f.take("sections", dict), f"{f.where}.sections")
    parts = g.done({part: g.integer(part) for part in PARTS[encoding]})
    return IndexedTensor(
        name=f.string("name"),
        shape=(shape[0], shape[1]),
        digits=digits,
        k=f.integer("k", 1, MAX_K),
        direction=f.string("direction", DIRECTIONS),
        encoding=encoding,
        packing=f.string("packing", PACKINGS[encoding]),
        sections=parts,
        scale=_read_scale(f),
        source=_read_source(_Fields(f.take("source", dict), f"{f.where}.source")),
        pattern_list=f.take("patterns", bytes) if f.has("patterns") else None,
        stride=f.integer("stride", 2, MAX_IN_FEATURES) if f.has("stride") else 1,
        rotation=f.integer("rotation") if f.has("rotation") else None,
    )


def _read_scale(f: _Fields) -> Scale | None:
    if not f.optional("scale"):
        return None
    g = _Fields(f.take("scale", dict), f"{f.where}.scale")
    scale = Scale(
        g.integer("rows", 1, MAX_OUT_FEATURES),
        g.integer("section"),
        g.integer("columns", 1, MAX_IN_FEATURES) if g.has("columns") else None,
        g.string("dtype", ("F16",)) if g.has("dtype") else "F32",
    )
    return g.done(scale)


def _read_source(f: _Fields) -> SourceRecord:
    record = SourceRecord(
        layout=f.string("layout", LAYOUTS),
        dtype=f.string("dtype", DTYPE_BITS),
        shape=f.shape(),
        negative_zeros=f.integer("negative_zeros") if f.optional("negative_zeros") else None,
        auxiliary=f.each("companions", _read_auxiliary),
    )
    if len(record.auxiliary) > MAX_AUXILIARY:
        raise LimitError(
            f"{f.where}.companions: {len(record.auxiliary)} entries, the limit is {MAX_AUXILIARY}"
        )
    return f.done(record)


def _not_empty(f: _Fields, key: str) -> tuple[Any, ...]:
    """Return a list that is absent if it is empty."""
    if not f.has(key):
        return ()
    found = tuple(f.take(key, list))
    if not found:
        raise HeaderFieldError(f"{f.where}.{key}: an empty list, expected none")
    return found


def _read_stack(f: _Fields) -> Stack:
    stack = Stack(f.string("name"), f.shape(), f.string("prefix"), tuple(f.take("suffixes", list)))
    if len(stack.shape) != 3:
        raise HeaderFieldError(f"{f.where}.shape: {len(stack.shape)} dimensions, expected 3")
    if not 1 <= len(stack.suffixes) <= MAX_STACKED:
        raise LimitError(
            f"{f.where}.suffixes: {len(stack.suffixes)} entries, expected 1 to {MAX_STACKED}"
        )
    if any(type(suffix) is not str for suffix in stack.suffixes):
        raise HeaderFieldError(f"{f.where}.suffixes: expected strings")
    return f.done(stack)


def _read_auxiliary(f: _Fields) -> AuxiliaryTensor:
    auxiliary = AuxiliaryTensor(
        name=f.string("name"),
        dtype=f.string("dtype", DTYPE_BITS),
        shape=f.shape(),
        data=f.take("data", bytes) if f.optional("data") else None,
    )
    if auxiliary.data is not None and len(auxiliary.data) > MAX_INLINE_BYTES:
        raise LimitError(
            f"{f.where}.data: {len(auxiliary.data)} bytes, the limit is {MAX_INLINE_BYTES}"
        )
    return f.done(auxiliary)


_LISTS: dict[str, Callable[[_Fields], Any]] = {
    "files": _read_file,
    "tensors": _read_tensor,
    "stacks": _read_stack,
    "sections": _read_section,
    "rotations": _read_rotation,
}
