"""How many weights of each tensor differ between two `.rsr` files: `rsrc diff --stat`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.decode import decode_digits, dense_windows
from rsr_formats.processors import usable_processors
from rsr_formats.records import DTYPE_BITS, DenseTensor, IndexedTensor, Tensor

from ..common.arrays import ByteArray
from ..common.progress import ByteCounter, ProgressFunction
from ..workers.pool import open_workers
from .records import identity, same_index

_PIECE = 4 << 20  # elements of a dense tensor compared at a time


@dataclass(frozen=True)
class Counts:
    """Numbers of weights, or of elements of a dense tensor."""

    weights: int = 0
    changed: int = 0  # have another value
    changed_sign: int = 0  # were above zero and are below, or the reverse
    became_zero: int = 0
    became_nonzero: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the number of weights, and the other numbers as shares of it."""
        n = max(1, self.weights)
        others = {f.name: getattr(self, f.name) / n for f in fields(self)[1:]}
        return {"weights": self.weights, **others}

    def __add__(self, other: Counts) -> Counts:
        """Add numbers of other weights."""
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)))


@dataclass(frozen=True)
class TensorDifference:
    """How a tensor differs in two files.

    Attributes:
        name: of the tensor.
        kind: "ternary", ..., "dense"; of the new file, if it is there.
        shape: likewise.
        status: "same"; "changed"; "added" to the new file; "removed" from the old one; or
            "replaced" by a tensor of another kind, shape or dtype, whose values are not compared.
        counts: of an indexed tensor, digits are compared; scales are not part of them. Of a dense
            tensor only `weights` and `changed`, which compares bytes.
        scales_changed: share of the scales that differ, 0 to 1; None if there are none to compare.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    status: str
    counts: Counts = Counts()
    scales_changed: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON has it: shares of the weights."""
        shares = self.counts.to_dict()
        if self.kind == "dense":
            shares = {key: shares[key] for key in ("weights", "changed")}
        else:
            shares["scales_changed"] = self.scales_changed
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "status": self.status,
            **shares,
        }


