"""Who takes part: one matrix in all its settings, and its rivals, on both levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_runtime import Matrix

from .baselines import Rival
from .compiled import (
    Product,
    Truth,
    batch_product,
    by_algorithm,
    compiled_copies,
    compiled_product,
    entry_scales,
    every_kernel,
    kernels_in_use,
    true_products,
)
from .memory import Memory, has_huge_pages
from .timing import Contender, Label, Operand

Array = npt.NDArray[Any]

_TOO_SMALL = "copies that fill the caches would be too many, or too large for this memory"


@dataclass(frozen=True)
class Setting:
    """What the line-ups of one benchmark share."""

    threads: int
    rng: np.random.Generator
    rivals: list[Rival]
    memory: Memory
    notes: list[str] = field(default_factory=list)  # what was left out
    copies: dict[str, dict[str, int]] = field(default_factory=dict)  # by matrix


def line_up(
    setting: Setting, matrix: Matrix, W: Array, others: Sequence[Matrix] = ()
) -> list[Contender]:
    """List all contenders for one matrix and one vector.

    Args:
        setting: its notes and copies are added to.
        matrix: the matrix.
        W: its digit values, int8.
        others: the same matrix in other encodings and packings.
    """
    truth = true_products(matrix, W, setting.rng)
    labels = every_kernel(matrix, setting.threads)
    if matrix.encoding == "permuted":
        labels += by_algorithm(matrix, "rsr")
    memory = setting.memory
    levels = _compiled_levels(setting, matrix, memory.compiled)
    if "memory" in levels:
        used = levels["memory"]
        setting.copies[matrix.name] = {"copies": len(used), "bytes": len(used) * used[0].nbytes}
    found = _contenders(labels, levels, lambda label: compiled_product(label, matrix, truth))
    for other in others:
        found += _other(setting, other, truth)
    if 4 * W.size > memory.available / 4:
        setting.notes.append(f"{matrix.name} has no dense rivals: too large for this memory")
        return found
    dense = W * entry_scales(matrix)
    for rival in setting.rivals:
        found += _rival(setting, rival, matrix, W if rival.dtype == "int8" else dense, truth)
    return found


def line_up_batches(
    setting: Setting, matrix: Matrix, W: Array, sizes: Sequence[int]
) -> list[Contender]:
    """List the kernels in use with several vectors at once, on level cache."""
    found = []
    for vectors in sizes:
        truth = true_products(matrix, W, setting.rng, vectors)
        labels = kernels_in_use(matrix, setting.threads, vectors)
        product = partial(batch_product, matrix=matrix, truth=truth)
        found += _contenders(labels, {"cache": compiled_copies(matrix, 1)}, product)
    return found


def line_up_huge(setting: Setting, matrix: Matrix, W: Array) -> list[Contender]:
    """List the kernels in use from memory in huge pages, which `load(memory="huge")` asks for."""
    count = setting.memory.copies(matrix.nbytes, setting.memory.compiled)
    if not has_huge_pages() or not count:
        reason = _TOO_SMALL if has_huge_pages() else "this system gives none"
        setting.notes.append(f"{matrix.name} has no level memory-huge: {reason}")
        return []
    levels = {"memory-huge": compiled_copies(matrix, count, huge=True)}
    truth = true_products(matrix, W, setting.rng)
    product = partial(compiled_product, matrix=matrix, truth=truth)
    return _contenders(kernels_in_use(matrix, setting.threads), levels, product)


def _other(setting: Setting, matrix: Matrix, truth: Truth) -> list[Contender]:
    """Let the paper's algorithms take part, or another packing, which is nothing for plain C++."""
    if matrix.encoding == "permuted":
        labels = by_algorithm(matrix, "rsr++", "rsr")
        levels = _compiled_levels(setting, matrix, setting.memory.rival)
    else:
        labels = [label for label in every_kernel(matrix, setting.threads) if label.isa != "scalar"]
        levels = _compiled_levels(setting, matrix, setting.memory.compiled)
    return _contenders(labels, levels, lambda label: compiled_product(label, matrix, truth))


def _contenders(
    labels: Sequence[Label],
    levels: dict[str, list[Operand]],
    product: Callable[[Label], Product],
) -> list[Contender]:
    """Let all of `labels` take part on each level; they share the copies."""
    return [
        Contender(
            replace(label, level=level), copies, math.prod(label.shape or ()), *product(label)
        )
        for level, copies in [(level, cycle(operands)) for level, operands in levels.items()]
        for label in labels
    ]


def _rival(
    setting: Setting, rival: Rival, matrix: Matrix, W: Array, truth: Truth
) -> list[Contender]:
    what, operand, product = f"{rival.engine} {rival.dtype}", rival.operand(W), rival.product(truth)
    multiply, check = product
    try:
        wrong = check(multiply(operand.weights))
    except (AttributeError, RuntimeError) as error:  # not in this version; not for this shape
        wrong = str(error).partition("\n")[0]
    if wrong is not None:  # PyTorch's int8 is, for some shapes
        setting.notes.append(f"{what} is left out: {wrong}")
        return []

    def copies(count: int) -> list[Operand]:
        return [operand, *(rival.operand(W) for _ in range(count - 1))]

    levels = _levels(setting, what, setting.memory.rival, copies)
    label = Label(
        matrix.name, rival.dtype, rival.threads, rival.engine, shape=list(W.shape), encoding="dense"
    )
    return _contenders([label], levels, lambda _: product)


def _compiled_levels(setting: Setting, matrix: Matrix, wanted: int) -> dict[str, list[Operand]]:
    what = f"{matrix.name} ({matrix.encoding} {matrix.packing})"
    return _levels(setting, what, wanted, lambda count: compiled_copies(matrix, count))


def _levels(
    setting: Setting, what: str, wanted: int, copies: Callable[[int], list[Operand]]
) -> dict[str, list[Operand]]:
    """Make copies for each level; `copies(1)` is the original."""
    levels = {"cache": copies(1)}
    count = setting.memory.copies(levels["cache"][0].nbytes, wanted)
    if count:
        levels["memory"] = copies(count)
    else:
        setting.notes.append(f"{what} has no level memory: {_TOO_SMALL}")
    return levels
