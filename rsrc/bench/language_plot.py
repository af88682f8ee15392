"""What the benchmark of a language model found, as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsr_runtime.llm.decoder import PHASES as PARTS

from ..cli.tables import size
from .plot import check_picture, require_matplotlib
from .show import processor

_COLORS = {"products": "#12558c", "head": "#4a98d6", "attention": "#3f8f86", "rest": "#e0955a"}
_LIMIT = "#c0392b"
_RATE = "#6b7f94"  # none of the parts
_LEGEND = "the limit: a plain read of the same bytes"


class _Bar(NamedTuple):
    """What was measured with a number of threads, after some tokens or of some."""

    threads: int
    tokens: int
    measured: dict[str, Any]


def plot_model(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw where the time of a token goes, with the memory limit marked, and tokens per second.

    Args:
        result: what `bench_model` returned.
        path: the picture; its suffix chooses the format (.png, .svg, .pdf).

    Raises:
        MissingPackageError: Matplotlib is not installed.
        OptionError: the suffix is another, or the folder does not exist.
    """
    check_picture(path)
    require_matplotlib()
    from matplotlib.figure import Figure

    decoded, read = _bars(result, "decode", "context"), _bars(result, "prefill", "tokens")
    heights = [len(decoded), max(len(decoded), len(read))]
    figure = Figure((9, 2.6 + 0.32 * sum(heights)), layout="constrained")
    title = f"{Path(result['file']).name} ({size(result['file_bytes'])}) on {processor(result)}"
    figure.suptitle(title, fontsize=12, parse_math=False)
    grid = figure.add_gridspec(2, 2, height_ratios=heights)
    handles = _draw_parts(figure.add_subplot(grid[0, :]), decoded)
    _draw_rates(
        figure.add_subplot(grid[1, 0]), "Generated tokens per second", decoded, "context {}"
    )
    _draw_rates(figure.add_subplot(grid[1, 1]), "Prompt tokens per second", read, "{} tokens")
    labels = [*PARTS, _LEGEND][: len(handles)]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        fontsize=8,
        frameon=False,
        markerscale=0.6,
    )
    figure.savefig(path, dpi=150)


def _bars(result: dict[str, Any], what: str, tokens: str) -> list[_Bar]:
    """List what was measured, by tokens and then by threads."""
    rows = result["results"]
    found = [_Bar(row["threads"], one[tokens], one) for row in rows for one in row[what]]
    return sorted(found, key=lambda bar: (bar.tokens, bar.threads))


def _draw_parts(axes: Any, bars: Sequence[_Bar]) -> list[Any]:
    """Draw the time of a token by part, and its limit; return what the legend is about.

    Where the caches hold what a token reads, a plain read is no limit, and none is drawn.
    """
    places = range(len(bars))
    handles = []
    left = [0.0] * len(bars)
    for part in PARTS:
        widths = [1e3 * bar.measured["seconds_by_part"][part] for bar in bars]
        handles.append(axes.barh(places, widths, left=left, color=_COLORS[part], height=0.72))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ratios = [bar.measured["ratio_to_plain_read"] for bar in bars]
    limited = [place for place in places if ratios[place] <= 1]
    if limited:
        limits = [left[place] * ratios[place] for place in limited]
        handles.append(
            axes.scatter(limits, limited, marker="|", s=330, color=_LIMIT, linewidths=2.5, zorder=3)
        )
    for place, bar in enumerate(bars):
        ratio = f"{ratios[place]:.0%} of the limit" if place in limited else "in cache"
        axes.annotate(
            f"{left[place]:.1f} ms, {ratio}, "
            f"attention and rest {bar.measured['share_outside_products']:.1%}",
            (left[place], place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, 1.65 * max(left))
    _dress(axes, "Where the time of a token goes, in milliseconds", bars, "context {}")
    return handles


def _draw_rates(axes: Any, title: str, bars: Sequence[_Bar], name: str) -> None:
    medians = [bar.measured["tokens_per_second_median"] for bar in bars]
    drawn = axes.barh(range(len(bars)), medians, color=_RATE, height=0.72)
    axes.bar_label(drawn, fmt=_rate, padding=6, fontsize=8)
    axes.set_xlim(0, 1.18 * max(medians))
    _dress(axes, title, bars, name)


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _dress(axes: Any, title: str, bars: Sequence[_Bar], name: str) -> None:
    names = [
        f"{name.format(bar.tokens)}, {bar.threads} thread{'s' if bar.threads > 1 else ''}"
        for bar in bars
    ]
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
