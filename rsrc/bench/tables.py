"""Tables of benchmark results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rsr_formats.text import printable

from ..common.console import size

Row = dict[str, Any]  # of a result, as benchmarks/README.md documents it


_LEGEND = (
    "thr         threads",
    "bits/w      bits that a product reads per weight",
    "time        median time of a product; every product was checked",
    "weights/ns  weights of the matrix divided by the time",
    "GB/s        bytes read divided by the time",
    "of read     time of a plain read of the same bytes, as a share of the time;",
    "            100% is the limit of the memory",
)


def render_table(result: dict[str, Any]) -> RenderableType:
    """Return the result of `bench_shape` or `bench_file`: a table for each matrix and level."""
    parts: list[RenderableType] = [_heading(result)]
    for title, rows in sections(result):
        table = _table("", "dtype", "thr", "bits/w", "time", "weights/ns", "GB/s", "of read")
        for row in rows:
            table.add_row(
                label(row),
                row["dtype"],
                str(row["threads"]),
                f"{row['bits_per_weight']:.2f}",
                _duration(row["seconds_median"]),
                f"{row['weights_per_ns']:.1f}",
                f"{row['gigabytes_per_second']:.1f}",
                f"{row['ratio_to_plain_read']:.0%}",
            )
        parts += ["", title, table]
    if batches(result):
        parts += ["", *_batch_table(batches(result))]
    if result["notes"]:
        parts += ["", *map(printable, result["notes"])]
    return Group(*parts)


def render_model_table(result: dict[str, Any]) -> RenderableType:
    """Return the result of `bench_model`: tables at most 80 columns wide."""
    rows = result["results"]
    prompts = _table("", "thr", "ms", "tok/s", pad_edge=False)
    for row in rows:
        prompts.add_row("opening the file", *_opening(row, "opening"))
    for row in rows:
        name = f"opening it, and a prompt of {row['opening_to_first_token']['tokens']} tokens"
        prompts.add_row(name, *_opening(row, "opening_to_first_token"))
    for threads, one in _by_case(rows, "prefill"):
        milliseconds, rate = one["seconds_median"] * 1e3, one["tokens_per_second_median"]
        name = f"a prompt of {one['tokens']} tokens"
        prompts.add_row(name, str(threads), short(milliseconds), short(rate))
    phases = list(rows[0]["decode"][0]["seconds_by_part"])
    decoding = _table("context", "thr", "tok/s", "best", "ms", *phases, "of read", pad_edge=False)
    decoding.columns[0].justify = "right"
    for threads, one in _by_case(rows, "decode"):
        decoding.add_row(
            str(one["context"]),
            str(threads),
            short(one["tokens_per_second_median"]),
            short(one["tokens_per_second_best"]),
            short(one["seconds_median"] * 1e3),
            *(short(one["seconds_by_part"][phase] * 1e3) for phase in phases),
            f"{one['ratio_to_plain_read']:.0%}",
        )
        decoding.add_row(*[""] * 5, *(f"{one['share_by_part'][phase]:.0%}" for phase in phases))
    return Group(_model_heading(result), "", prompts, "", decoding, "", *_model_footing(result))


def sections(result: dict[str, Any]) -> list[tuple[str, list[Row]]]:
    """Return (title, rows of one vector, fastest first) for each matrix and level."""
    found: dict[str, list[Row]] = {}
    for row in result["results"]:
        if row["vectors"] == 1:
            found.setdefault(_title(row, "file" in result), []).append(row)
    return [(t, sorted(rows, key=lambda r: -r["weights_per_ns"])) for t, rows in found.items()]


def batches(result: dict[str, Any]) -> list[list[Row]]:
    """Return the rows of each kernel that was also measured with several vectors, by number."""
    kernel = ("engine", "matrix", "level", "encoding", "packing", "isa", "dtype", "threads")
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in result["results"]:
        found.setdefault(tuple(row[key] for key in kernel), []).append(row)
    return [rows for rows in found.values() if rows[-1]["vectors"] > 1]


def label(row: Row) -> str:
    """Return the displayed name of a row's engine."""
    if row["engine"] != "rsr-ternary":
        return {"numpy": "NumPy", "torch": "PyTorch"}[row["engine"]]
    if row["encoding"] == "permuted":
        return f"permuted k={row['k']} {row['algorithm'].upper()} ({row['isa']})"
    name = f"ranked {row['packing']}" if row["encoding"] else "rsr-ternary"
    return f"{name} ({row['isa']})"


