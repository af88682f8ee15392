"""Writes GGUF files byte by byte, valid and damaged."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class GgufKit:
    """Writes GGUF files with any type numbers, sizes and values."""

    @staticmethod
    def string(text: str | bytes) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        return len(data).to_bytes(8, "little") + data

    def value(self, value: Any) -> bytes:
        """Encode a value and its type: bool, int (u32), float (f32), str, or a list of these."""
        if isinstance(value, bytes):  # encoded already
            return value
        if isinstance(value, bool):
            return struct.pack("<IB", 7, value)
        if isinstance(value, int):
            return struct.pack("<II", 4, value)
        if isinstance(value, float):
            return struct.pack("<If", 6, value)
        if isinstance(value, str):
            return struct.pack("<I", 8) + self.string(value)
        items = [self.value(v) for v in value]
        kind = items[0][:4] if items else struct.pack("<I", 4)
        return (
            struct.pack("<I", 9)
            + kind
            + struct.pack("<Q", len(items))
            + b"".join(item[4:] for item in items)
        )

    def file_bytes(
        self,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, tuple[Sequence[int], int, bytes]],
        version: int = 3,
        alignment: int = 32,
    ) -> bytes:
        """Return a file; a tensor is (shape in row-major order, type number, data)."""
        head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
        for key, value in metadata.items():
            head += self.string(key) + self.value(value)
        body = b""
        for name, (shape, number, data) in tensors.items():
            head += self.string(name) + struct.pack("<I", len(shape))
            head += struct.pack(f"<{len(shape)}Q", *reversed(shape))
            head += struct.pack("<IQ", number, len(body))
            body += data + bytes(-len(data) % alignment)
        return head + bytes(-len(head) % alignment) + body

    def save(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, tuple[Sequence[int], int, bytes]],
    ) -> Path:
        path.write_bytes(self.file_bytes(metadata, tensors))
        return path


def architecture_metadata(
    name: str, config: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keys of an architecture: those of every decoder, and its own without prefix."""
    common = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
    }
    keys = {f"{name}.{key}": value for key, value in {**common, **own}.items()}
    return {"general.architecture": name, **keys}
