"""Kernels for many vectors, around what they take at once: panels, tiles, blocks, passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rsr_formats.layout import DIGITS

if TYPE_CHECKING:
    from tests.runtime.conftest import Built, Spec

    Build = Callable[[Sequence[Spec]], list[Built]]

RANKED = [(digits, k) for digits in DIGITS for k in range(1, 6) if len(digits) ** k <= 32]
COUNTS = (12, 13, 16, 17, 24, 25, 40)


@pytest.mark.parametrize(("digits", "k"), RANKED)
def test_many_vectors_are_as_one_by_one(
    isa: str, digits: tuple[int, ...], k: int, spec: type[Spec], shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    group = 12 * k  # inputs of four word columns, and of a block (batch/panels.h)
    block = group * {1: 64, 2: 32}.get(k, 16)
    shapes = [(rows, group + 1) for rows in (32, 33, 64, 96, 128, 129, 160)]
    shapes += [
        (65, n) for n in (1, group - 1, group, 2 * group + 3 * k, block, block + 1, 2 * block - 1)
    ]
    for b in shared_build([spec(shape, digits, k) for shape in shapes]):
        for count in COUNTS:
            X = rng.integers(-128, 128, (b.spec.shape[1], count)).astype(np.int8)
            X[:, rng.random(count) < 0.3] = -128
            np.testing.assert_array_equal(b.matrix @ X, b.exact(X), f"{b.spec}, {count} vectors")
        np.testing.assert_array_equal(b.matrix @ X[:, 3], (b.matrix @ X)[:, 3])


@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_many_vectors_at_the_ends_of_int8(
    isa: str, fill: str, spec: type[Spec], shared_build: Build
) -> None:
    for b in shared_build([spec((40, 1500), digits, k, fill=fill) for digits, k in RANKED]):
        for value in (-128, 127):
            X = np.full((1500, 33), value, np.int8)
            np.testing.assert_array_equal(b.matrix @ X, b.exact(X), str(b.spec))


@pytest.mark.parametrize("count", [255, 256, 257, 258, 600])
def test_more_vectors_than_a_pass_takes(
    isa: str, count: int, spec: type[Spec], shared_build: Build, rng: np.random.Generator
) -> None:
    (b,) = shared_build([spec((70, 80))])
    X = rng.integers(-128, 128, (80, count)).astype(np.int8)
    np.testing.assert_array_equal(b.matrix @ X, b.exact(X))
