"""The contenders of a matrix benchmark, and the notes about those left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rsrc import bench
from rsrc.bench import lineup, memory

pytestmark = pytest.mark.usefixtures("quick")


def rows_from_huge_pages(result: dict[str, Any]) -> set[tuple[str, int]]:
    return {(r["dtype"], r["threads"]) for r in result["results"] if r["level"] == "memory-huge"}


def test_huge_pages(shape_result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows_from_huge_pages(shape_result)
    assert found == (
        {(d, t) for d in ("int8", "float32") for t in (1, 2)} if memory.has_huge_pages() else set()
    )
    monkeypatch.setattr(lineup, "has_huge_pages", lambda: False)
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert not rows_from_huge_pages(result)
    assert result["notes"] == [
        "no memory-level figure for random in huge pages: this system has none"
    ]


def test_one_note_names_all_that_has_no_level_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 64 << 20)
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 32 << 20)
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert {r["level"] for r in result["results"]} == {"cache"}
    assert result["ratio_to_plain_read"] == {"int8": None, "float32": None}
    notes = [n for n in result["notes"] if n.endswith("too large for this memory")]
    assert len(notes) == 1
    for subject in ("random (permuted u16)", "numpy float32"):
        assert subject in notes[0]
    assert ("random in huge pages" in notes[0]) == memory.has_huge_pages()


def test_dense_baselines_are_left_out_if_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 10_000)
    result = bench.bench_shape(65, 100, seconds=0.0)
    assert {r["engine"] for r in result["results"]} == {"rsr-ternary"}
    assert "no dense baselines for random: too large for this memory" in result["notes"]


def test_a_wrong_baseline_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "matmul", lambda W, x, out: np.multiply(0, out, out=out))
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert "numpy" not in {r["engine"] for r in result["results"]}
    assert any(n.startswith("no numpy float32 for random: 33 wrong sums") for n in result["notes"])
