"""The entries of an index: what its bytes hold, in the order of storage.

An entry is a word in packing w16 (three ranks), two neighboring ranks in n4s1, and the rank of a
row in encoding permuted. Its slots are the digits of these ranks; those of padding count too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.decode import Entries, digit_table
from rsr_formats.packing import (
    N4S1_STRIP,
    RANK_BITS,
    RANKS_PER_WORD,
    ZERO_RANK,
    Block,
    block_from_ranks,
    n4s1_bytes,
    padded_rows,
    pattern_digits,
    ranks_from_block,
)
from rsr_formats.records import PARTS, IndexedTensor
from rsr_formats.validate import check_permuted

from ..common.arrays import ByteArray
from ..common.errors import DeltaError
from .records import CHUNK

_UNLISTED = 0xFFFF  # in place of the rank of a pattern
Values = npt.NDArray[np.uint16]
Digits = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Chunk:
    """A part of an index that is handled at a time."""

    sizes: tuple[int, ...]  # its bytes in each section of the index
    shape: tuple[int, ...]  # how they are laid out
    entries: int


class IndexEntries(ABC):
    """Reads and replaces the entries of the chunks of an index.

    Args:
        t: the record of the tensor.

    Attributes:
        digits: the digits of each value of an entry, uint8 (values, slots).
        base: B.
        parts: names of the sections, in the order of `Chunk.sizes`.
    """

    digits: Digits

    def __init__(self, t: IndexedTensor) -> None:
        self.base, self.parts = t.base, PARTS[t.encoding]
        self._t = t

    @property
    def slots(self) -> int:
        """Digits of an entry."""
        return int(self.digits.shape[1])

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks of the index in order."""

    @abstractmethod
    def read(self, chunk: Chunk, parts: Sequence[ByteArray]) -> Values:
        """Return the entries of a chunk, flat, from its bytes in each section."""

    @abstractmethod
    def values(self, digits: Digits) -> Values:
        """Return the entries that have these digits, (entries, slots).

        Raises:
            DeltaError: a pattern is not listed.
        """

    @abstractmethod
    def replace(
        self, chunk: Chunk, parts: Sequence[ByteArray], at: Positions, values: Values
    ) -> list[ByteArray]:
        """Return the bytes of a chunk in which some entries are replaced.

        Args:
            chunk: the chunk.
            parts: its bytes in each section; not changed.
            at: positions in the result of `read`, ascending.
            values: the new entries.
        """

    def _numbers(self, digits: Digits) -> Values:
        """Return the numbers of the patterns of entries, (entries, ranks)."""
        patterns = digits.reshape(len(digits), -1, self._t.k)
        numbers = np.zeros(patterns.shape[:2], np.uint16)  # below 65,536 in every encoding
        for place in range(self._t.k):
            numbers *= self._t.base
            numbers += patterns[:, :, place]
        return numbers


def entries_of(t: IndexedTensor) -> IndexEntries:
    """Return what reads and replaces the entries of a tensor's index."""
    if t.encoding == "permuted":
        return _Permuted(t)
    return _Words(t) if t.packing == "w16" else _Units(t)


class _Words(IndexEntries):
    """Packing w16: an entry is a word, whatever strip it is in."""

    def __init__(self, t: IndexedTensor) -> None:
        super().__init__(t)
        self.digits = digit_table(t)
        known = pattern_digits(t.base, t.k, t.pattern_list) @ t.base ** np.arange(t.k)[::-1]
        self._ranks = np.full(t.base**t.k, _UNLISTED, np.uint16)
        self._ranks[known] = np.arange(len(known))

    def chunks(self) -> Iterator[Chunk]:
        words = self._t.section_sizes()["ranks"] // 2
        for first in range(0, words, CHUNK):
            count = min(CHUNK, words - first)
            yield Chunk((2 * count,), (count,), count)

    def read(self, chunk: Chunk, parts: Sequence[ByteArray]) -> Values:
        words: Values = parts[0].view("<u2") & np.uint16(0x7FFF)
        return words

    def values(self, digits: Digits) -> Values:
        ranks = np.take(self._ranks, self._numbers(digits))
        if (ranks == _UNLISTED).any():
            raise DeltaError(f"tensor {self._t.name!r}: changes make a pattern that is not listed")
        words = np.zeros(len(ranks), np.uint16)
        for i in range(RANKS_PER_WORD):
            words |= ranks[:, i] << np.uint16(RANK_BITS * i)
        return words

    def replace(
        self, chunk: Chunk, parts: Sequence[ByteArray], at: Positions, values: Values
    ) -> list[ByteArray]:
        words = parts[0].view("<u2").copy()
        words[at] = words[at] & np.uint16(0x8000) | values
        return [words.view(np.uint8)]


