"""The contenders for one matrix: its kernels and the dense baselines, on each level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.pages import huge_page_size
from rsr_formats.text import listed
from rsr_runtime import Matrix

from .baselines import Baseline
from .compiled import (
    Product,
    by_algorithm,
    compiled_copies,
    compiled_product,
    every_kernel,
    kernels_in_use,
)
from .expected import Reference, entry_scales, reference_products
from .memory import Memory
from .timing import Contender, Label, Operand

Array = npt.NDArray[Any]
Levels = dict[str, list[Operand]]  # the copies by level

_TOO_SMALL = "copies that exceed the caches would be too many, or too large for this memory"


@dataclass(frozen=True)
class Setting:
    """State that the line-ups of one benchmark share."""

    threads: int
    rng: np.random.Generator
    baselines: list[Baseline]
    memory: Memory
    copies: dict[str, dict[str, int]] = field(default_factory=dict)  # by matrix
    omitted: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)  # why a baseline is left out, by its name
    rotating: list[str] = field(default_factory=list)  # what has copies in rotation

    def copies_of(self, name: str, nbytes: int, wanted: int) -> int:
        """Return how many copies of `nbytes` rotate, 0 if memory has no room for enough."""
        if self.memory.rotations is not None and len(self.rotating) >= self.memory.rotations:
            return 0
        count = self.memory.copies(nbytes, wanted)
        if count:
            self.rotating.append(name)
        return count

    def omit(self, what: str, subject: str, reason: str) -> None:
        """Note that `what` of `subject` is not measured."""
        subjects = self.omitted.setdefault((what, reason), [])
        if subject not in subjects:
            subjects.append(subject)

    def notes(self) -> list[str]:
        """Return one sentence for each reason why something was not measured."""
        return [
            f"no {what} for {listed(subjects, 8)}: {reason}"
            for (what, reason), subjects in self.omitted.items()
        ]


def line_up(
    setting: Setting, matrix: Matrix, W: Array, others: Sequence[Matrix] = ()
) -> list[Contender]:
    """List all contenders for one matrix and one vector.

    Args:
        setting: its copies and omissions are added to.
        matrix: the matrix.
        W: its digit values, int8 (out_features, in_features).
        others: the same matrix in other encodings and packings.
    """
    reference = reference_products(matrix, W, setting.rng)
    labels = every_kernel(matrix, setting.threads)
    if matrix.encoding == "permuted":
        labels += by_algorithm(matrix, "rsr")
    setting.rotating.clear()  # the copies of the last matrix are gone
    levels = _compiled_levels(setting, matrix, setting.memory.ranked)
    if "memory" in levels:
        used = levels["memory"]
        setting.copies[matrix.name] = {"copies": len(used), "bytes": len(used) * used[0].nbytes}
    found = _compiled(labels, levels, matrix, reference)
    # Baselines first: memory may have no room for the copies of all.
    if setting.baselines and 4 * W.size > setting.memory.available / 4:
        setting.omit("dense baselines", matrix.name, "too large for this memory")
    elif setting.baselines:
        dense = W * entry_scales(matrix)
        for baseline in setting.baselines:
            weights = W if baseline.dtype == "int8" else dense
            found += _baseline(setting, baseline, matrix, weights, reference)
    for other in others:
        found += _other(setting, other, reference)
    return found


def line_up_batches(
    setting: Setting, matrix: Matrix, W: Array, sizes: Sequence[int]
) -> list[Contender]:
    """List the kernels in use with several vectors at once, on level cache."""
    found = []
    for vectors in sizes:
        reference = reference_products(matrix, W, setting.rng, vectors)
        labels = kernels_in_use(matrix, setting.threads, vectors)
        found += _compiled(labels, {"cache": compiled_copies(matrix, 1)}, matrix, reference)
    return found


def line_up_huge(setting: Setting, matrix: Matrix, W: Array) -> list[Contender]:
    """List the kernels in use from memory in huge pages, as `load(memory="huge")` gives them."""
    name, reason, count = f"{matrix.name} in huge pages", "this system has none", 0
    if huge_page_size() is not None:
        reason = _TOO_SMALL
        count = setting.copies_of(name, matrix.nbytes, setting.memory.ranked)
    if not count:
        setting.omit("memory-level figure", name, reason)
        return []
    levels = {"memory-huge": compiled_copies(matrix, count, huge=True)}
    reference = reference_products(matrix, W, setting.rng)
    return _compiled(kernels_in_use(matrix, setting.threads), levels, matrix, reference)


def _other(setting: Setting, matrix: Matrix, reference: Reference) -> list[Contender]:
    """List the paper's algorithms, or the kernels of another packing.

    The plain C++ kernel is left out there: packings exist for instruction sets.
    """
    if matrix.encoding == "permuted":
        labels = by_algorithm(matrix, "rsr++", "rsr")
        levels = _compiled_levels(setting, matrix, setting.memory.other)
    else:
        labels = [label for label in every_kernel(matrix, setting.threads) if label.isa != "scalar"]
        levels = _compiled_levels(setting, matrix, setting.memory.ranked)
    return _compiled(labels, levels, matrix, reference)


def _compiled(
    labels: Sequence[Label], levels: Levels, matrix: Matrix, reference: Reference
) -> list[Contender]:
    product = partial(compiled_product, matrix=matrix, reference=reference)
    return _contenders(labels, levels, product)


def _contenders(
    labels: Sequence[Label], levels: Levels, product: Callable[[Label], Product]
) -> list[Contender]:
    """Return a contender for each label on each level; those of a level share the copies."""
    return [
        Contender(
            replace(label, level=level), copies, math.prod(label.shape or ()), *product(label)
        )
        for level, copies in [(level, cycle(operands)) for level, operands in levels.items()]
        for label in labels
    ]


def _baseline(
    setting: Setting, baseline: Baseline, matrix: Matrix, W: Array, reference: Reference
) -> list[Contender]:
    name = f"{baseline.engine} {baseline.dtype}"
    operand, product = baseline.operand(W), baseline.product(reference)
    multiply, check = product
    try:
        wrong = check(multiply(operand.weights))
    except (AttributeError, RuntimeError) as error:  # not in this version, or not for this shape
        wrong = str(error).partition("\n")[0]
    if wrong is not None:  # PyTorch's int8 product is wrong for some shapes
        # One note for all matrices, with the error of the first.
        setting.omit(name, matrix.name, setting.wrong.setdefault(name, wrong))
        return []

    def copies(count: int) -> list[Operand]:
        return [operand, *(baseline.operand(W) for _ in range(count - 1))]

    label = Label(
        matrix.name, baseline.dtype, baseline.threads, baseline.engine, shape=list(W.shape),
        encoding="dense",
    )  # fmt: skip
    levels = _levels(setting, name, setting.memory.other, copies)
    return _contenders([label], levels, lambda _: product)


def _compiled_levels(setting: Setting, matrix: Matrix, wanted: int) -> Levels:
    name = f"{matrix.name} ({matrix.encoding} {matrix.packing})"
    return _levels(setting, name, wanted, partial(compiled_copies, matrix))


def _levels(
    setting: Setting, name: str, wanted: int, copies: Callable[[int], list[Operand]]
) -> Levels:
    """Make the copies of each level; `copies(1)` is the original."""
    levels = {"cache": copies(1)}
    count = setting.copies_of(name, levels["cache"][0].nbytes, wanted)
    if count:
        levels["memory"] = copies(count)
    else:
        setting.omit("memory-level figure", name, _TOO_SMALL)
    return levels
