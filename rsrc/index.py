"""Stage 4: build the index of a tensor, a panel at a time, on several threads in native code."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rsr_formats.encoding import LANES, STRIP, padding_digit, w16_words

from . import _native
from .errors import SourceError
from .layouts import TernaryTensor
from .plan import IndexPlan

T = TypeVar("T")
Item = TypeVar("Item")

_PANEL = 2 << 20  # digits of a panel: small enough to stay near the processor
_PANELS = 32 << 20  # digits of all panels under way: however many threads, memory stays bounded
Part = tuple[str, Iterator[memoryview]]


def index_sections(
    p: IndexPlan, raw: npt.NDArray[np.uint8], pool: ThreadPoolExecutor, threads: int
) -> Iterator[Part]:
    """Build the sections of one tensor's index.

    Args:
        p: the plan of the tensor.
        raw: all bytes of the source tensor.
        pool: where panels are encoded; native code releases the GIL.
        threads: how many panels to keep under way, so that memory stays bounded.

    Yields:
        (name of the section, its pieces in order); each section's pieces must be taken before the
        next section is asked for.

    Raises:
        SourceError: the tensor holds a code that is no digit.
    """
    if p.encoding == "ranked":
        yield "ranks", _ranks(p, raw, pool, threads)
        return
    segments: list[npt.NDArray[Any]] = []
    yield "permutation", _permutations(p, raw, pool, threads, segments)
    yield "segments", (s.data.cast("B") for s in segments)


def _ranks(
    p: IndexPlan, raw: npt.NDArray[np.uint8], pool: ThreadPoolExecutor, threads: int
) -> Iterator[memoryview]:
    t = p.source
    out_features, in_features = t.shape
    words = w16_words(-(-in_features // p.k))
    height = max(1, _panel(threads) // max(1, in_features) // STRIP) * STRIP

    def encode(first: int) -> memoryview:
        rows = slice(first, min(first + height, out_features))
        digits = t.layout.digits(raw, t, rows, slice(0, in_features))
        out = np.empty(words * -(-(rows.stop - rows.start) // LANES) * LANES, np.uint16)
        with _naming(t):
            _native.pack_w16(digits, len(t.digits), p.k, padding_digit(t.digits), out)
        return out.data.cast("B")

    return ordered_map(pool, encode, range(0, out_features, height), threads)


def _permutations(
    p: IndexPlan,
    raw: npt.NDArray[np.uint8],
    pool: ThreadPoolExecutor,
    threads: int,
    segments: list[npt.NDArray[Any]],
) -> Iterator[memoryview]:
    t = p.source
    expand = p.direction == "expand"
    rows, columns = t.shape if expand else t.shape[::-1]
    dtype = np.uint16 if p.packing == "u16" else np.uint32
    width = max(1, _panel(threads) // max(1, rows) // p.k) * p.k

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
        lists = np.empty((blocks, len(t.digits) ** p.k + 1), dtype)
        with _naming(t):
            _native.sort_blocks(
                digits, len(t.digits), p.k, padding_digit(t.digits), permutation, lists
            )
        return permutation, lists

    for permutation, lists in ordered_map(pool, encode, range(0, columns, width), threads):
        segments.append(lists.reshape(-1))
        yield permutation.reshape(-1).data.cast("B")


def _panel(threads: int) -> int:
    return min(_PANEL, _PANELS // threads)


@contextmanager
def _naming(t: TernaryTensor) -> Iterator[None]:
    """Turn the native encoder's complaint into an error that names the tensor."""
    try:
        yield
    except ValueError:
        raise SourceError(
            f"{t.name}: holds a code that is no digit (0 to {len(t.digits) - 1}): not layout "
            f"{t.layout.name!r}, or damaged; --exclude keeps it dense"
        ) from None


def ordered_map(
    pool: ThreadPoolExecutor, function: Callable[[Item], T], items: Iterable[Item], ahead: int
) -> Iterator[T]:
    """Yield function(item) in order, with at most `ahead` + 1 of them begun but not yet taken."""
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
