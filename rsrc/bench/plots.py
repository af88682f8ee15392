"""What a benchmark found, as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import MissingPackageError, OptionError
from .tables import batches, label, processor, sections

_COLORS = {
    ("ranked", "int8"): "#12558c",
    ("ranked", "float32"): "#4a98d6",
    ("permuted", "int8"): "#3f8f86",
    ("permuted", "float32"): "#8fc7bf",
    "numpy": "#a3a3a3",
    "torch": "#e0955a",
}
_FORMATS = (".png", ".svg", ".pdf")
_LIMIT = "#c0392b"
_LEGEND = "the limit: a plain read of the same bytes by as many threads"


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise `OptionError` unless a picture can be named so: ask before measuring."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise OptionError(
            f"plot: found {os.fspath(path)!r}, expected a name that ends in .png, .svg or .pdf"
        )
    if not Path(path).parent.is_dir():
        raise OptionError(f"plot: found {os.fspath(path)!r}, expected a folder that exists")


def require_matplotlib() -> None:
    """Raise `MissingPackageError` unless there is Matplotlib: ask before measuring."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingPackageError("drawing needs Matplotlib: pip install matplotlib") from None


def plot(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw weights per nanosecond, a bar for each engine, with the memory limit marked.

    Args:
        result: what `bench_shape` or `bench_file` returned.
        path: the picture; its suffix chooses the format (.png, .svg, .pdf).

    Raises:
        MissingPackageError: Matplotlib is not installed.
        OptionError: the suffix is another, or the folder does not exist.
    """
    check_picture(path)
    require_matplotlib()
    from matplotlib.figure import Figure

    panels = sections(result)
    if any(row["level"] == "model" for row in result["results"]):
        # One panel for each matrix is enough, and none where only a rival fills the memory.
        panels = [p for p in panels if p[1][0]["level"] != "cache" and _has_own(p[1])]
    panels = [p for p in panels if p[1][0]["level"] != "memory-huge"]  # hardly differs
    several = [row for rows in batches(result) for row in rows if row["threads"] == 1]
    heights = [len(rows) for _, rows in panels] + [len(several)] * bool(several)
    figure = Figure((9, 1.3 + sum(0.27 * h + 0.7 for h in heights)), layout="constrained")
    figure.suptitle(f"Ternary matrix times vector on {processor(result)}", fontsize=12)
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(grid, panels, strict=False):
        marks = _draw_panel(axes, title, rows)
    axes.set_xlabel("weights per nanosecond, median (share of the limit)", fontsize=9)
    if several:
        _draw_batches(grid[-1], several)
    figure.legend([marks], [_LEGEND], loc="outside lower right", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Any, title: str, rows: Sequence[dict[str, Any]]) -> Any:
    """Draw the bars of one table; return the marks, for the legend."""
    places = range(len(rows))
    rates = [row["weights_per_ns"] for row in rows]
    limits = [rate / row["ratio_to_plain_read"] for rate, row in zip(rates, rows, strict=True)]
    right = 1.15 * max(*limits, *rates)
    _draw_bars(axes, title, rows, rates)
    axes.set_xlim(0, right)
    marks = axes.scatter(limits, places, marker="|", s=150, color=_LIMIT, linewidths=2, zorder=3)
    for place, rate, limit, row in zip(places, rates, limits, rows, strict=True):
        near = limit < rate + 0.15 * right  # the text would run into the mark
        axes.annotate(
            f"{rate:.1f}  ({row['ratio_to_plain_read']:.0%})",
            (max(rate, limit) if near else rate, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    return marks


def _draw_batches(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw what the kernels in use do with several vectors at once."""
    rates = [row["macs_per_ns"] for row in rows]
    bars = _draw_bars(axes, "Several vectors at once, from cache", rows, rates)
    axes.bar_label(bars, fmt="%.1f", padding=6, fontsize=8)
    axes.set_xlim(0, 1.15 * max(rates))
    axes.set_xlabel("multiply-adds per nanosecond, median", fontsize=9)


def _draw_bars(
    axes: Any, title: str, rows: Sequence[dict[str, Any]], rates: Sequence[float]
) -> Any:
    bars = axes.barh(range(len(rows)), rates, color=[_color(row) for row in rows], height=0.72)
    axes.set_yticks(range(len(rows)), [_bar_label(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    return bars


def _has_own(rows: Sequence[dict[str, Any]]) -> bool:
    return any(row["engine"] == "rsr-ternary" for row in rows)


def _color(row: dict[str, Any]) -> str:
    if row["engine"] != "rsr-ternary":
        return _COLORS[row["engine"]]
    return _COLORS[row["encoding"] or "ranked", row["dtype"]]


def _bar_label(row: dict[str, Any]) -> str:
    threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
    vectors = f", {row['vectors']} vectors" if row["vectors"] > 1 else ""
    return f"{label(row)} {row['dtype']}{threads}{vectors}"
