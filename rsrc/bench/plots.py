"""Plots of benchmark results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsr_formats.text import counted

from ..common.console import size
from ..common.errors import MissingPackageError, OptionError
from .tables import Row, batches, label, processor, sections, short

_COLORS = {
    ("ranked", "int8"): "#12558c",
    ("ranked", "float32"): "#4a98d6",
    ("permuted", "int8"): "#3f8f86",
    ("permuted", "float32"): "#8fc7bf",
    "numpy": "#a3a3a3",
    "torch": "#e0955a",
    "products": "#12558c",
    "head": "#4a98d6",
    "attention": "#3f8f86",
    "rest": "#e0955a",
    "rate": "#6b7f94",
    "limit": "#c0392b",
}
_FORMATS = (".png", ".svg", ".pdf")


class _Bar(NamedTuple):
    """A bar of the plot of a model: its name on the axis, and its measurements."""

    name: str
    measured: Row


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise `OptionError` unless a plot can be written to `path`; called before measuring."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise OptionError(
            f"plot: found {os.fspath(path)!r}, expected a name that ends in .png, .svg or .pdf"
        )
    if not Path(path).parent.is_dir():
        raise OptionError(f"plot: found {os.fspath(path)!r}, expected a directory that exists")


def require_matplotlib() -> None:
    """Raise `MissingPackageError` if Matplotlib is not installed; called before measuring."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingPackageError("drawing needs Matplotlib: pip install matplotlib") from None


def plot(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw weights per nanosecond, a bar for each engine, with the memory limit marked.

    Args:
        result: what `bench_shape` or `bench_file` returned.
        path: of the plot; its suffix chooses the format (.png, .svg, .pdf).

    Raises:
        MissingPackageError: Matplotlib is not installed.
        OptionError: the suffix is not one of these, or the folder does not exist.
    """
    panels = sections(result)
    if any(row["level"] == "model" for row in result["results"]):
        # One panel per matrix, from memory; not where only a baseline could be measured there.
        panels = [p for p in panels if p[1][0]["level"] != "cache" and _has_own(p[1])]
    panels = [p for p in panels if p[1][0]["level"] != "memory-huge"]  # nearly the same
    several = [row for rows in batches(result) for row in rows if row["threads"] == 1]
    heights = [len(rows) for _, rows in panels] + [len(several)] * bool(several)
    title = f"Ternary matrix times vector on {processor(result)}"
    figure = _figure(path, title, 1.3 + sum(0.27 * h + 0.7 for h in heights))
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(grid, panels, strict=False):
        marks = _draw_panel(axes, title, rows)
    axes.set_xlabel("weights per nanosecond, median (share of the limit)", fontsize=9)
    if several:
        _draw_batches(grid[-1], several)
    legend = "the limit: a plain read of the same bytes by as many threads"
    figure.legend([marks], [legend], loc="outside lower right", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def plot_model(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the time of a token by phase, with the memory limit marked, and tokens per second.

    Args:
        result: what `bench_model` returned.
        path: of the plot; its suffix chooses the format (.png, .svg, .pdf).

    Raises:
        MissingPackageError: Matplotlib is not installed.
        OptionError: the suffix is not one of these, or the folder does not exist.
    """
    decoded = _bars(result, "decode", "context", "context {}")
    prefilled = _bars(result, "prefill", "tokens", "{} tokens")
    heights = [len(decoded), max(len(decoded), len(prefilled))]
    title = f"{Path(result['file']).name} ({size(result['file_bytes'])}) on {processor(result)}"
    figure = _figure(path, title, 2.6 + 0.32 * sum(heights))
    grid = figure.add_gridspec(2, 2, height_ratios=heights)
    handles = _draw_phases(figure.add_subplot(grid[0, :]), decoded)
    _draw_rates(figure.add_subplot(grid[1, 0]), "Generated tokens per second", decoded)
    _draw_rates(figure.add_subplot(grid[1, 1]), "Prompt tokens per second", prefilled)
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=8,
        frameon=False, markerscale=0.6,
    )  # fmt: skip
    figure.savefig(path, dpi=150)