def processor(result: dict[str, Any]) -> str:
    """Name the processor, or its architecture if the name is unknown."""
    return str(result["machine"]["processor"] or result["machine"]["machine"])


def _heading(result: dict[str, Any]) -> str:
    machine, memory = result["machine"], result["levels"]["memory"]
    cache = memory["last_level_cache_bytes"]
    caches = f"last-level cache {cache / 2**20:.0f} MiB" if cache else "caches unknown"
    lines = [f"{processor(result)}, {machine['isa']}, {machine['processors']} processors, {caches}"]
    used = [size(use["bytes"]) for use in memory["compiled"].values()]
    if used:
        lines.append(f"level memory: copies of {', '.join(used)} in pages of 4 KiB")
    return "\n".join([*lines, "", *_LEGEND])


def _batch_table(kernels: list[list[Row]]) -> tuple[str, Table]:
    first = kernels[0]
    title = f"{_title(first[0], False)}, by number of vectors: multiply-adds/ns"
    table = _table("", "dtype", "thr", *(str(row["vectors"]) for row in first))
    for rows in kernels:
        rates = [f"{row['macs_per_ns']:.1f}" for row in rows]
        table.add_row(label(rows[0]), rows[0]["dtype"], str(rows[0]["threads"]), *rates)
    return title, table


def _title(row: Row, named: bool) -> str:
    name = f"{printable(row['matrix'])}, " if named else ""
    if row["shape"] is None:
        return f"{name}{row['weights']:,} weights"
    level = {"memory-huge": "memory in huge pages"}.get(row["level"], row["level"])
    return f"{name}{row['shape'][0]} x {row['shape'][1]}, from {level}"


def _model_heading(result: dict[str, Any]) -> str:
    model, machine = result["model"], result["machine"]
    return (
        f"{printable(result['file'])}: {size(result['file_bytes'])}, head of {model['head']}, "
        f"memory {result['memory']} ({_in_huge_pages(result['huge_page_bytes'])})\n"
        f"{model['architecture']}, {model['layers']} layers of {model['hidden_size']}, "
        f"{model['indexed_weights']:,} indexed weights\n"
        f"{processor(result)}, {machine['isa']}, {machine['processors']} processors"
    )


def _in_huge_pages(nbytes: int) -> str:
    return f"{size(nbytes)} in huge pages" if nbytes else "no huge pages"


def _model_footing(result: dict[str, Any]) -> list[str]:
    decoded = [one for row in result["results"] for one in row["decode"]]
    lines = [
        "thr: threads; ms, tok/s: median; best: tok/s of the best run; page cache warm",
        "prompt time: until the logits for the first generated token are ready",
        "products, head, attention, rest: ms per token, with the share below",
        "of read: a plain read of the same bytes on as many threads, as a share of ms",
    ]
    if any(one["ratio_to_plain_read"] > 1 for one in decoded):
        lines.append("above 100%: the caches hold these bytes, so the read is no limit")
    lines.append(
        f"a token after a context of {decoded[-1]['context']} reads "
        f"{size(decoded[-1]['bytes_per_token'])}"
    )
    if result["peak_rss_bytes"] is not None:
        lines.append(f"peak memory {size(result['peak_rss_bytes'])}, mapped pages included")
    return lines


def _opening(row: Row, key: str) -> tuple[str, str]:
    return str(row["threads"]), short(row[key]["seconds_median"] * 1e3)


def _by_case(rows: list[Row], key: str) -> Iterator[tuple[int, Row]]:
    """Yield (threads, measurement) case by case, with all numbers of threads for each."""
    for of_all in zip(*(row[key] for row in rows), strict=True):
        for row, one in zip(rows, of_all, strict=True):
            yield row["threads"], one


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def short(value: float) -> str:
    """Format with three significant digits, or all digits before the point."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _table(first: str, *others: str, pad_edge: bool = True) -> Table:
    """Return a borderless table whose columns are right-justified, except for the first."""
    table = Table(box=None, padding=(0, 1), pad_edge=pad_edge)
    table.add_column(Text(first))
    for name in others:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table
