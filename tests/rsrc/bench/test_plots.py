"""The results of benchmarks as pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsr_formats.errors import RsrError
from rsrc import bench

Result = dict[str, Any]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Draw an SVG and return its text."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text as text

    def draw(plot: Callable[[Result, Path], None], result: Result) -> str:
        plot(result, tmp_path / "x.svg")
        return (tmp_path / "x.svg").read_text(encoding="utf-8")

    return draw


def test_shape(shape_result: Result, draw: Callable[..., str]) -> None:
    drawn = draw(bench.plot, shape_result)
    for title in ("65 x 100, from cache", "65 x 100, from memory", "Several vectors at once"):
        assert title in drawn
    assert "from memory in huge pages" not in drawn
    one = [r for r in shape_result["results"] if r["vectors"] == 1 and r["engine"] == "numpy"]
    assert drawn.count(">NumPy float32") == len(one)


def test_file(file_result: Result, draw: Callable[..., str]) -> None:
    drawn = draw(bench.plot, file_result)
    assert "a, 40 x 70, from memory" in drawn
    assert "all matrices" in drawn
    assert "from cache" not in drawn


def test_model_as_png(model_result: Result, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bench.plot_model(model_result, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("ratio", "expected", "unexpected"),
    [(0.5, "50% of the limit", "in cache"), (1.33, "in cache", "the limit")],
)
def test_model_has_no_limit_beyond_its_time(
    with_ratio: Callable[[float], Result],
    draw: Callable[..., str],
    ratio: float,
    expected: str,
    unexpected: str,
) -> None:
    result = with_ratio(ratio)
    drawn = draw(bench.plot_model, result)
    assert drawn.count(expected) == sum(len(row["decode"]) for row in result["results"])
    assert unexpected not in drawn
    phases = result["results"][0]["decode"][0]["seconds_by_part"]
    assert all(f">{phase}</text>" in drawn for phase in phases)


def test_without_matplotlib(
    shape_result: Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RsrError, match="pip install matplotlib"):
        bench.plot(shape_result, tmp_path / "x.png")
    with pytest.raises(RsrError, match="pip install matplotlib"):
        bench.require_matplotlib()
