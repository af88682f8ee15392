"""Everything a `.rsr` file holds of one indexed tensor: its record and its sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rsr_formats.records import NUMPY_DTYPES, IndexedTensor, Scale, SourceRecord
from rsr_formats.writer import BytesLike, Packed, pack

from ..layouts import TernaryTensor
from ..workers.pool import Local
from .index import index_sections
from .patterns import list_patterns
from .plan import IndexPlan, Plan

Add = Callable[[Iterable[BytesLike]], int]  # takes the pieces of a section, returns its number


@dataclass(frozen=True)
class Encoded:
    """One tensor, ready to be written; its sections are numbered from 0."""

    record: IndexedTensor
    sections: tuple[Packed, ...]


@dataclass(frozen=True)
class Encoder:
    """What is done with one planned tensor, here or in another process.

    It takes the tensor's bytes, its sections and the digits of a panel in memory.
    """

    zstd: int | None
    local: Local | None = None  # what threads of one process share

    def __call__(self, p: Plan) -> Encoded:
        """Read, index, compress and hash one tensor.

        Raises:
            SourceError: the tensor holds a code that is no digit, or the file got shorter.
            OSError: reading failed.
        """
        assert isinstance(p, IndexPlan)  # what stays dense is not given to workers
        local = self.local or Local()
        sections: list[Packed] = []

        def add(pieces: Iterable[BytesLike]) -> int:
            sections.append(pack(local.until_stopped(pieces), self.zstd))
            return len(sections) - 1

        tensor = p.source.tensor
        with local.memory(tensor.nbytes) as memory:
            record = encode(p, tensor.read(memory), add)
        return Encoded(record, tuple(sections))


def encode(
    p: IndexPlan,
    raw: npt.NDArray[np.uint8],
    add: Add,
    pool: Executor | None = None,
    threads: int = 1,
) -> IndexedTensor:
    """Hand the sections of one tensor to `add`, one after the other, in pieces.

    Args:
        p: the plan of the tensor.
        raw: all bytes of the source tensor.
        add: takes the pieces of a section and returns its number.
        pool: where panels are encoded, or None: in this thread.
        threads: how many panels to keep under way.

    Returns:
        The tensor's record, with the numbers that `add` gave.

    Raises:
        SourceError: the tensor holds a code that is no digit.
        OptionError: the plan's k needs listed patterns, and too many occur.
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
    """Return how many bytes `encode` makes of a tensor, uncompressed; never too few."""
    t = p.source
    scale = None if t.scale is None else Scale(t.scale.rows, 0, t.scale.columns)
    source = SourceRecord(t.layout.name, t.source_dtype, t.source_shape)
    zeros = t.shape[0] * t.shape[1] // 8 + 1 if t.negative_zeros else 0
    return _record(p, {}, source, scale).nbytes + zeros


def renumbered(t: IndexedTensor, first: int) -> IndexedTensor:
    """Return a record whose sections are numbered from 0 with numbers from `first` on."""
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
    rows, columns, values = t.scale.rows, t.scale.columns, t.scale.values
    dtype = "F32"
    if columns is not None:  # so many that half the bytes count, where no bit is lost
        with np.errstate(over="ignore"):
            dtype = "F16" if (values.astype(np.float16) == values).all() else "F32"
    values = values[: -(-t.shape[0] // rows)]  # none for a matrix without rows
    scales = values.T.astype(NUMPY_DTYPES[dtype])  # group by group
    return Scale(rows, add([scales.tobytes()]), columns, dtype)
