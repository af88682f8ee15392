"""What the benchmark of a language model found, as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rsr_formats.text import printable
from rsr_runtime.llm.decoder import PHASES as PARTS

from ..cli.tables import size
from .show import processor


def render_model_table(result: dict[str, Any]) -> RenderableType:
    """Return the result of `bench_model` for people, at most 80 columns wide."""
    rows = result["results"]
    opened = rows[0]["opening_to_first_token"]["tokens"]
    prompts = _table("", "thr", "ms", "tok/s")
    prompts.columns[0].justify = "left"
    for row in rows:
        prompts.add_row("opening the file", *_opening(row, "opening"))
    for row in rows:
        name = f"opening it, and a prompt of {opened} tokens"
        prompts.add_row(name, *_opening(row, "opening_to_first_token"))
    for of_all in zip(*(row["prefill"] for row in rows), strict=True):
        for row, one in zip(rows, of_all, strict=True):
            prompts.add_row(f"a prompt of {one['tokens']} tokens", *_prefill(row["threads"], one))
    decoding = _table("context", "thr", "tok/s", "best", "ms", *PARTS, "of read")
    for of_all in zip(*(row["decode"] for row in rows), strict=True):
        for row, one in zip(rows, of_all, strict=True):
            decoding.add_row(*_decode(row["threads"], one))
            decoding.add_row(*[""] * 5, *(f"{one['share_by_part'][part]:.0%}" for part in PARTS))
    return Group(heading(result), "", prompts, "", decoding, "", *_footing(result))


def heading(result: dict[str, Any]) -> str:
    """Say which model ran on what."""
    model, machine = result["model"], result["machine"]
    return (
        f"{printable(result['file'])}: {size(result['file_bytes'])}, head of {model['head']}, "
        f"memory {result['memory']}\n"
        f"{model['architecture']}, {model['layers']} layers of {model['hidden_size']}, "
        f"{model['indexed_weights']:,} indexed weights\n"
        f"{processor(result)}, {machine['isa']}, {machine['processors']} processors"
    )


def _footing(result: dict[str, Any]) -> list[str]:
    decoded = [one for row in result["results"] for one in row["decode"]]
    lines = [
        "thr: threads; ms, tok/s: median, with the file in the page cache; best: tok/s",
        "a prompt's time is that until its first token is known",
        "products, head, attention, rest: ms of a token, and the share of it",
        "of read: a plain read of the same bytes, by as many threads, as a share of ms",
    ]
    if any(one["ratio_to_plain_read"] > 1 for one in decoded):
        lines.append("above 100%: in the caches; such a read is no limit")
    lines.append(
        f"a token behind a context of {decoded[-1]['context']} reads "
        f"{size(decoded[-1]['bytes_per_token'])}"
    )
    if result["peak_rss_bytes"] is not None:
        lines.append(f"peak memory {size(result['peak_rss_bytes'])}, mapped pages included")
    return lines


def _opening(row: dict[str, Any], what: str) -> tuple[str, str]:
    return str(row["threads"]), _short(row[what]["seconds_median"] * 1e3)


def _prefill(threads: int, row: dict[str, Any]) -> tuple[str, str, str]:
    milliseconds, rate = row["seconds_median"] * 1e3, row["tokens_per_second_median"]
    return str(threads), _short(milliseconds), _short(rate)


def _decode(threads: int, row: dict[str, Any]) -> list[str]:
    return [
        str(row["context"]),
        str(threads),
        _short(row["tokens_per_second_median"]),
        _short(row["tokens_per_second_best"]),
        _short(row["seconds_median"] * 1e3),
        *(_short(row["seconds_by_part"][part] * 1e3) for part in PARTS),
        f"{row['ratio_to_plain_read']:.0%}",
    ]


def _short(value: float) -> str:
    """Write three digits or all of an integer: decimals only where they say something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _table(*names: str) -> Table:
    """Return a table of numbers; it is as wide as they are, but for a space on each side."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in names:
        table.add_column(Text(name), justify="right")
    return table
