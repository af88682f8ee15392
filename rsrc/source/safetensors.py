"""Safetensors: the header of a file, read in bounded memory; shards and their index.

The format is that of https://github.com/huggingface/safetensors: eight bytes N, N bytes of JSON,
then the data of the tensors without holes. The library's parser takes about twelve bytes of memory
for each byte of a header, which may have 100 MB. The limits below are far above every published
checkpoint. With them, opening a source takes less than 64 MiB, plus the size of its JSON files.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from rsr_formats.contents import SAFETENSORS
from rsr_formats.records import DTYPE_BITS, MAX_METADATA, MAX_NAME_BYTES
from rsr_formats.text import listed

from ..common.errors import SourceError
from .checkpoint import Checkpoint
from .files import config_in, model_files, read_limited
from .json_walker import JsonError, JsonWalker
from .refuse import is_pickle, refuse_pickles
from .tensor import SourceTensor
from .wrong_file import expect, look, unfinished_in

METADATA = "__metadata__"  # the key of the header that is not a tensor

MAX_HEADER = 8 << 20  # bytes; the 16 MiB of a .rsr header hold no more tensors than this
MAX_TENSORS = 1 << 17  # of a checkpoint: at 128 bytes each, 16 MiB of a .rsr header
MAX_INDEX = 16 << 20  # bytes of a .safetensors.index.json; 95 per tensor are usual
MAX_SHARD_NAME = 255  # bytes, the limit of file systems

# A JSON string takes up to six bytes for one byte of text (\u0000), and two quotation marks.
_MAX_NAME = 6 * MAX_NAME_BYTES + 2
_MAX_SHARD = 6 * MAX_SHARD_NAME + 2
_MAX_ENTRY = 4096  # bytes of JSON that describe one tensor
_MAX_OTHER = 1 << 16  # bytes of a member of an index other than weight_map
_METADATA_OVERHEAD = 10  # bytes that the header of a .rsr file adds to a key and its value
_MAX_SIZE = (1 << 63) - 1

Header = tuple[list[SourceTensor], dict[str, str]]  # tensors by offset and name; metadata
HeaderReader = Callable[[Path], Header]


def index_shards(index: Path) -> list[Path]:
    """Return the paths of the shards that a .safetensors.index.json names, which need not exist.

    Raises:
        SourceError: the index is invalid, exceeds a limit, or names pickles or files elsewhere.
    """
    return _shards(index, _weight_map(index))


def _shards(index: Path, weight_map: dict[str, str]) -> list[Path]:
    names = sorted(set(weight_map.values()))
    for name in names:
        if not _is_plain(name):
            raise SourceError(
                f"{index}: {name[:80]!r} is not a plain file name; shards must be in the directory "
                "of their index"
            )
    refuse_pickles(index, [name for name in names if is_pickle(index.parent / name)])
    return [index.parent / name for name in names]


def open_index(index: Path, read: HeaderReader | None = None) -> Checkpoint:
    """Open the shards that a .safetensors.index.json names.

    Args:
        index: the file.
        read: reads the header of a shard that is not on this machine; None for files.

    Raises:
        SourceError: as `index_shards`; or a shard is missing or damaged, or lacks a tensor that the
            index assigns to it.
    """
    # Symbolic links are followed, as the Hugging Face cache consists of them. The index itself
    # cannot name a file elsewhere; a link on this machine was made by its user.
    weight_map = _weight_map(index)
    shards = _shards(index, weight_map)
    if read is None:
        check_all_there(index, shards)
    checkpoint = open_shards(index, shards, model_files(index.parent), read or read_header)
    wrong = [
        f"{name[:80]} (in {shard[:80]})"
        for name, shard in weight_map.items()
        if name not in checkpoint.tensors or checkpoint.tensors[name].path.name != shard
    ]
    if wrong:
        raise SourceError(f"{index}: tensors are not in the shard named: {listed(wrong)}")
    extra = [name for name in checkpoint.tensors if name not in weight_map]
    for name in extra:  # transformers, too, loads only what the index names
        del checkpoint.tensors[name]
    return checkpoint


def is_shard_of(index: Path, name: str) -> bool:
    """Return whether an index assigns tensors to a file of this name, and others to other files.

    Raises:
        SourceError: the index is invalid or exceeds a limit.
    """
    shards = set(_weight_map(index).values())
    return name in shards and len(shards) > 1


def check_all_there(source: Path, shards: list[Path]) -> None:
    """Check that the shards of a model exist.

    Raises:
        SourceError: names those that do not.
    """
    missing = [_absent(p) for p in shards if not p.is_file()]
    if missing:
        why = unfinished_in(shards[0].parent) or "download them"
        raise SourceError(
            f"{source}: {len(missing)} of {len(shards)} shards missing: {listed(missing)}; {why}"
        )


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Returns:
        The tensors, sorted by offset and name, and the metadata.

    Raises:
        SourceError: it is not a regular file or not a valid safetensors file, or exceeds a limit.
        OSError: it cannot be read.
    """
    expect(path, SAFETENSORS)
    with path.open("rb") as file:
        return header_of(path, file, os.fstat(file.fileno()).st_size)