@dataclass(frozen=True)
class Statistics:
    """How the tensors and files of two models differ."""

    tensors: tuple[TensorDifference, ...]
    files: tuple[str, ...]  # names of files whose contents differ, or that one model lacks

    @property
    def counts(self) -> Counts:
        """The sum over the indexed tensors that were compared."""
        return sum((t.counts for t in self.tensors if t.kind != "dense"), Counts())

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON has them."""
        return {
            "tensors": [t.to_dict() for t in self.tensors],
            "indexed": self.counts.to_dict(),
            "files": list(self.files),
        }


def statistics(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: ProgressFunction | None = None,
) -> Statistics:
    """Compare the tensors of two `.rsr` files, whatever their encodings are.

    Args:
        old: a `.rsr` file.
        new: another one.
        threads: tensors to compare at once. Default: the processors that this process
            may use.
        progress: called as progress(tensor name, bytes done, total bytes).

    Raises:
        FormatError: a file is damaged.
        OSError: reading failed.
    """
    a, b = RsrFile(old), RsrFile(new)
    before = {t.name: t for t in a.header.tensors}
    after = {t.name: t for t in b.header.tensors}
    names = list(before | after)
    counter = ByteCounter(progress, sum(t.nbytes for t in after.values()))

    def compare(name: str) -> TensorDifference:
        return _difference(a, b, before.get(name), after.get(name))

    found = []
    with (
        open_workers(None, threads or usable_processors()) as workers,
        closing(workers.map(compare, names)) as results,
    ):
        for name, difference in results:
            assert difference is not None
            found.append(difference)
            counter.advance(name, after[name].nbytes if name in after else 0)
    return Statistics(tuple(found), tuple(_changed_files(a, b)))


def _changed_files(a: RsrFile, b: RsrFile) -> Iterator[str]:
    before = {f.name: f.section for f in a.header.files}
    after = {f.name: f.section for f in b.header.files}
    for name in before | after:
        both = name in before and name in after
        if not both or not np.array_equal(a.section(before[name]), b.section(after[name])):
            yield name


def _difference(a: RsrFile, b: RsrFile, old: Tensor | None, new: Tensor | None) -> TensorDifference:
    t = new or old
    assert t is not None
    kind = "dense" if isinstance(t, DenseTensor) else t.kind
    found = TensorDifference(t.name, kind, t.shape, "removed" if new is None else "added")
    if old is None or new is None:
        return found
    if isinstance(old, IndexedTensor) and isinstance(new, IndexedTensor) and old.shape == new.shape:
        counts = _index_counts(a, b, old, new)
        scales = _scales_changed(a, b, old, new)
        status = "changed" if counts.changed or scales or (old.digits, old.scale is None) != (
            new.digits, new.scale is None
        ) else "same"  # fmt: skip
        return replace(found, status=status, counts=counts, scales_changed=scales)
    if (
        isinstance(old, DenseTensor)
        and isinstance(new, DenseTensor)
        and (old.shape, old.dtype) == (new.shape, new.dtype)
    ):
        counts = _dense_counts(a, b, old, new)
        return replace(found, status="changed" if counts.changed else "same", counts=counts)
    return replace(found, status="replaced")


def _is_same(a: RsrFile, b: RsrFile, old: int, new: int) -> bool:
    """Whether two sections have the same stored bytes by their hashes."""
    return identity(a.header.sections[old]) == identity(b.header.sections[new])


def _index_counts(a: RsrFile, b: RsrFile, old: IndexedTensor, new: IndexedTensor) -> Counts:
    total = Counts(old.shape[0] * old.shape[1])
    alike = same_index(old, new)
    if alike and all(_is_same(a, b, n, new.sections[part]) for part, n in old.sections.items()):
        return total
    before, after = a.index_arrays(old), b.index_arrays(new)
    if not alike:
        pairs = iter([(decode_digits(old, before), decode_digits(new, after))])
    else:
        windows = zip(dense_windows(old, before), dense_windows(new, after), strict=True)
        pairs = ((x[2], y[2]) for x, y in windows)
    is_one_alphabet = old.digits == new.digits
    values = np.array(old.digits), np.array(new.digits)
    for x, y in pairs:
        at = np.nonzero(x != y) if is_one_alphabet else slice(None)
        total += _changes(values[0][x[at]], values[1][y[at]])
    return total


def _changes(x: npt.NDArray[np.integer], y: npt.NDArray[np.integer]) -> Counts:
    """Count the differences of values."""
    count = np.count_nonzero
    return Counts(
        0,
        int(count(x != y)),
        int(count(x * y < 0)),
        int(count((x != 0) & (y == 0))),
        int(count((x == 0) & (y != 0))),
    )


def _scales_changed(a: RsrFile, b: RsrFile, old: IndexedTensor, new: IndexedTensor) -> float | None:
    if old.scale is None or new.scale is None:
        return None
    x, y = a.section(old.scale.section), b.section(new.scale.section)
    if (old.scale.rows, old.scale.columns, old.scale.dtype) != (
        new.scale.rows, new.scale.columns, new.scale.dtype,
    ):  # fmt: skip
        return 1.0
    item = DTYPE_BITS[old.scale.dtype] // 8
    return _elements_changed(x, y, item) / max(1, len(x) // item)


def _dense_counts(a: RsrFile, b: RsrFile, old: DenseTensor, new: DenseTensor) -> Counts:
    item = max(1, DTYPE_BITS[old.dtype] // 8)
    size = old.nbytes // item
    if _is_same(a, b, old.section, new.section):
        return Counts(size)
    return Counts(size, _elements_changed(a.section(old.section), b.section(new.section), item))


def _elements_changed(x: ByteArray, y: ByteArray, item: int) -> int:
    """Count the elements of `item` bytes whose bytes differ."""
    kind, changed = f"<u{item}", 0
    for start in range(0, len(x) // item, _PIECE):
        part = slice(item * start, item * (start + _PIECE))
        changed += int(np.count_nonzero(x[part].view(kind) != y[part].view(kind)))
    return changed
