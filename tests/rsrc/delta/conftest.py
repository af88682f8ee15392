"""Pairs of `.rsr` files, the second with a few other digits, and what can be done to a delta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_testing.matrices import SPARSE, Spec, Workshop

SPECS = (
    Spec((300, 70), name="w16"),
    Spec((70, 50), name="w16 groups", group=20, scale="row"),
    Spec((200, 64), name="listed", k=4, patterns=SPARSE, stride=4),
    Spec((40, 30), name="binary", digits=(-1, 1), k=5),
    Spec((140, 31), name="quinary", digits=(-2, -1, 0, 1, 2), k=2),
    Spec((300, 70), name="n4s1", packing="n4s1"),
    Spec((97, 50), name="n4s1 groups of 1 block", packing="n4s1", group=3, scale="row"),
    Spec((97, 50), name="n4s1 groups of 3 blocks", packing="n4s1", group=8, scale="row"),
    Spec((50, 40), name="expand", encoding="permuted", k=3),
    Spec((50, 41), name="reduce", encoding="permuted", direction="reduce", k=2),
    Spec((66_000, 2), name="u32", encoding="permuted", k=2),
    Spec((0, 5), name="no rows"),
    Spec((5, 0), name="no columns", packing="n4s1"),
)


class Changed(Workshop):
    """Makes files whose weights are those of the first one but for a share of them."""

    def __init__(self, folder: Path, share: float) -> None:
        super().__init__(folder, np.random.default_rng(0))
        self._changes, self._share = np.random.default_rng(1), share

    def _digits(self, spec: Spec) -> npt.NDArray[np.uint8]:
        W, rng = super()._digits(spec), self._changes
        if spec.patterns is not None:  # whole rows, so that all patterns are listed
            at = rng.random(len(W)) < self._share
            W[at] = rng.permutation(W)[at]
            return W
        at = rng.random(W.shape) < self._share
        step = rng.integers(1, len(spec.digits), W.shape, np.uint8)
        return np.where(at, (W + step) % len(spec.digits), W).astype(np.uint8)


Pair = Callable[..., tuple[Path, Path]]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Write old.rsr and new.rsr, and return their paths."""

    def make(
        specs: Sequence[Spec] = SPECS,
        share: float = 0.01,
        old: dict[str, Any] | None = None,
        new: dict[str, Any] | None = None,
        **both: Any,
    ) -> tuple[Path, Path]:
        a, b = tmp_path / "old.rsr", tmp_path / "new.rsr"
        Changed(tmp_path, 0).write(a, specs, **both, **(old or {}))
        Changed(tmp_path, share).write(b, specs, **both, **(new or {}))
        return a, b

    return make
