"""Stage 5: make the record and the sections of one indexed tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from rsr_formats.records import NUMPY_DTYPES, IndexedTensor, Scale, SourceRecord
from rsr_formats.writer import BytesLike, Packed, pack

from ..common.arrays import ByteArray
from ..layouts import TernaryTensor
from ..workers.pool import LocalState
from .index import index_sections
from .patterns import list_patterns
from .plan import IndexPlan, Plan

Add = Callable[[Iterable[BytesLike]], int]  # writes the pieces of a section and returns its number


@dataclass(frozen=True)
class Encoded:
    """One tensor, ready to be written. Its sections are numbered from 0."""

    record: IndexedTensor
    sections: tuple[Packed, ...]


@dataclass(frozen=True)
class Encoder:
    """Encodes one planned tensor, in this process or another.

    Memory: the tensor's bytes, its sections and the digits of one panel.
    """

    zstd: int | None
    local: LocalState | None = None  # if workers are threads of this process

    def __call__(self, p: Plan) -> Encoded:
        """Read, index, compress and hash one tensor.

        Raises:
            SourceError: the tensor has an invalid code, or the file became shorter.
            OSError: reading failed.
        """
        assert isinstance(p, IndexPlan)  # workers get no dense tensors
        local = self.local or LocalState()
        sections: list[Packed] = []

        def add(pieces: Iterable[BytesLike]) -> int:
            sections.append(pack(local.until_stopped(pieces), self.zstd))
            return len(sections) - 1

        tensor = p.source.tensor
        with local.buffer(tensor.nbytes) as buffer:
            record = encode(p, tensor.read(buffer), add)
        return Encoded(record, tuple(sections))


def encode(
    p: IndexPlan,
    raw: ByteArray,
    add: Add,
    pool: Executor | None = None,
    threads: int = 1,
) -> IndexedTensor:
    """Index one tensor and write its sections, one after the other, in pieces.

    Args:
        p: the plan of the tensor.
        raw: all bytes of the source tensor, uint8 (nbytes,).
        add: writes a section.
        pool: encodes panels; None uses this thread.
        threads: how many panels may be in flight.

    Returns:
        The tensor's record, with the section numbers that `add` returned.

    Raises:
        SourceError: the tensor has an invalid code.
        OptionError: the plan's k requires listed patterns, but too many occur.
    """
    t = p.source
    p = list_patterns(p, raw)
    sections = {part: add(pieces) for part, pieces in index_sections(p, raw, pool, threads)}
    scale = _add_scale(t, add)
    negative_zeros = t.layout.negative_zeros(raw, t)
    source = SourceRecord(
        layout=t.layout.name,
        dtype=t.source_dtype,
        shape=t.source_shape,
        negative_zeros=None if negative_zeros is None else add([negative_zeros.data]),
        auxiliary=t.auxiliary,
    )
    return _record(p, sections, source, scale)


def nbytes(p: IndexPlan) -> int:
    """Return an upper bound of the bytes that `encode` makes of a tensor, before compression."""
    t = p.source
    scale = None if t.scale is None else Scale(t.scale.rows, 0, t.scale.columns)
    source = SourceRecord(t.layout.name, t.source_dtype, t.source_shape)
    zeros = t.shape[0] * t.shape[1] // 8 + 1 if t.negative_zeros else 0
    return _record(p, {}, source, scale).nbytes + zeros


def renumbered(t: IndexedTensor, first: int) -> IndexedTensor:
    """Return a record with `first` added to its section numbers."""
    zeros = t.source.negative_zeros
    return replace(
        t,
        sections={part: first + number for part, number in t.sections.items()},
        scale=None if t.scale is None else replace(t.scale, section=first + t.scale.section),
        source=t.source if zeros is None else replace(t.source, negative_zeros=first + zeros),
    )


def _record(
    p: IndexPlan, sections: dict[str, int], source: SourceRecord, scale: Scale | None
) -> IndexedTensor:
    t = p.source
    return IndexedTensor(
        t.name, t.shape, t.digits, p.k, p.direction, p.encoding, p.packing, sections, source, scale,
        p.pattern_list, p.stride,
    )  # fmt: skip


def _add_scale(t: TernaryTensor, add: Add) -> Scale | None:
    if t.scale is None:
        return None
    rows, columns, stored = t.scale.rows, t.scale.columns, t.scale.stored
    # Groups have many scales: halve them if F16 is exact.
    dtype = "F32" if columns is None or stored.dtype == np.float32 else "F16"
    stored = stored[: -(-t.shape[0] // rows)]  # a matrix without rows has no scales
    scales = stored.T.astype(NUMPY_DTYPES[dtype], order="C")  # in the order of groups
    return Scale(rows, add([scales.reshape(-1).view(np.uint8).data]), columns, dtype)