class _Units(IndexEntries):
    """Packing n4s1: an entry is two ranks with magnitudes in one byte; chunks are whole strips."""

    def __init__(self, t: IndexedTensor) -> None:
        super().__init__(t)
        self.digits = digit_table(t)
        self._bytes = n4s1_bytes(t.blocks, t.unit_blocks)  # of a row

    @cached_property
    def _entries(self) -> Entries:
        """Made on request: a tensor without rows may claim millions of columns."""
        return Entries(self._t)

    def chunks(self) -> Iterator[Chunk]:
        padded = padded_rows(self._t.rows)
        if not self._bytes or not padded:
            return
        full = padded // N4S1_STRIP
        step = max(1, CHUNK // (N4S1_STRIP * self._entries.count))
        for first in range(0, full, step):
            yield self._chunk(min(step, full - first), N4S1_STRIP)
        if padded % N4S1_STRIP:
            yield self._chunk(1, padded % N4S1_STRIP)

    def _chunk(self, strips: int, height: int) -> Chunk:
        size = strips * self._bytes * height
        return Chunk((size,), (strips, self._bytes, height), strips * self._entries.count * height)

    def read(self, chunk: Chunk, parts: Sequence[ByteArray]) -> Values:
        return self._entries.of(parts[0].reshape(chunk.shape), 0, self._entries.count).reshape(-1)

    def values(self, digits: Digits) -> Values:
        signed = self._numbers(digits).astype(np.int16) - ZERO_RANK
        magnitudes, signs = np.abs(signed), signed < 0
        packed = magnitudes[:, 0] | magnitudes[:, 1] << 4 | signs[:, 1] << 8 | signs[:, 0] << 9
        values: Values = packed.astype(np.uint16)
        return values

    def replace(
        self, chunk: Chunk, parts: Sequence[ByteArray], at: Positions, values: Values
    ) -> list[ByteArray]:
        piece = parts[0].copy()
        self._entries.replace(piece.reshape(chunk.shape), at, values)
        return [piece]


class _Permuted(IndexEntries):
    """Encoding permuted: an entry is the rank of a row in a block; chunks are whole blocks."""

    def __init__(self, t: IndexedTensor) -> None:
        super().__init__(t)
        self.digits = pattern_digits(t.base, t.k)
        self._dtype = np.dtype("<u2" if t.packing == "u16" else "<u4")

    def chunks(self) -> Iterator[Chunk]:
        t, item = self._t, self._dtype.itemsize
        step = max(1, CHUNK // max(t.rows, t.patterns + 1))
        for first in range(0, t.blocks, step):
            count = min(step, t.blocks - first)
            sizes = (item * count * t.rows, item * count * (t.patterns + 1))
            yield Chunk(sizes, (count,), count * t.rows)

    def read(self, chunk: Chunk, parts: Sequence[ByteArray]) -> Values:
        permutation, segments = self._arrays(chunk, parts)
        check_permuted(self._t, permutation, segments)
        ranks = [ranks_from_block(Block(*b)) for b in zip(permutation, segments, strict=True)]
        return np.concatenate([np.empty(0, np.uint16), *ranks])

    def values(self, digits: Digits) -> Values:
        return self._numbers(digits)[:, 0]

    def replace(
        self, chunk: Chunk, parts: Sequence[ByteArray], at: Positions, values: Values
    ) -> list[ByteArray]:
        t = self._t
        new = [part.copy() for part in parts]
        permutation, segments = self._arrays(chunk, new)
        bounds = np.searchsorted(at, np.arange(len(permutation) + 1) * t.rows)
        for j, (start, stop) in enumerate(pairwise(bounds)):
            if start < stop:
                ranks = ranks_from_block(Block(permutation[j], segments[j]))
                ranks[at[start:stop] - j * t.rows] = values[start:stop]
                permutation[j], segments[j] = block_from_ranks(ranks, t.patterns)
        return new

    def _arrays(
        self, chunk: Chunk, parts: Sequence[ByteArray]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return views: the permutations (blocks, rows) and the segment lists of a chunk."""
        count = chunk.shape[0]
        permutation = parts[0].view(self._dtype).reshape(count, self._t.rows)
        return permutation, parts[1].view(self._dtype).reshape(count, -1)
