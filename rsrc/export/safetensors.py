"""Write a safetensors file with one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from ..common.errors import ExportError
from ..common.progress import ByteCounter, ProgressFunction
from ..source.safetensors import METADATA
from ..source.tensor import PIECE
from .tensors import OutputTensor


def write_safetensors(
    out: BinaryIO,
    tensors: Sequence[OutputTensor],
    metadata: Mapping[str, str],
    progress: ProgressFunction | None = None,
) -> None:
    """Write tensors in order, without padding between them.

    Raises:
        ExportError: two tensors have the same name, or one has a name that safetensors reserves.
    """
    header: dict[str, object] = {}
    if metadata:
        header[METADATA] = dict(metadata)
    end = 0
    for t in tensors:
        if t.name == METADATA:
            raise ExportError(f"a tensor is named {t.name!r}, which safetensors reserves")
        if t.name in header:
            raise ExportError(f"two tensors would be named {t.name!r} in the output")
        header[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [end, end + t.nbytes]}
        end += t.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    counter = ByteCounter(progress, end)
    for t in tensors:
        _write(out, t)
        counter.advance(t.name, t.nbytes)


def _write(out: BinaryIO, t: OutputTensor) -> None:
    """Write a tensor; its data is freed on return, before the next one is decoded."""
    for data in t.pieces():
        for start in range(0, len(data), PIECE):
            out.write(data[start : start + PIECE].data)
