"""What a benchmark found, as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rsr_formats.text import printable

from ..cli.tables import size

_COLUMNS = ("dtype", "threads", "bits/weight", "time", "weights/ns", "GB/s", "of plain read")


def render_table(result: dict[str, Any]) -> RenderableType:
    """Return the result of a benchmark for people: a table for each matrix and level."""
    parts: list[RenderableType] = [_heading(result)]
    for title, rows in sections(result):
        table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1))
        table.add_column("")
        for name in _COLUMNS:
            table.add_column(name, justify="right")
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
        parts += ["", table]
    if batches(result):
        parts += ["", _batch_table(batches(result))]
    if result["notes"]:
        parts += ["", *map(printable, result["notes"])]
    return Group(*parts)


def sections(result: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (title, rows of one vector) for each matrix and level, fastest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in result["results"]:
        if row["vectors"] == 1:
            found.setdefault(_title(row, "file" in result), []).append(row)
    return [(t, sorted(rows, key=lambda r: -r["weights_per_ns"])) for t, rows in found.items()]


def batches(result: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the rows of each kernel measured with several vectors too, by their number."""
    kernel = ("engine", "matrix", "level", "encoding", "packing", "isa", "dtype", "threads")
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in result["results"]:
        found.setdefault(tuple(row[key] for key in kernel), []).append(row)
    return [rows for rows in found.values() if rows[-1]["vectors"] > 1]


def label(row: dict[str, Any]) -> str:
    """Name a row's engine for people."""
    if row["engine"] != "rsr-ternary":
        return {"numpy": "NumPy", "torch": "PyTorch"}[row["engine"]]
    if row["encoding"] == "permuted":
        return f"permuted k={row['k']} {row['algorithm'].upper()} ({row['isa']})"
    name = f"ranked {row['packing']}" if row["encoding"] else "rsr-ternary"
    return f"{name} ({row['isa']})"


def processor(result: dict[str, Any]) -> str:
    """Name the processor, or at least its architecture."""
    return str(result["machine"]["processor"] or result["machine"]["machine"])


def _heading(result: dict[str, Any]) -> str:
    machine, memory = result["machine"], result["levels"]["memory"]
    cache = memory["last_level_cache_bytes"]
    caches = f"last-level cache {cache / 2**20:.0f} MiB" if cache else "caches unknown"
    lines = [f"{processor(result)}, {machine['isa']}, {machine['processors']} processors, {caches}"]
    used = [size(use["bytes"]) for use in memory["compiled"].values()]
    if used:
        lines.append(f"level memory: copies of {', '.join(used)} in pages of 4 KiB")
    lines.append("median times; every product was checked")
    return "\n".join(lines)


def _batch_table(kernels: list[list[dict[str, Any]]]) -> Table:
    first = kernels[0][0]
    title = f"{_title(first, False)}, by number of vectors: multiply-adds/ns"
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1))
    table.add_column("")
    for name in ("dtype", "threads", *(row["vectors"] for row in kernels[0])):
        table.add_column(str(name), justify="right")
    for rows in kernels:
        first = rows[0]
        rates = [f"{row['macs_per_ns']:.1f}" for row in rows]
        table.add_row(label(first), first["dtype"], str(first["threads"]), *rates)
    return table


def _title(row: dict[str, Any], named: bool) -> str:
    name = f"{printable(row['matrix'])}, " if named else ""
    if row["shape"] is None:
        return f"{name}{row['weights']:,} weights"
    level = {"memory-huge": "memory in huge pages"}.get(row["level"], row["level"])
    return f"{name}{row['shape'][0]} x {row['shape'][1]}, from {level}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
