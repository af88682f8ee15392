"""Writes checkpoints, and changes the headers of `.rsr` files.

Checkpoints are written byte by byte and read back with the `safetensors` library, so that neither
end of a round trip uses the compiler's own code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import safetensors

from rsr_formats.records import PREAMBLE

from .process import run_python

Array = npt.NDArray[Any]

_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "float32": "F32",
    "float64": "F64", "complex64": "C64",
}  # fmt: skip


class Raw(NamedTuple):
    """A tensor as a safetensors file stores it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensors = Mapping[str, "Array | Raw"]


class Kit:
    """Writes and reads the files of a test."""

    @staticmethod
    def literal(dtype: str, shape: tuple[int, ...], data: bytes) -> Raw:
        return Raw(dtype, shape, data)

    @staticmethod
    def raw(tensor: Array | Raw) -> Raw:
        if isinstance(tensor, Raw):
            return tensor
        return Raw(_NAMES[tensor.dtype.name], tensor.shape, tensor.tobytes())

    @staticmethod
    def bf16(values: Any) -> Raw:
        """Return values, which BF16 must represent exactly, as BF16."""
        wide = np.asarray(values, np.float32)
        bits = wide.view(np.uint32)
        assert not (bits & 0xFFFF).any()
        return Raw("BF16", wide.shape, (bits >> 16).astype("<u2").tobytes())

    def cast(self, values: Array, dtype: str) -> Array | Raw:
        """Return values as F32, F16 or BF16."""
        if dtype == "BF16":
            return self.bf16(values)
        return values.astype({"F32": np.float32, "F16": np.float16}[dtype])

    @staticmethod
    def pack(t: Array) -> npt.NDArray[np.uint8]:
        """Pack ternary values, (out_features, in_features), as transformers' pack_weights does."""
        rows = -(-len(t) // 4)
        packed = np.zeros((rows, t.shape[1]), np.uint8)
        for i, row in enumerate(t):
            packed[i % rows] |= (row + 1).astype(np.uint8) << (2 * (i // rows))
        return packed

    def file_bytes(self, tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
        """Return a safetensors file with the tensors in the given order, unaligned."""
        header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
        body = b""
        for name, tensor in tensors.items():
            t = self.raw(tensor)
            offsets = [len(body), len(body) + len(t.data)]
            header[name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": offsets}
            body += t.data
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + body

    def save(self, path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
        path.write_bytes(self.file_bytes(tensors, metadata))
        return path

    def save_sharded(
        self, folder: Path, shards: Mapping[str, Tensors], name: str = "model"
    ) -> Path:
        """Write shards and their index; return the index."""
        for shard, tensors in shards.items():
            self.save(folder / shard, tensors)
        index = {name: shard for shard, tensors in shards.items() for name in tensors}
        path = folder / f"{name}.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": index}))
        return path

    @staticmethod
    def judge(path: Path) -> dict[str, Raw]:
        """Read a file with the `safetensors` library."""
        return {
            name: Raw(t["dtype"], tuple(t["shape"]), bytes(t["data"]))
            for name, t in safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        }

    @staticmethod
    def tamper(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
        """Change the header of a .rsr file, and its hash to match."""
        data = path.read_bytes()
        magic, major, minor, flags, offset, size, _ = PREAMBLE.unpack(data[: PREAMBLE.size])
        document = msgpack.unpackb(data[offset : offset + size])
        edit(document)
        header = msgpack.packb(document)
        digest = hashlib.sha256(header).digest()
        preamble = PREAMBLE.pack(magic, major, minor, flags, offset, len(header), digest)
        path.write_bytes(preamble + data[PREAMBLE.size : offset] + header)
        return path

    python = staticmethod(run_python)

    @staticmethod
    def leftovers(folder: Path) -> list[str]:
        """List temporary files that were left in a folder."""
        return [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]
