"""The changed digits of a chunk: find them, store them near their entropy, apply them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..common.arrays import ByteArray
from ..common.errors import DeltaError
from .entries import Chunk, Digits, IndexEntries, Positions, Values
from .frames import compress, expand
from .records import COUNT, ESCAPE, MAX_LOW_BITS, STREAMS, low_bits, which_bits
from .streams import Cursor

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Changes:
    """Digits of a chunk that change; arrays have one entry for each, in the order of slots."""

    slots: _Ints  # numbers of digits in the chunk, ascending
    old: Digits
    new: Digits


def find_changes(entries: IndexEntries, old: Values, new: Values) -> Changes:
    """Return the digits that differ between the entries of a chunk in two files."""
    at = np.flatnonzero(old != new)
    before = np.take(entries.digits, old[at], axis=0).reshape(-1)  # faster than indexing
    after = np.take(entries.digits, new[at], axis=0).reshape(-1)
    found = np.flatnonzero(before != after)
    entry, slot = np.divmod(found, entries.slots)
    return Changes(at[entry] * entries.slots + slot, before[found], after[found])


def pack_changes(changes: Changes, base: int, slots: int) -> bytes:
    """Return the stored form of changes.

    Args:
        changes: the changes.
        base: B.
        slots: digits of the chunk.
    """
    count = len(changes.slots)
    if not count:
        return COUNT.pack(0)
    gaps = np.diff(changes.slots, prepend=-1) - 1
    low = low_bits(count, slots)
    high = gaps >> low
    ends = np.cumsum(high // ESCAPE + 1)
    symbols = np.full(ends[-1], ESCAPE, np.uint8)
    symbols[ends - 1] = high % ESCAPE
    which = changes.new - (changes.new > changes.old)
    which = which[np.argsort(changes.old, kind="stable")]
    groups = np.split(which, np.cumsum(np.bincount(changes.old, minlength=base))[:-1])
    digits = np.concatenate([_pack_bits(group, which_bits(base)) for group in groups]).tobytes()
    stored, others = compress(symbols.tobytes()), compress(digits)
    head = STREAMS.pack(low, len(symbols), len(stored), len(others))
    return b"".join(
        [COUNT.pack(count), head, stored, _pack_bits(gaps & (1 << low) - 1, low).tobytes(), others]
    )


def _pack_bits(values: npt.NDArray[np.integer], bits: int) -> ByteArray:
    """Store integers in `bits` bits each, least significant first, from bit 0 of byte 0."""
    if bits == 1:
        return np.packbits(values, bitorder="little")
    return np.packbits(values[:, None] >> np.arange(bits) & 1, bitorder="little")


def _unpack_bits(data: ByteArray, count: int, bits: int) -> _Ints:
    if not bits:
        return np.zeros(count, np.int64)
    unpacked = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    if bits == 1:
        return unpacked[:, 0].astype(np.int64)
    values: _Ints = unpacked.astype(np.int64) @ (1 << np.arange(bits))
    return values


@dataclass(frozen=True)
class StoredChanges:
    """The streams of a chunk with changes, as they lie in a delta; sizes are checked."""

    count: int
    low: int  # low bits of each gap
    symbols: int  # bytes of the gap symbols
    streams: tuple[memoryview, memoryview, memoryview]  # symbols, low bits, digits


def read_changes(body: Cursor, base: int, slots: int, name: str) -> StoredChanges | None:
    """Read the changes of a chunk; None if nothing changes.

    Args:
        body: bytes that begin with them.
        base: B.
        slots: digits of the chunk.
        name: of what the chunk is a part.

    Raises:
        DeltaError: a count or a size is impossible.
        TruncatedError: the bytes end too early.
    """
    (count,) = COUNT.unpack(body.take(COUNT.size, name))
    if not count:
        return None
    if count > slots:
        raise DeltaError(f"{name}: {count} changes of {slots} digits")
    low, symbols, gaps, digits = STREAMS.unpack(body.take(STREAMS.size, name))
    most = count + (slots >> min(low, MAX_LOW_BITS)) // ESCAPE
    if low > MAX_LOW_BITS or not count <= symbols <= most or not 0 < gaps <= symbols:
        raise DeltaError(
            f"{name}: {count} gaps in {symbols} symbols of {gaps} bytes, with {low} low bits"
        )
    if digits > -(-count * which_bits(base) // 8) + base:
        raise DeltaError(f"{name}: {digits} bytes for {count} digits")
    sizes = (gaps, -(-count * low // 8), digits)
    stored = [body.take(size, name) for size in sizes]
    return StoredChanges(count, low, symbols, (stored[0], stored[1], stored[2]))


def apply_changes(
    entries: IndexEntries, chunk: Chunk, parts: Sequence[ByteArray], stored: StoredChanges
) -> list[ByteArray]:
    """Return the bytes of a chunk of the new file.

    Args:
        entries: of the tensor.
        chunk: the chunk.
        parts: its bytes in each section of the old file.
        stored: its changes.

    Raises:
        DeltaError: a stream is damaged, a gap leaves the chunk, or a digit or a pattern does not
            exist.
        IndexDataError: the old index is damaged.
    """
    old = entries.read(chunk, parts)
    slots = _slots(stored, len(old) * entries.slots)
    entry, slot = np.divmod(slots, entries.slots)
    is_first = np.diff(entry, prepend=-1) != 0
    touched: Positions = entry[is_first]
    at = np.cumsum(is_first) - 1
    digits = np.take(entries.digits, old[touched], axis=0)
    flat, places = digits.reshape(-1), at * entries.slots + slot
    flat[places] = _new_digits(stored, flat[places], entries.base)
    return entries.replace(chunk, parts, touched, entries.values(digits))


def _slots(stored: StoredChanges, limit: int) -> _Ints:
    symbols = expand(stored.streams[0], stored.symbols, "gaps")
    ends = np.flatnonzero(symbols != ESCAPE)
    if len(ends) != stored.count or ends[-1] != len(symbols) - 1:
        raise DeltaError(f"gaps: {len(ends)} end, expected {stored.count}, the last one at the end")
    high = ESCAPE * (np.diff(ends, prepend=-1) - 1) + symbols[ends]
    low = _unpack_bits(np.frombuffer(stored.streams[1], np.uint8), stored.count, stored.low)
    slots = np.cumsum((high << stored.low | low) + 1) - 1
    if slots[-1] >= limit:
        raise DeltaError(f"gaps: a change of digit {slots[-1]}, but the chunk has {limit}")
    return slots


def _new_digits(stored: StoredChanges, old: Digits, base: int) -> Digits:
    bits = which_bits(base)
    counts = np.bincount(old, minlength=base)
    sizes = -(-counts * bits // 8)
    data = expand(stored.streams[2], int(sizes.sum()), "digits")
    streams = np.split(data, np.cumsum(sizes)[:-1])
    which = np.empty(len(old), np.int64)
    which[np.argsort(old, kind="stable")] = np.concatenate(
        [_unpack_bits(s, count, bits) for s, count in zip(streams, counts, strict=True)]
    )
    if (which > base - 2).any():
        raise DeltaError(f"digits: found number {which.max()} of {base - 1} other digits")
    new: Digits = (which + (which >= old)).astype(np.uint8)
    return new
