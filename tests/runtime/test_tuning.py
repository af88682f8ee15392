"""The table of constants by processor: its rows are well-formed, and no candidate changes a bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rsr_runtime import _native
from rsr_testing.matrices import KNOWN_ISAS, Build, Spec
from rsr_testing.paths import BENCHMARKS

ROWS = _native.tuning_rows()
SLOTS = {
    f"{packing}_{dtype}.{size}_batch"
    for packing in ("w16", "n4s1")
    for dtype in ("i8", "f32")
    for size in ("small", "medium", "large", "small_grouped", "large_grouped")
}


@pytest.fixture
def tuning() -> Iterator[Any]:
    """Return the constants in use, and restore them."""
    in_use = _native.Tuning(_native.tuning())
    yield in_use
    _native.use_tuning(in_use)


def tune_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("tune", BENCHMARKS / "tune.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_well_formed() -> None:
    names = [row.name for row in ROWS]
    assert names[-1] == "default"
    assert len(set(names)) == len(names)
    for row in ROWS:
        for distances in (row.avx2, row.avx512):
            assert distances.l1 % 64 == distances.l2 % 64 == 0, row.name
            assert distances.l1 < distances.l2 <= 32 << 10, row.name
        for threshold in row.thresholds:
            assert threshold.isa in KNOWN_ISAS, row.name
            assert threshold.slot in SLOTS, row.name
            assert threshold.min_vectors > 0, row.name
            assert 1 <= threshold.max_k <= 5, row.name


@pytest.mark.parametrize(
    ("vendor", "family", "name"),
    [
        ("AuthenticAMD", 0x17, "default"),
        ("AuthenticAMD", 0x19, "zen3-4"),
        ("AuthenticAMD", 0x1A, "default"),
        ("GenuineIntel", 6, "intel"),
        ("GenuineIntel", 19, "intel"),
        ("", 0, "default"),
        ("HygonGenuine", 0x18, "default"),
    ],
)
def test_a_processor_has_the_row_of_its_family(vendor: str, family: int, name: str) -> None:
    assert _native.tuning_row(vendor, family).name == name


def test_this_processor_uses_its_row() -> None:
    vendor, family, _ = _native.processor()
    assert _native.tuning().name == _native.tuning_row(vendor, family).name


def test_no_candidate_changes_a_bit(
    isa: str, tuning: Any, shared_build: Build, rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tune = tune_script(monkeypatch)
    built = shared_build(
        [
            Spec((130, 1030), scale="row"),
            Spec((97, 700), scale="row", group=64, half=True),
            Spec((129, 700), packing="n4s1"),
        ]
    )
    candidates = [tune.changed(tuning, c) for c in (*tune.STYLES, *tune.prefetch_candidates())]
    candidates += ROWS
    for b in built:
        n = b.spec.shape[1]
        q = rng.integers(-128, 128, n).astype(np.int8)
        x = rng.standard_normal(n).astype(np.float32)
        expected = b.check(q).tobytes() + b.check(x).tobytes()
        for candidate in candidates:
            _native.use_tuning(candidate)
            found = (b.matrix @ q).tobytes() + (b.matrix @ x).tobytes()
            assert found == expected, (b.spec, candidate.name)
        _native.use_tuning(tuning)


def test_a_threshold_decides_which_kernel_runs(tuning: Any) -> None:
    for threshold in _native.thresholds():
        other = _native.Tuning(tuning)
        moved = _native.Threshold(threshold.isa, threshold.slot, threshold.min_vectors + 3, 1)
        other.thresholds = [*other.thresholds, moved]
        _native.use_tuning(other)
        now = {t.slot: (t.min_vectors, t.max_k) for t in _native.thresholds()}
        assert now[threshold.slot] == (threshold.min_vectors + 3, 1)
        _native.use_tuning(tuning)
