"""Stage 4: build the index of a tensor in panels, on several threads in native code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rsr_formats.packing import (
    N4S1_BLOCKS,
    N4S1_STRIP,
    RANKS_PER_WORD,
    STRIP,
    n4s1_size,
    padded_rows,
    padding_digit,
    pattern_digits,
    w16_words,
)
from rsr_formats.writer import BytesLike

from .. import _native
from ..common.arrays import ByteArray
from ..common.errors import SourceError
from ..layouts import TernaryTensor
from ..layouts.base import DigitArray
from ..workers.pool import Workers
from .plan import IndexPlan

_PANEL = 2 << 20  # bytes of a panel; small enough for the L2 cache
_PANELS = 32 << 20  # bytes of all panels in flight, for any number of threads
_PIECE = 1 << 20  # bytes read back from disk at once
Part = tuple[str, Iterator[BytesLike]]  # name of a section, its pieces


def index_sections(
    p: IndexPlan, raw: ByteArray, pool: Executor | None, threads: int
) -> Iterator[Part]:
    """Build the sections of one tensor's index.

    Args:
        p: the plan of the tensor.
        raw: all bytes of the source tensor, uint8 (nbytes,).
        pool: encodes panels; native code releases the GIL. None uses this thread.
        threads: how many panels may be in flight.

    Yields:
        The name of each section and its pieces in order. The pieces must be consumed before the
        next section is requested.

    Raises:
        SourceError: the tensor has an invalid code.
    """
    if p.encoding == "ranked":
        yield "ranks", _ranks(p, raw, pool, threads)
        return
    # One pass builds both sections. The segment lists wait on disk: with B^k + 1 entries for every
    # k columns, they can be a thousand times as large as the tensor.
    with tempfile.TemporaryFile() as segments:
        yield "permutation", _permutations(p, raw, pool, threads, segments)
        segments.seek(0)
        yield "segments", iter(lambda: segments.read(_PIECE), b"")


def _ranks(
    p: IndexPlan, raw: ByteArray, pool: Executor | None, threads: int
) -> Iterator[memoryview]:
    t = p.source
    out_features, in_features = t.shape
    panel = _panel(threads)
    strip, unit = (STRIP, RANKS_PER_WORD) if p.packing == "w16" else (N4S1_STRIP, N4S1_BLOCKS)
    height = max(1, panel // max(1, in_features) // strip) * strip
    width = max(1, in_features)
    if height * width > panel:  # divide strips, too: their word columns are stored in order
        step = unit * (p.k * p.stride if t.group_columns is None else t.group_columns)
        width = max(1, panel // strip // step) * step

    def encode(first: tuple[int, int]) -> memoryview:
        rows = slice(first[0], min(first[0] + height, out_features))
        columns = slice(first[1], min(first[1] + width, in_features))
        digits = t.layout.digits(raw, t, rows, columns)
        if t.group_columns is not None and t.group_columns % p.k:
            digits = _fill_groups(digits, t.group_columns, p.k, padding_digit(t.digits))
        with _naming(t):
            return _pack(p, digits)

    panels = ((r, c) for r in range(0, out_features, height) for c in range(0, in_features, width))
    encoded = Workers(pool, threads).map(encode, panels)
    return (words for _, words in encoded if words is not None)


def _fill_groups(digits: DigitArray, group: int, k: int, pad: int) -> DigitArray:
    """Pad every group of columns to whole column blocks. The first column begins a group."""
    rows, columns = digits.shape
    whole, rest = divmod(columns, group)
    width = -(-group // k) * k
    filled = np.full((rows, whole * width + -(-rest // k) * k), pad, np.uint8)
    inner = filled[:, : whole * width].reshape(rows, whole, width)
    inner[:, :, :group] = digits[:, : whole * group].reshape(rows, whole, group)
    filled[:, whole * width : whole * width + rest] = digits[:, whole * group :]
    return filled


def _pack(p: IndexPlan, digits: DigitArray) -> memoryview:
    rows, columns = digits.shape
    blocks = -(-columns // p.k)
    if p.packing == "n4s1":
        group = p.source.group_columns
        group_blocks = None if group is None else -(-group // p.k)
        packed = np.empty(n4s1_size(rows, blocks, group_blocks), np.uint8)
        _native.pack_n4s1(digits, packed, group_blocks or 0)
        return packed.data
    words = np.empty(w16_words(blocks) * padded_rows(rows), np.uint16)
    alphabet, listed = p.source.digits, None
    if p.pattern_list is not None:
        listed = pattern_digits(len(alphabet), p.k, p.pattern_list)
    if p.stride > 1:
        runs = digits.reshape(rows, -1, p.k, p.stride)
        digits = runs.swapaxes(2, 3).reshape(rows, columns)
    _native.pack_w16(digits, len(alphabet), p.k, padding_digit(alphabet), words, listed)
    return words.data.cast("B")


def _permutations(
    p: IndexPlan,
    raw: ByteArray,
    pool: Executor | None,
    threads: int,
    segments: IO[bytes],
) -> Iterator[memoryview]:
    """Yield the permutations and write the segment lists to `segments`."""
    t = p.source
    expand = p.direction == "expand"
    rows, columns = t.shape if expand else t.shape[::-1]
    dtype = np.uint16 if p.packing == "u16" else np.uint32
    patterns = len(t.digits) ** p.k
    block = p.k * rows + np.dtype(dtype).itemsize * (rows + patterns + 1)  # bytes
    panel_blocks = max(1, _panel(threads) // block)
    width = panel_blocks * p.k
    ahead = min(threads, _PANELS // (panel_blocks * block))

    def encode(first: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        panel = slice(first, min(first + width, columns))
        whole = slice(0, rows)
        digits = (
            t.layout.digits(raw, t, whole, panel)
            if expand
            else t.layout.digits(raw, t, panel, whole).T
        )
        blocks = -(-(panel.stop - panel.start) // p.k)
        permutation = np.empty((blocks, rows), dtype)
        lists = np.empty((blocks, patterns + 1), dtype)
        with _naming(t):
            _native.sort_blocks(
                digits, len(t.digits), p.k, padding_digit(t.digits), permutation, lists
            )
        return permutation, lists

    for _, panel in Workers(pool, ahead).map(encode, range(0, columns, width)):
        assert panel is not None
        permutation, lists = panel
        segments.write(lists.data)
        yield permutation.reshape(-1).data.cast("B")


def _panel(threads: int) -> int:
    return min(_PANEL, _PANELS // threads)


@contextmanager
def _naming(t: TernaryTensor) -> Iterator[None]:
    """Convert the error of the native encoder into one that names the tensor."""
    try:
        yield
    except ValueError:
        raise SourceError(
            f"{t.name}: has a code other than 0 to {len(t.digits) - 1}: it is damaged, or not in "
            f"layout {t.layout.name!r}; --exclude keeps it dense"
        ) from None