def _figure(path: str | os.PathLike[str], title: str, height: float) -> Any:
    check_picture(path)
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure((9, height), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def _draw_panel(axes: Any, title: str, rows: Sequence[Row]) -> Any:
    """Draw the bars of one table; return the marks of the limit, for the legend."""
    rates = [row["weights_per_ns"] for row in rows]
    limits = [rate / row["ratio_to_plain_read"] for rate, row in zip(rates, rows, strict=True)]
    right = 1.15 * max(*limits, *rates)
    _draw_rows(axes, title, rows, rates)
    axes.set_xlim(0, right)
    places = range(len(rows))
    marks = _mark_limits(axes, limits, places, s=150, linewidths=2)
    for place, rate, limit, row in zip(places, rates, limits, rows, strict=True):
        overlaps = limit < rate + 0.15 * right  # the text would cover the mark
        text = f"{rate:.1f}  ({row['ratio_to_plain_read']:.0%})"
        _annotate(axes, text, max(rate, limit) if overlaps else rate, place)
    return marks


def _draw_batches(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the rates of the kernels in use with several vectors at once."""
    rates = [row["macs_per_ns"] for row in rows]
    bars = _draw_rows(axes, "Several vectors at once, from cache", rows, rates)
    axes.bar_label(bars, fmt="%.1f", padding=6, fontsize=8)
    axes.set_xlim(0, 1.15 * max(rates))
    axes.set_xlabel("multiply-adds per nanosecond, median", fontsize=9)


def _draw_rows(axes: Any, title: str, rows: Sequence[Row], rates: Sequence[float]) -> Any:
    bars = axes.barh(range(len(rows)), rates, color=[_color(row) for row in rows], height=0.72)
    _format(axes, title, [_bar_label(row) for row in rows])
    return bars


def _draw_phases(axes: Any, bars: Sequence[_Bar]) -> dict[str, Any]:
    """Draw the time of a token by phase, and its limit; return the handles of the legend.

    No limit is drawn where the caches hold what a token reads: a plain read is no limit there.
    """
    places = range(len(bars))
    handles: dict[str, Any] = {}
    left = [0.0] * len(bars)
    for phase in bars[0].measured["seconds_by_part"]:
        widths = [1e3 * bar.measured["seconds_by_part"][phase] for bar in bars]
        handles[phase] = axes.barh(places, widths, left=left, color=_COLORS[phase], height=0.72)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ratios = [bar.measured["ratio_to_plain_read"] for bar in bars]
    limited = [place for place in places if ratios[place] <= 1]
    if limited:
        limits = [left[place] * ratios[place] for place in limited]
        marks = _mark_limits(axes, limits, limited, s=330, linewidths=2.5)
        handles["the limit: a plain read of the same bytes"] = marks
    for place, bar in enumerate(bars):
        ratio = f"{ratios[place]:.0%} of the limit" if place in limited else "in cache"
        share = f"attention and rest {bar.measured['share_outside_products']:.1%}"
        _annotate(axes, f"{left[place]:.1f} ms, {ratio}, {share}", left[place], place)
    axes.set_xlim(0, 1.65 * max(left))
    _format(axes, "Where the time of a token goes, in milliseconds", [bar.name for bar in bars])
    return handles


def _draw_rates(axes: Any, title: str, bars: Sequence[_Bar]) -> None:
    medians = [bar.measured["tokens_per_second_median"] for bar in bars]
    drawn = axes.barh(range(len(bars)), medians, color=_COLORS["rate"], height=0.72)
    axes.bar_label(drawn, fmt=short, padding=6, fontsize=8)
    axes.set_xlim(0, 1.18 * max(medians))
    _format(axes, title, [bar.name for bar in bars])


def _mark_limits(axes: Any, limits: Sequence[float], places: Sequence[int], **style: float) -> Any:
    return axes.scatter(limits, places, marker="|", color=_COLORS["limit"], zorder=3, **style)


def _annotate(axes: Any, text: str, x: float, place: int) -> None:
    """Write a text to the right of x."""
    offset = {"xytext": (6, 0), "textcoords": "offset points"}
    axes.annotate(text, (x, place), va="center", fontsize=8, **offset)


def _format(axes: Any, title: str, names: Sequence[str]) -> None:
    """Name the bars, from top to bottom, and remove visual clutter."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)


def _bars(result: dict[str, Any], key: str, count: str, name: str) -> list[_Bar]:
    """List the measurements by tokens, then by threads."""
    found = [(one[count], row["threads"], one) for row in result["results"] for one in row[key]]
    found.sort(key=lambda case: case[:2])
    return [
        _Bar(f"{name.format(tokens)}, {counted(threads, 'thread')}", measured)
        for tokens, threads, measured in found
    ]


def _has_own(rows: Sequence[Row]) -> bool:
    return any(row["engine"] == "rsr-ternary" for row in rows)


def _color(row: Row) -> str:
    if row["engine"] != "rsr-ternary":
        return _COLORS[row["engine"]]
    return _COLORS[row["encoding"] or "ranked", row["dtype"]]


def _bar_label(row: Row) -> str:
    threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
    vectors = f", {row['vectors']} vectors" if row["vectors"] > 1 else ""
    return f"{label(row)} {row['dtype']}{threads}{vectors}"
