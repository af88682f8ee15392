"""Compress and decompress sections with codec zstd (SPEC.md section 4) in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import CodecError, LimitError
from .records import MAX_ZSTD_WINDOW, Section

# zstandard is imported where it is used: only compressed sections need it.
if TYPE_CHECKING:
    import zstandard

PIECE = 8 << 20  # bytes of section data handled at a time

# The bounds of level 19, which needs 80 MB. Level 22 would need 750 MB and gains nothing here.
_LIMITS = {"window_log": 23, "chain_log": 24, "hash_log": 23}


def compressor(level: int) -> zstandard.ZstdCompressor:
    """Return a compressor for zstd level `level` (1 to 22) that needs at most 80 MB."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters
    chosen = parameters.from_level(level)
    limits = {name: min(getattr(chosen, name), limit) for name, limit in _LIMITS.items()}
    return zstandard.ZstdCompressor(compression_params=parameters.from_level(level, **limits))


def compression_name(level: int | None) -> str:
    """Return how sections are compressed: with equal names, equal contents give equal bytes.

    Args:
        level: 1 to 22, or None for raw sections.
    """
    if level is None:
        return "raw"
    import zstandard

    return f"zstd-{level}-{'.'.join(map(str, zstandard.ZSTD_VERSION))}"


def decompressed(stored: BinaryIO, what: str) -> Iterator[memoryview]:
    """Decompress the stored bytes of a section in pieces, without the checks of rule S11.

    Args:
        stored: the stored bytes, as a file.
        what: description of the section for error messages.

    Raises:
        CodecError: they are not a zstd frame.
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
    try:
        with decompressor.stream_reader(stored) as reader:
            while piece := reader.read(PIECE):
                yield memoryview(piece)
    except zstandard.ZstdError as error:
        raise CodecError(f"{what}: not a zstd frame: {error}") from None


def decompress(
    stored: npt.NDArray[np.uint8],
    s: Section,
    what: str,
    dictionary: zstandard.ZstdCompressionDict | None = None,
) -> npt.NDArray[np.uint8]:
    """Decompress a section; at most `s.size` bytes are allocated.

    Args:
        stored: the stored bytes.
        s: the section's entry.
        what: description of the section for error messages.
        dictionary: that the frame refers to; sections of a `.rsr` file have none.

    Returns:
        Read-only, (s.size,).

    Raises:
        CodecError: the stored bytes are not exactly one zstd frame of `s.size` bytes.
        LimitError: there is not enough memory.
    """
    import zstandard

    data = stored.data
    try:
        _check_frame_header(data, s, what)
        # Allocates s.size bytes, which MAX_EXPANSION bounds.
        result = zstandard.ZstdDecompressor(
            dict_data=dictionary, max_window_size=MAX_ZSTD_WINDOW
        ).decompress(data, max_output_size=s.size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"{what}: not one zstd frame of {s.size} bytes: {error}") from None
    except MemoryError:
        raise LimitError(f"{what}: not enough memory for its {s.size} bytes") from None
    if len(result) != s.size:
        raise CodecError(f"{what}: the zstd frame has {len(result)} bytes, expected {s.size}")
    return np.frombuffer(result, np.uint8)


def decompress_pieces(data: memoryview, s: Section, what: str) -> Iterator[memoryview]:
    """Decompress a section in pieces of up to `PIECE` bytes.

    Args:
        data: the stored bytes.
        s: the section's entry.
        what: description of the section for error messages.

    Raises:
        CodecError: as `decompress`; possibly only after the last piece.
    """
    import zstandard

    done = 0
    try:
        _check_frame_header(data, s, what)
        if _frame_end(data) != len(data):
            raise CodecError(f"{what}: not one zstd frame of {len(data)} stored bytes")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
        with decompressor.stream_reader(data) as reader:
            while piece := reader.read(PIECE):
                done += len(piece)
                if done > s.size:
                    break
                yield memoryview(piece)
    except zstandard.ZstdError as error:
        raise CodecError(f"{what}: not one zstd frame of {s.size} bytes: {error}") from None
    if done != s.size:
        raise CodecError(f"{what}: the zstd frame has at least {done} bytes, expected {s.size}")


def _check_frame_header(data: memoryview, s: Section, what: str) -> None:
    import zstandard

    if data[:4] != zstandard.FRAME_HEADER:  # a skippable frame has another magic number
        raise CodecError(f"{what}: not a zstd frame: it begins with {data[:4].hex(' ')}")
    size = zstandard.get_frame_parameters(data).content_size
    if size not in (s.size, zstandard.CONTENTSIZE_UNKNOWN):
        raise CodecError(f"{what}: the zstd frame has {size} bytes, expected {s.size}")


def _frame_end(data: memoryview) -> int:
    """Return the end of a zstd frame from the sizes of its blocks (RFC 8878, section 3.1.1).

    The streaming decompressor ignores data after the frame, so this finds such data.
    """
    import zstandard

    position, is_last = zstandard.frame_header_size(data), False
    while not is_last:
        block = int.from_bytes(data[position : position + 3], "little")
        is_last = bool(block & 1) or position >= len(data)
        is_run = block >> 1 & 3 == 1  # one stored byte, repeated
        position += 3 + (1 if is_run else block >> 3)
    return position + 4 * zstandard.get_frame_parameters(data).has_checksum
