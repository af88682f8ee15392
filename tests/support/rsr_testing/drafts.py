"""A small valid `.rsr` file as plain data, for tests that damage it; the writer is not used."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgpack
import zstandard

# The sections of the file.
RANKS, SCALE, DENSE, PERMUTATION, SEGMENTS, CONFIG, NEGATIVE_ZEROS, PACKED = range(8)
PACKED_CONTENT = bytes(range(256)) * 4


def align(n: int) -> int:
    return (n + 4095) & ~4095


class Draft:
    """A file with one tensor in each encoding, two dense tensors (one compressed) and a file entry.

    Both indexed tensors are the matrix of SPEC.md section 13:
    [[1, 0, -1, 1], [-1, -1, -1, 0], [1, 1, 1, -1]].

    Attributes:
        stored: the stored bytes of each section; `bytes` places them as the format requires.
        doc: the header as a msgpack document, which may contradict `stored`.
        header: encoded header to use instead of `doc`, or None.
        preamble: fields that override the correct ones.
        padding: the byte between sections.
        tail: bytes after the header.
    """

    def __init__(self) -> None:
        words = [0x36D5, 0x35A0, 0x349A] + [0x35AD] * 29
        self.stored = [
            struct.pack("<32H", *words),
            struct.pack("<f", 0.5),
            b"dense",
            struct.pack("<6H", 1, 0, 2, 2, 1, 0),
            # k = 2: block 0 has patterns 7, 0, 8; block 1 has 2 (-1, 1), 1 (-1, 0), 6 (1, -1)
            struct.pack("<20H", *[0, 1, 1, 1, 1, 1, 1, 1, 2, 3], *[0, 0, 1, 2, 2, 2, 2, 3, 3, 3]),
            b"{}",
            b"\x02",
            zstandard.ZstdCompressor(write_checksum=True).compress(PACKED_CONTENT),
        ]
        self.stored[PERMUTATION] = struct.pack("<6H", 1, 0, 2, 1, 0, 2)
        matrix = {"shape": [3, 4], "digits": [-1, 0, 1], "kind": "ternary"}
        source = {"layout": "float", "dtype": "F32", "shape": [3, 4], "companions": []}
        auxiliary = {"name": "ranked_scale", "dtype": "F16", "shape": [1], "data": b"\0\x38"}
        self.doc: dict[str, Any] = {
            "producer": "test",
            "metadata": {"a": "b"},
            "files": [{"name": "config.json", "section": CONFIG}],
            "tensors": [
                {
                    "name": "ranked",
                    **matrix,
                    "k": 3,
                    "direction": "expand",
                    "encoding": "ranked",
                    "packing": "w16",
                    "sections": {"ranks": RANKS},
                    "scale": {"rows": 3, "section": SCALE},
                    "source": {**source, "negative_zeros": None, "companions": [auxiliary]},
                },
                {"name": "dense", "kind": "dense", "dtype": "U8", "shape": [5], "section": DENSE},
                {
                    "name": "permuted",
                    **matrix,
                    "k": 2,
                    "direction": "expand",
                    "encoding": "permuted",
                    "packing": "u16",
                    "sections": {"permutation": PERMUTATION, "segments": SEGMENTS},
                    "scale": None,
                    "source": {**source, "negative_zeros": NEGATIVE_ZEROS},
                },
                {
                    "name": "packed",
                    "kind": "dense",
                    "dtype": "F32",
                    "shape": [16, 16],
                    "section": PACKED,
                },
            ],
            "sections": [{"codec": "raw"} for _ in self.stored],
        }
        self.doc["sections"][PACKED] = {"codec": "zstd", "size": len(PACKED_CONTENT)}
        self.preamble: dict[str, Any] = {}
        self.header: bytes | None = None
        self.padding = b"\0"
        self.tail = b""
        self.describe()

    @property
    def tensors(self) -> dict[str, dict[str, Any]]:
        return {t["name"]: t for t in self.doc["tensors"]}

    @property
    def ranked(self) -> dict[str, Any]:
        return self.tensors["ranked"]

    @property
    def permuted(self) -> dict[str, Any]:
        return self.tensors["permuted"]

    @property
    def sections(self) -> list[dict[str, Any]]:
        sections: list[dict[str, Any]] = self.doc["sections"]
        return sections

    def describe(self) -> None:
        """Make the section entries match `stored`, except the size of compressed ones."""
        offset = 4096
        for entry, data in zip(self.sections, self.stored, strict=True):
            entry |= {"offset": offset, "stored_size": len(data)}
            entry["sha256"] = hashlib.sha256(data).digest()
            if entry["codec"] == "raw":
                entry["size"] = len(data)
            offset = align(offset + len(data))

    def store(self, index: int, data: bytes) -> None:
        """Replace the stored bytes of a section and update its entry."""
        self.stored[index] = data
        self.describe()

    def edit(self, index: int, at: int, data: bytes) -> None:
        """Overwrite stored bytes of a section and update its entry."""
        old = self.stored[index]
        self.store(index, old[:at] + data + old[at + len(data) :])

    def add(self, data: bytes) -> int:
        """Add a raw section; return its number."""
        self.stored.append(data)
        self.sections.append({"codec": "raw"})
        self.describe()
        return len(self.stored) - 1

    def bytes(self) -> bytes:
        """Return the file."""
        body = b""
        for data in self.stored:
            body += data
            body += self.padding * (align(len(body)) - len(body))
        header = self.header
        if header is None:
            header = msgpack.packb(self.doc)
        claims = {
            "magic": b"\x89RSR\r\n\x1a\n",
            "major": 1,
            "minor": 0,
            "flags": 0,
            "offset": 4096 + len(body),
            "size": len(header),
            "digest": hashlib.sha256(header).digest(),
        } | self.preamble
        preamble = struct.pack("<8sHHIQQ32s", *claims.values())
        return preamble + bytes(4096 - len(preamble)) + body + header + self.tail