def open_shards(
    source: Path,
    shards: list[Path],
    files: dict[str, Path | bytes],
    read: HeaderReader = read_header,
) -> Checkpoint:
    """Open safetensors files as one checkpoint.

    Args:
        source: what the user named.
        shards: the files, all in one folder.
        files: see `Checkpoint`.
        read: reads the header of a shard.

    Raises:
        SourceError: a shard is not a valid safetensors file, two of them have a tensor of the
            same name, or together they exceed a limit.
    """
    tensors: dict[str, SourceTensor] = {}
    metadata: dict[str, str] = {}
    metadata_bytes = 3  # in the header of a .rsr file
    for shard in shards:
        of_shard, found = read(shard)
        if len(tensors) + len(of_shard) > MAX_TENSORS:
            raise SourceError(f"{source}: more than {MAX_TENSORS} tensors")
        for t in of_shard:
            if t.name in tensors:
                raise SourceError(
                    f"tensor {t.name!r} is in both {tensors[t.name].path.name} and {shard.name}"
                )
            tensors[t.name] = t
        for key, value in found.items():
            if key not in metadata:
                metadata[key] = value
                metadata_bytes += _METADATA_OVERHEAD + len((key + value).encode())
        if metadata_bytes > MAX_METADATA:
            raise SourceError(f"{source}: more than {MAX_METADATA} bytes of metadata")
    return Checkpoint(source, tensors, config_in(shards[0].parent), metadata, files)


def header_of(path: Path, file: BinaryIO, file_bytes: int) -> Header:
    """Read the header at the beginning of an opened safetensors file.

    Args:
        path: of the file.
        file: at its first byte.
        file_bytes: its size.

    Returns, raises:
        As `read_header`.
    """
    available = file_bytes - 8
    size = int.from_bytes(file.read(8), "little")
    try:
        if not 0 < size <= available:
            raise JsonError(
                f"its header claims {size} bytes, but the file has {max(0, available)} more: "
                "download it again"
            )
        if size > MAX_HEADER:
            raise JsonError(
                f"its header has {size} bytes, the limit is {MAX_HEADER}: split the file"
            )
        header = file.read(size)
        if len(header) < size:
            raise JsonError("it became shorter while it was read")
        return parse_header(path, header, available - size)
    except JsonError as error:
        raise SourceError(f"{path}: not a valid safetensors file: {error}") from None


def parse_header(path: Path, header: bytes, data_bytes: int) -> Header:
    """Parse the header of file `path`, which `data_bytes` bytes of data follow.

    Returns:
        What `read_header` returns.

    Raises:
        JsonError: it is invalid, or exceeds a limit.
    """
    walker = JsonWalker(header)
    metadata: dict[str, str] = {}
    tensors: list[SourceTensor] = []
    start = 8 + len(header)
    if header[:1] != b"{":
        raise JsonError("its header does not begin with '{'")
    for name in walker.members(_MAX_NAME):
        if name == METADATA:
            metadata = _metadata(walker.value(MAX_METADATA))
            continue
        if len(tensors) == MAX_TENSORS:
            raise JsonError(f"more than {MAX_TENSORS} tensors: split the file")
        tensors.append(_tensor(path, name, walker.value(_MAX_ENTRY), start))
    walker.end()
    tensors.sort(key=lambda t: (t.offset, t.nbytes, t.name))
    end = start
    for t in tensors:
        if t.offset != end:
            what = "a hole before" if t.offset > end else "another tensor overlaps"
            raise JsonError(f"{what} tensor {t.name!r}: it begins at {t.offset}, expected {end}")
        end += t.nbytes
    if end != start + data_bytes:
        raise JsonError(
            f"its tensors end at byte {end}, the file at {start + data_bytes}: "
            + ("truncated" if end > start + data_bytes else "something was appended")
            + ": download it again"
        )
    return tensors, metadata


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise JsonError(f"{METADATA}: expected a map of strings")
    try:
        "".join([*value, *value.values()]).encode()
    except UnicodeEncodeError:  # JSON can escape half of a surrogate pair
        raise JsonError(f"{METADATA}: a string is not valid Unicode") from None
    return value


def _tensor(path: Path, name: str, value: Any, start: int) -> SourceTensor:
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
    return SourceTensor(name, sys.intern(dtype), tuple(shape), path, start + begin, end - begin)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(n) is int and 0 <= n <= _MAX_SIZE
        for n in value  # not isinstance: True is an int
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Read the shard of each tensor; other members of the index are skipped, not kept."""
    look(index)
    walker = JsonWalker(read_limited(index, MAX_INDEX))
    weight_map: dict[str, str] = {}
    try:
        for key in walker.members(_MAX_NAME):
            if key != "weight_map":
                walker.value(_MAX_OTHER)
                continue
            for name in walker.members(_MAX_NAME):
                if len(weight_map) == MAX_TENSORS:
                    raise JsonError(f"more than {MAX_TENSORS} tensors")
                weight_map[name] = sys.intern(walker.string(_MAX_SHARD))
        walker.end()
    except JsonError as error:
        raise SourceError(f"{index}: not an index of shards: {error}: download it again") from None
    if not weight_map:
        raise SourceError(f"{index}: expected a non-empty map under 'weight_map'")
    return weight_map


def _is_plain(name: str) -> bool:
    """Return whether `name` is a file name without a folder on every system."""
    if not 1 <= len(name.encode()) <= MAX_SHARD_NAME or name in (".", ".."):
        return False
    return not any(c in "/\\:" or c < " " for c in name)


def _absent(path: Path) -> str:
    why = " (a link to a missing file)" if path.is_symlink() else ""
    return path.name[:80] + (" (not a regular file)" if path.exists() else why)
