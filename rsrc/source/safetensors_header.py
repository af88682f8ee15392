"""The header of a safetensors file: read and checked in bounded memory, whoever wrote it.

The format is that of https://github.com/huggingface/safetensors: eight bytes N, N bytes of JSON,
then the data of the tensors without holes. The library reads it too, but takes a dozen bytes of
memory for each of a header that may have 100 MB. The limits here are far above every checkpoint's:
a `.rsr` file, whose own header has 16 MiB at most, has no room for more tensors.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rsr_formats.records import DTYPE_BITS, MAX_METADATA, MAX_NAME_BYTES

from ..common.errors import SourceError
from .json_walker import JsonError, JsonWalker

MAX_HEADER = 8 << 20  # bytes
MAX_TENSORS = 1 << 17  # of a checkpoint, and so of one file: at 128 bytes each, 16 MiB
MAX_NAME = 6 * MAX_NAME_BYTES + 2  # bytes of a name in quotation marks where all is escaped
_MAX_ENTRY = 4096  # bytes of what describes one tensor
_MAX_SIZE = (1 << 63) - 1
_METADATA = "__metadata__"


class Entry(NamedTuple):
    """A tensor as the header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # in the file
    nbytes: int


def read_header(path: Path) -> tuple[list[Entry], dict[str, str]]:
    """Read the header of a safetensors file.

    Returns:
        The tensors, by offset and name, and the metadata.

    Raises:
        SourceError: it is no regular file, is no valid safetensors file, or exceeds a limit.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # a FIFO would let us wait for ever
        raise SourceError(f"{path}: not a regular file")
    with path.open("rb") as file:
        available = os.fstat(file.fileno()).st_size - 8
        size = int.from_bytes(file.read(8), "little")
        try:
            if not 0 < size <= available:
                raise JsonError(f"its header claims {size} bytes, {max(0, available)} are there")
            if size > MAX_HEADER:
                raise JsonError(
                    f"its header has {size} bytes, the limit is {MAX_HEADER}: split the file"
                )
            header = file.read(size)
            if len(header) < size:
                raise JsonError("it became shorter while it was read")
            return parse_header(header, available - size)
        except JsonError as error:
            raise SourceError(f"{path}: not a valid safetensors file: {error}") from None


def parse_header(header: bytes, data_bytes: int) -> tuple[list[Entry], dict[str, str]]:
    """Parse a header that `data_bytes` bytes follow; return what `read_header` does.

    Raises:
        JsonError: it is not valid, or exceeds a limit.
    """
    walker = JsonWalker(header)
    metadata: dict[str, str] = {}
    entries: list[Entry] = []
    start = 8 + len(header)
    if header[:1] != b"{":
        raise JsonError("its header does not begin with '{'")
    for name in walker.members(MAX_NAME):
        if name == _METADATA:
            metadata = _metadata(walker.value(MAX_METADATA))
            continue
        if len(entries) == MAX_TENSORS:
            raise JsonError(f"more than {MAX_TENSORS} tensors: split the file")
        entries.append(_entry(name, walker.value(_MAX_ENTRY), start))
    walker.end()
    entries.sort(key=lambda e: (e.offset, e.nbytes, e.name))
    end = start
    for e in entries:
        if e.offset != end:
            what = "a hole before" if e.offset > end else "another tensor overlaps"
            raise JsonError(f"{what} tensor {e.name!r}: it begins at {e.offset}, expected {end}")
        end += e.nbytes
    if end != start + data_bytes:
        raise JsonError(
            f"its tensors end at byte {end}, the file at {start + data_bytes}: "
            + ("truncated" if end > start + data_bytes else "something was appended")
        )
    return entries, metadata


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise JsonError(f"{_METADATA}: expected a map of strings")
    try:
        "".join([*value, *value.values()]).encode()
    except UnicodeEncodeError:  # an escape can write half of a surrogate pair
        raise JsonError(f"{_METADATA}: a string is no Unicode text") from None
    return value


def _entry(name: str, value: Any, start: int) -> Entry:
    where = f"tensor {name[:80]!r}"
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        raise JsonError(f"{where}: expected a name of 1 to {MAX_NAME_BYTES} bytes")
    if not isinstance(value, dict) or not value.keys() >= {"dtype", "shape", "data_offsets"}:
        raise JsonError(f"{where}: expected the fields dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise JsonError(f"{where}: unknown dtype {str(dtype)[:32]!r}")
    if not _is_sizes(shape):
        raise JsonError(f"{where}: shape: expected a list of integers from 0 to 2^63 - 1")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise JsonError(f"{where}: data_offsets: expected two integers from 0 to 2^63 - 1")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - begin):
        raise JsonError(f"{where}: {dtype} {str(shape)[:200]} does not take {end - begin} bytes")
    return Entry(name, sys.intern(dtype), tuple(shape), start + begin, end - begin)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(n) is int and 0 <= n <= _MAX_SIZE
        for n in value  # not isinstance: True is an int
    )
