"""What the benchmark of a language model found, as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rsr_runtime.llm.clock import PARTS

from ..tables import size
from ..text import printable
from .show import processor


def render_model_table(result: dict[str, Any]) -> RenderableType:
    """Return the result of `bench_model` for people."""
    rows = result["results"]
    tokens = rows[0]["opening_to_first_token"]["tokens"]
    prompts = _table("", *(_threads(row) for row in rows))
    prompts.add_row("opening the file", *(_ms(row["opening"]) for row in rows))
    prompts.add_row(
        f"opening it, and a prompt of {tokens} tokens",
        *(_ms(row["opening_to_first_token"]) for row in rows),
    )
    for i, prompt in enumerate(rows[0]["prefill"]):
        name = f"a prompt of {prompt['tokens']} tokens"
        prompts.add_row(name, *(_prefill(row["prefill"][i]) for row in rows))
    columns = ("threads", "tokens/s", "best", "ms", *PARTS, "of plain read")
    decoding = _table("context", *columns)
    decoding.columns[0].justify = "right"
    for i in range(len(rows[0]["decode"])):
        for row in rows:
            decoding.add_row(*_decode(row["threads"], row["decode"][i]))
    return Group(heading(result), "", prompts, "", decoding, "", *_footing(result))


def heading(result: dict[str, Any]) -> str:
    """Say which model ran on what."""
    model, machine = result["model"], result["machine"]
    return (
        f"{printable(result['file'])}: {model['architecture']}, {model['layers']} layers of "
        f"{model['hidden_size']}, {model['indexed_weights']:,} indexed weights, "
        f"head of {model['head']}; {size(result['file_bytes'])}, memory {result['memory']}\n"
        f"{processor(result)}, {machine['isa']}, {machine['processors']} processors"
    )


def _footing(result: dict[str, Any]) -> list[str]:
    last = result["results"][0]["decode"][-1]
    lines = [
        "median times, with the file in the page cache; a prompt's until its first token is known",
        f"a token behind a context of {last['context']} reads {size(last['bytes_per_token'])}; "
        "plain read: of the same bytes, by as many threads",
    ]
    if result["peak_rss_bytes"] is not None:
        lines.append(f"peak memory {size(result['peak_rss_bytes'])}, mapped pages included")
    return lines


def _threads(row: dict[str, Any]) -> str:
    return f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def _ms(times: dict[str, Any]) -> str:
    return f"{times['seconds_median'] * 1e3:.1f} ms"


def _prefill(row: dict[str, Any]) -> str:
    return f"{_ms(row)}, {row['tokens_per_second_median']:6,.0f} tokens/s"


def _decode(threads: int, row: dict[str, Any]) -> list[str]:
    parts = [
        f"{row['seconds_by_part'][part] * 1e3:.2f} ({row['share_by_part'][part]:.1%})"
        for part in PARTS
    ]
    return [
        str(row["context"]),
        str(threads),
        f"{row['tokens_per_second_median']:.1f}",
        f"{row['tokens_per_second_best']:.1f}",
        f"{row['seconds_median'] * 1e3:.2f}",
        *parts,
        f"{row['ratio_to_plain_read']:.0%}",
    ]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column(Text(first))
    for name in others:
        table.add_column(Text(name), justify="right")
    return table
