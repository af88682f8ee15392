"""The contenders of a matrix benchmark, and the notes about those left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats.pages import AvailableMemory, huge_page_size
from rsr_testing.checkpoints import Kit
from rsrc import bench
from rsrc.bench import lineup, memory

pytestmark = pytest.mark.usefixtures("quick")


def rows_from_huge_pages(result: dict[str, Any]) -> set[tuple[str, int]]:
    return {(r["dtype"], r["threads"]) for r in result["results"] if r["level"] == "memory-huge"}


def test_huge_pages(shape_result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows_from_huge_pages(shape_result)
    assert found == (
        {(d, t) for d in ("int8", "float32") for t in (1, 2)}
        if huge_page_size() is not None
        else set()
    )
    monkeypatch.setattr(lineup, "huge_page_size", lambda: None)
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert not rows_from_huge_pages(result)
    assert result["notes"] == [
        "no memory-level figure for random in huge pages: this system has none"
    ]


def test_one_note_names_all_that_has_no_level_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: AvailableMemory(64 << 20))
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 32 << 20)
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert {r["level"] for r in result["results"]} == {"cache"}
    assert result["ratio_to_plain_read"] == {"int8": None, "float32": None}
    notes = [n for n in result["notes"] if n.endswith("too large for this memory")]
    assert len(notes) == 1
    for subject in ("random (permuted u16)", "numpy float32"):
        assert subject in notes[0]
    assert ("random in huge pages" in notes[0]) == (huge_page_size() is not None)


def test_dense_baselines_are_left_out_if_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: AvailableMemory(10_000))
    result = bench.bench_shape(65, 100, seconds=0.0)
    assert {r["engine"] for r in result["results"]} == {"rsr-ternary"}
    assert "no dense baselines for random: too large for this memory" in result["notes"]


def test_a_wrong_baseline_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "matmul", lambda W, x, out: np.multiply(0, out, out=out))
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert "numpy" not in {r["engine"] for r in result["results"]}
    assert any(n.startswith("no numpy float32 for random: 33 wrong sums") for n in result["notes"])


def test_little_memory_goes_to_the_matrix_and_its_rivals_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: AvailableMemory(600_000))
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 15_000)
    result = bench.bench_shape(33, 20, seconds=0.0)
    found = {(r["engine"], r["packing"]) for r in result["results"] if r["level"] == "memory"}
    usual = next(r["packing"] for r in result["results"])
    assert found >= {("rsr-ternary", usual), ("numpy", None)}
    assert len({r["encoding"] for r in result["results"] if r["level"] == "cache"}) == 3
    assert "permuted" not in {r["encoding"] for r in result["results"] if r["level"] == "memory"}
    assert result["levels"]["memory"]["compiled"]["random"]["bytes"] >= 4 * 15_000


def test_a_rival_that_is_wrong_for_all_matrices_has_one_note(
    tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"w{m}": rng.integers(-1, 2, (m, 20)).astype(np.int8) for m in (33, 34, 35)}
    rsrc.compile(kit.save(tmp_path / "s.safetensors", tensors), tmp_path / "x.rsr")
    monkeypatch.setattr(np, "matmul", lambda W, x, out: np.multiply(0, out, out=out))
    notes = bench.bench_file(tmp_path / "x.rsr", seconds=0.0)["notes"]
    (note,) = (n for n in notes if n.startswith("no numpy float32"))
    assert note.startswith("no numpy float32 for w35, w34, w33: ")
    assert "wrong sums" in note
