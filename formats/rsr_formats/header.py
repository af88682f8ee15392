"""The header: msgpack to dataclasses and back, every field typed, bounded and accounted for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from .errors import HeaderFieldError, HeaderSyntaxError, LimitError
from .layout import (
    DIGITS,
    DIRECTIONS,
    DTYPE_BITS,
    ENCODINGS,
    MAX_DIMENSION,
    MAX_DIMENSIONS,
    MAX_ENTRIES,
    MAX_INLINE_BYTES,
    PACKINGS,
    DenseTensor,
    FileEntry,
    Header,
    IndexedTensor,
    InlineTensor,
    Scale,
    Section,
    SourceRecord,
    Tensor,
)

T = TypeVar("T")
_MAX_INT = (1 << 63) - 1


def encode_header(header: Header) -> bytes:
    """Return the msgpack bytes of `header`; equal headers give equal bytes."""
    document = {
        "producer": header.producer,
        "metadata": dict(sorted(header.metadata.items())),
        "files": [{"name": f.name, "section": f.section} for f in header.files],
        "tensors": [_tensor_document(t) for t in header.tensors],
        "sections": [
            {
                "offset": s.offset,
                "stored_size": s.stored_size,
                "size": s.size,
                "codec": s.codec,
                "sha256": s.sha256,
            }
            for s in header.sections
        ],
    }
    return bytes(msgpack.packb(document, use_bin_type=True))


def _tensor_document(t: Tensor) -> dict[str, Any]:
    if isinstance(t, DenseTensor):
        return {
            "name": t.name,
            "kind": "dense",
            "dtype": t.dtype,
            "shape": list(t.shape),
            "section": t.section,
        }
    return {
        "name": t.name,
        "kind": t.kind,
        "shape": list(t.shape),
        "digits": list(t.digits),
        "k": t.k,
        "direction": t.direction,
        "encoding": t.encoding,
        "packing": t.packing,
        "sections": t.sections,
        "scale": None if t.scale is None else {"rows": t.scale.rows, "section": t.scale.section},
        "source": {
            "layout": t.source.layout,
            "dtype": t.source.dtype,
            "shape": list(t.source.shape),
            "negative_zeros": t.source.negative_zeros,
            "companions": [
                {"name": c.name, "dtype": c.dtype, "shape": list(c.shape), "data": c.data}
                for c in t.source.companions
            ],
        },
    }


def decode_header(data: bytes) -> Header:
    """Read a header, refusing anything the schema of SPEC.md section 5 does not define.

    Raises:
        HeaderSyntaxError: not exactly one well-formed msgpack value.
        HeaderFieldError: a field is missing, unknown, or of the wrong type or value.
        LimitError: a list, map or string exceeds a limit.
    """
    top = _Fields(_unpack(data), "header")
    header = Header(
        producer=top.string("producer"),
        metadata=_string_map(top.take("metadata", dict), "header.metadata"),
        files=top.each("files", _read_file),
        tensors=top.each("tensors", _read_tensor),
        sections=top.each("sections", _read_section),
    )
    top.done()
    return header


def _unpack(data: bytes) -> Any:
    # An element takes a byte at least, so no honest length exceeds the header's own.
    most = min(MAX_ENTRIES, len(data))
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique_map,
            ext_hook=_no_extension,
            max_array_len=most,
            max_map_len=most,
        )
    except HeaderSyntaxError:
        raise
    except (ValueError, TypeError, MemoryError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        if "exceeds max" in reason:
            raise LimitError(f"header: {reason}; the limit is {most} entries") from None
        raise HeaderSyntaxError(f"header is not one well-formed msgpack value: {reason}") from None


def _unique_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise HeaderSyntaxError("header: a msgpack map has the same key twice")
    return result


def _no_extension(code: int, data: bytes) -> None:
    raise HeaderSyntaxError(f"header: msgpack extension type {code} is not allowed")


class _Fields:
    """The fields of one map: each is taken once, with its type; what is left over is an error."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise HeaderFieldError(f"{where}: expected a map, found {_kind(value)}")
        self._left = dict(value)
        self.where = where

    def take(self, key: str, kind: type[T]) -> T:
        if key not in self._left:
            raise HeaderFieldError(f"{self.where}: field {key!r} is missing")
        value = self._left.pop(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise HeaderFieldError(
                f"{self.where}.{key}: expected {kind.__name__}, found {_kind(value)}"
            )
        return value

    def string(self, key: str, allowed: tuple[str, ...] | None = None) -> str:
        value = self.take(key, str)
        if allowed is not None and value not in allowed:
            raise HeaderFieldError(
                f"{self.where}.{key}: found {value[:64]!r}, expected one of {', '.join(allowed)}"
            )
        return value

    def integer(self, key: str, low: int = 0, high: int = _MAX_INT) -> int:
        value = self.take(key, int)
        if not low <= value <= high:
            raise HeaderFieldError(
                f"{self.where}.{key}: found {value}, expected {low} to {high}"
            )
        return value

    def optional(self, key: str) -> bool:
        """Whether `key` holds something; a nil is taken away."""
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
                raise HeaderFieldError(
                    f"{self.where}.{key}: found {_kind(n)} {str(n)[:32]}, "
                    f"expected integers from 0 to {MAX_DIMENSION}"
                )
        return tuple(value)

    def each(self, key: str, read: Callable[[_Fields], T]) -> tuple[T, ...]:
        values = self.take(key, list)
        where = self.where.removeprefix("header.") if self.where != "header" else ""
        prefix = f"{where}.{key}" if where else key
        return tuple(read(_Fields(v, f"{prefix}[{i}]")) for i, v in enumerate(values))

    def done(self) -> None:
        if self._left:
            extra = ", ".join(sorted(repr(k)[:64] for k in self._left)[:5])
            raise HeaderFieldError(f"{self.where}: unknown field {extra}")


def _kind(value: Any) -> str:
    return "nil" if value is None else type(value).__name__


def _string_map(value: dict[Any, Any], where: str) -> dict[str, str]:
    for k, v in value.items():
        if not isinstance(k, str) or not isinstance(v, str):
            raise HeaderFieldError(f"{where}: expected strings only, found {_kind(v)}")
    return value


def _read_section(f: _Fields) -> Section:
    section = Section(
        offset=f.integer("offset"),
        stored_size=f.integer("stored_size"),
        size=f.integer("size"),
        codec=f.take("codec", str),  # an unknown codec is an error of its own: validate.py
        sha256=f.take("sha256", bytes),
    )
    if len(section.sha256) != 32:
        raise HeaderFieldError(
            f"{f.where}.sha256: found {len(section.sha256)} bytes, expected 32"
        )
    f.done()
    return section


def _read_file(f: _Fields) -> FileEntry:
    entry = FileEntry(f.string("name"), f.integer("section"))
    f.done()
    return entry


def _read_tensor(f: _Fields) -> Tensor:
    tensor: Tensor
    kind = f.string("kind", ("dense", "ternary", "binary"))
    if kind == "dense":
        tensor = DenseTensor(
            name=f.string("name"),
            dtype=f.string("dtype", tuple(DTYPE_BITS)),
            shape=f.shape(),
            section=f.integer("section"),
        )
    else:
        tensor = _read_indexed(f, kind)
    f.done()
    return tensor


def _read_indexed(f: _Fields, kind: str) -> IndexedTensor:
    shape = f.shape()
    if len(shape) != 2:
        raise HeaderFieldError(f"{f.where}.shape: {len(shape)} dimensions, expected 2")
    digits = tuple(f.take("digits", list))
    if digits not in DIGITS or (kind == "ternary") != (len(digits) == 3):
        raise HeaderFieldError(f"{f.where}.digits: {list(digits)} is no digit list of kind {kind}")
    encoding = f.string("encoding", ENCODINGS)
    parts = f.take("sections", dict)
    for part, index in parts.items():
        if type(index) is not int or index < 0:
            raise HeaderFieldError(f"{f.where}.sections.{part}: expected a section number")
    return IndexedTensor(
        name=f.string("name"),
        shape=(shape[0], shape[1]),
        digits=digits,
        k=f.integer("k", 1, 16),
        direction=f.string("direction", DIRECTIONS),
        encoding=encoding,
        packing=f.string("packing", PACKINGS[encoding]),
        sections=parts,
        scale=_read_scale(f),
        source=_read_source(_Fields(f.take("source", dict), f"{f.where}.source")),
    )


def _read_scale(f: _Fields) -> Scale | None:
    if not f.optional("scale"):
        return None
    g = _Fields(f.take("scale", dict), f"{f.where}.scale")
    scale = Scale(g.integer("rows", 1), g.integer("section"))
    g.done()
    return scale


def _read_source(f: _Fields) -> SourceRecord:
    record = SourceRecord(
        layout=f.string("layout"),
        dtype=f.string("dtype", tuple(DTYPE_BITS)),
        shape=f.shape(),
        negative_zeros=f.integer("negative_zeros") if f.optional("negative_zeros") else None,
        companions=f.each("companions", _read_companion),
    )
    f.done()
    return record


def _read_companion(f: _Fields) -> InlineTensor:
    companion = InlineTensor(
        name=f.string("name"),
        dtype=f.string("dtype", tuple(DTYPE_BITS)),
        shape=f.shape(),
        data=f.take("data", bytes),
    )
    if len(companion.data) > MAX_INLINE_BYTES:
        raise LimitError(
            f"{f.where}.data: {len(companion.data)} bytes, the limit is {MAX_INLINE_BYTES}"
        )
    f.done()
    return companion

