"""Stage 5: make the record and the sections of one indexed tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from rsr_formats.records import NUMPY_DTYPES, IndexedTensor, Scale, Section, SourceRecord
from rsr_formats.writer import BytesLike, Packed, pack

from ..common.arrays import ByteArray
from ..layouts import TernaryTensor
from ..workers.pool import LocalState
from .index import index_sections
from .patterns import list_patterns
from .plan import IndexPlan, Plan
from .reuse import OldFile, content_hash, key_of

Add = Callable[[Iterable[BytesLike]], int]  # writes the pieces of a section and returns its number


@dataclass(frozen=True)
class Encoded:
    """One tensor, ready to be written. Its sections are numbered from 0.

    Attributes:
        record: its record.
        sections: its sections; those of type `Section` are in the old file.
        key: see reuse.py.
    """

    record: IndexedTensor
    sections: tuple[Packed | Section, ...]
    key: bytes


@dataclass(frozen=True)
class Encoder:
    """Encodes one planned tensor, in this process or another.

    Memory: the tensor's bytes, its sections and the digits of one panel.
    """

    zstd: int | None
    local: LocalState | None = None  # if workers are threads of this process
    old: OldFile | None = None  # the same

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
            raw = tensor.read(buffer)
            key = key_of(p, content_hash(raw))
            if self.old is not None and (found := reused(p, key, self.old)) is not None:
                return found
            record = encode(p, raw, add)
        return Encoded(record, tuple(sections), key)


def reused(p: IndexPlan, key: bytes, old: OldFile) -> Encoded | None:
    """Return a tensor made of the sections that an old file has of it, None if it has none."""
    found = old.indexed(key)
    if found is None:
        return None
    sections = found.all_sections()
    number = {part: i for i, part in enumerate(sections)}
    own = replace(
        p, k=found.k, packing=found.packing, pattern_list=found.pattern_list, stride=found.stride
    )
    index = {part: number[part] for part in found.sections}
    zeros = number.get("negative_zeros")
    record = _record(
        own, index, _source_record(p.source, zeros), _scale(p.source, number.get("scale", 0))
    )
    kept = replace(
        found,
        name=record.name,
        sections=index,
        scale=None if found.scale is None else replace(found.scale, section=number["scale"]),
        source=replace(found.source, negative_zeros=zeros, auxiliary=record.source.auxiliary),
        rotation=None,
    )
    if record != kept:  # the file has wrong keys
        return None
    return Encoded(record, tuple(map(old.section, sections.values())), key)


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
    source = _source_record(t, None if negative_zeros is None else add([negative_zeros.data]))
    return _record(p, sections, source, scale)


def nbytes(p: IndexPlan) -> int:
    """Return an upper bound of the bytes that `encode` makes of a tensor, before compression."""
    t = p.source
    scale = None if t.scale is None else Scale(t.scale.rows, 0, t.scale.columns)
    source = _source_record(t, None)
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


def _source_record(t: TernaryTensor, negative_zeros: int | None) -> SourceRecord:
    return SourceRecord(t.layout.name, t.source_dtype, t.source_shape, negative_zeros, t.auxiliary)


def _record(
    p: IndexPlan, sections: dict[str, int], source: SourceRecord, scale: Scale | None
) -> IndexedTensor:
    t = p.source
    return IndexedTensor(
        t.name, t.shape, t.digits, p.k, p.direction, p.encoding, p.packing, sections, source, scale,
        p.pattern_list, p.stride,
    )  # fmt: skip


def _scale(t: TernaryTensor, section: int) -> Scale | None:
    if t.scale is None:
        return None
    # Groups have many scales: halve them if F16 is exact.
    dtype = "F32" if t.scale.columns is None or t.scale.stored.dtype == np.float32 else "F16"
    return Scale(t.scale.rows, section, t.scale.columns, dtype)


def _add_scale(t: TernaryTensor, add: Add) -> Scale | None:
    record = _scale(t, 0)
    if t.scale is None or record is None:
        return None
    # A matrix without rows has no scales.
    stored = t.scale.stored[: -(-t.shape[0] // record.rows)]
    scales = stored.T.astype(NUMPY_DTYPES[record.dtype], order="C")  # in the order of groups
    return replace(record, section=add([scales.reshape(-1).view(np.uint8).data]))
