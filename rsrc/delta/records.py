"""The format of `.rsrd` files (formats/SPEC.md section 14): what writer and reader share.

A delta lists, for each section of the new file, how its bytes are made from the old file. Nothing
in it has an offset: parts follow each other, so they can neither overlap nor leave gaps.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rsr_formats.records import IndexedTensor, Section

MAGIC = b"\x89RSD\r\n\x1a\n"
VERSION = (1, 0)

# magic, major, minor, flags, size of the body, size of the new header; SHA-256 of the old header,
# of the new header, and of the body
PREAMBLE = struct.Struct("<8sHHIQQ32s32s32s")

RECORD = struct.Struct("<BBI")  # method, zstd level, section of the old file
COUNT = struct.Struct("<I")  # changes of a chunk
STREAMS = struct.Struct("<BIII")  # low bits; bytes: symbols, stored symbols, stored digits
STORED = struct.Struct("<I")  # stored bytes of a piece

COPY, CARRIED, CHANGES, SEGMENTS = range(4)  # methods of a record
NO_BASE = 0xFFFFFFFF  # in place of a section of the old file

PIECE = 4 << 20  # bytes of a carried piece
MARGIN = 1 << 20  # bytes of the old section before and behind a piece that its dictionary has
CHUNK = 1 << 20  # entries of a chunk, unless one cell of it has more
ESCAPE = 255  # a gap symbol: 255 more, and the gap goes on
MAX_LOW_BITS = 24
MAX_LEVEL = 22  # of zstd

# A new file has at most 4 times the bytes of the old file, 256 times those of the delta, and 64 MiB
# more: without a limit, a small delta could fill a disk.
OLD_SHARE, DELTA_SHARE, FREE_BYTES = 4, 256, 64 << 20


def max_result(old_size: int, delta_size: int) -> int:
    """Return how many bytes a new file may have."""
    return OLD_SHARE * old_size + DELTA_SHARE * delta_size + FREE_BYTES


@dataclass(frozen=True, slots=True)
class Record:
    """How a section of the new file is made: the fixed part of its record."""

    method: int
    level: int = 0  # of zstd that compresses the contents; 0: the bytes are stored as they are made
    base: int | None = None  # number of a section of the old file

    def pack(self) -> bytes:
        """Return the bytes of the record."""
        return RECORD.pack(self.method, self.level, NO_BASE if self.base is None else self.base)


def identity(s: Section) -> tuple[object, ...]:
    """Return what is equal for sections of the same stored bytes."""
    return s.stored_size, s.size, s.codec, s.sha256


def same_index(old: IndexedTensor, new: IndexedTensor) -> bool:
    """Whether two tensors encode their digits alike, so that changes can be listed."""
    return _shape_of_index(old) == _shape_of_index(new)


def _shape_of_index(t: IndexedTensor) -> tuple[object, ...]:
    return (
        t.shape, t.digits, t.k, t.direction, t.encoding, t.packing, t.pattern_list, t.stride,
        t.unit_blocks, t.blocks,
    )  # fmt: skip


def which_bits(base: int) -> int:
    """Return the bits that say which of the `base` - 1 other digits a weight has now."""
    return (base - 2).bit_length()


def piece_sizes(size: int) -> Iterator[int]:
    """Yield the sizes of the pieces that carried contents of `size` bytes are cut into."""
    for start in range(0, size, PIECE):
        yield min(PIECE, size - start)


def low_bits(count: int, slots: int) -> int:
    """Return how many low bits of each gap are stored as they are: about 32 high values are left.

    Args:
        count: changes, at least one.
        slots: weights among which they are.
    """
    return int(np.clip((slots // (count * 32)).bit_length() - 1, 0, MAX_LOW_BITS))
