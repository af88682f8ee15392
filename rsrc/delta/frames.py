"""Bytes of a delta, compressed alone or with bytes of the old file as a dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsr_formats.compression import decompress
from rsr_formats.errors import CodecError
from rsr_formats.records import Section

from ..common.arrays import ByteArray
from ..common.errors import DeltaError

# zstandard is imported where it is used, so that other commands start without it.
if TYPE_CHECKING:
    import zstandard

# For streams of nearly random symbols: Huffman codes. Matches that chance makes cost more than they
# save, so a table of 64 positions finds few but runs.
_SYMBOLS = {"min_match": 7, "hash_log": 6}
_LEVEL = 1
_BASE_LEVEL = 6  # for bytes that resemble those of the old file
_SMALLEST = 8  # bytes of a dictionary
_HASH_LOG = 22  # 4 Mi positions: with fewer, zstd finds only the end of the dictionary
_WINDOW_LOG = 23  # 8 MiB: more than a piece, so that the whole dictionary stays in reach


def compress(data: bytes | memoryview, base: bytes | None = None) -> bytes:
    """Return a zstd frame of `data`, or `data` itself if that is not longer.

    Args:
        data: the bytes.
        base: bytes of the old file near them; None compresses them alone.
    """
    import zstandard

    if base is None:
        parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, **_SYMBOLS)
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
    else:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _BASE_LEVEL, window_log=_WINDOW_LOG, hash_log=_HASH_LOG, chain_log=_HASH_LOG
        )
        compressor = zstandard.ZstdCompressor(
            dict_data=_dictionary(base), compression_params=parameters
        )
    frame = compressor.compress(data)
    return frame if len(frame) < len(data) else bytes(data)


def expand(data: memoryview, size: int, what: str, base: bytes | None = None) -> ByteArray:
    """Return the bytes that `compress` stored; exactly `size` bytes are allocated.

    Args:
        data: the stored bytes; `size` of them are the bytes themselves.
        size: how many bytes they hold.
        what: description for error messages.
        base: as for `compress`.

    Raises:
        DeltaError: they are not one zstd frame of `size` bytes.
    """
    stored = np.frombuffer(data, np.uint8)
    if len(stored) == size:
        return stored
    section = Section(0, len(stored), size, "zstd", b"")
    try:
        return decompress(stored, section, what, None if base is None else _dictionary(base))
    except CodecError as error:
        raise DeltaError(str(error)) from None


def _dictionary(base: bytes) -> zstandard.ZstdCompressionDict | None:
    """Return a raw dictionary; None for fewer bytes than zstd takes as one."""
    import zstandard

    if len(base) < _SMALLEST:
        return None
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
