"""Time the kernels in use with the shapes of real layers: one vector, and several at once.

    python benchmarks/kernels.py [--shapes 2560x2560,...] [--json] [--markdown]

Shapes are out_features x in_features: those of bitnet-b1.58-2B-4T, then of models with 7 to 8
billion weights. Weights are uniform random ternary; measuring is `rsrc bench`'s (README.md beside
this file explains it), which adds rivals, other instruction sets and other packings for one shape.
The tables show each kernel's best turn, the JSON medians too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import rsr_runtime as rsr
from rsrc.bench.lineup import Setting, line_up, line_up_batches
from rsrc.bench.matrices import compile_matrix
from rsrc.bench.memory import plan_memory
from rsrc.bench.timing import measure

Row = dict[str, Any]

SHAPES = "2560x2560,640x2560,6912x2560,2560x6912,4096x4096,14336x4096,4096x14336"
BATCHES = (2, 4, 8, 16, 32, 64, 256)


def run(shape: str, seconds: float, rng: np.random.Generator) -> list[Row]:
    """Return the rows of one shape, as benchmarks/README.md documents them."""
    m, n = map(int, shape.split("x"))
    W = rng.integers(-1, 2, (m, n), np.int8)
    (matrix,) = compile_matrix(W, {})
    setting = Setting(rsr.get_num_threads(), rng, [], plan_memory(1, 0))
    isa = rsr.cpu_info()["isa"]
    contenders = [c for c in line_up(setting, matrix, W) if c.label.isa == isa]
    contenders += line_up_batches(setting, matrix, W, BATCHES)
    return measure(contenders, seconds, lambda _: None)


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield (title, lines, the first of which are the names of the columns)."""
    kernels: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        m, n = row["shape"]
        key = (f"{m} x {n}", row["dtype"], str(row["threads"]))
        kernels.setdefault(key, []).append(row)
    same = ["W", "x", "threads"]
    one = [[*same, "cache", "memory", "of a plain read"]]
    several = [[*same, *map(str, (1, *BATCHES))]]
    for key, found in kernels.items():
        cache, *rest = found  # in the order of measuring: cache, memory if any, batches
        memory = [row for row in rest if row["level"] == "memory"]
        one.append([*key, _rate(cache), *(_rate(row) for row in memory), *map(_ratio, memory)])
        single = cache["seconds_best"]
        batches = [row for row in rest if row["vectors"] > 1]
        shares = [row["seconds_best"] / row["vectors"] / single for row in batches]
        cells = [f"{_rate(row)} ({s:.2f})" for row, s in zip(batches, shares, strict=True)]
        several.append([*key, _rate(cache), *cells])
    yield "One vector: weights/ns", one
    yield (
        "Several vectors from cache: multiply-adds/ns (time per vector / of one alone)",
        several,
    )


def _rate(row: Row) -> str:
    return f"{row['vectors'] * row['weights'] / row['seconds_best'] / 1e9:.0f}"


def _ratio(row: Row) -> str:
    return f"{row['ratio_to_plain_read']:.0%}"


def show(rows: Sequence[Row], markdown: bool) -> None:
    for title, (names, *lines) in tables(rows):
        if markdown:
            body = [names, ["---"] * len(names), *lines]
            print(f"**{title}**\n", *(f"| {' | '.join(line)} |" for line in body), "", sep="\n")
            continue
        table = Table(*names, title=title, title_justify="left", box=None)
        for line in lines:
            table.add_row(*(cell.replace(" (", "\n").rstrip(")") for cell in line))
        Console().print(table, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, metavar="MxN,...")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each shape, at least (8)")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--markdown", action="store_true", help="print the tables to paste")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    with Console(stderr=True).status("") as status:
        for shape in options.shapes.split(","):
            status.update(shape)
            rows += run(shape, options.seconds, rng)
    if options.as_json:
        print(json.dumps({"machine": rsr.cpu_info(), "results": rows}, indent=2))
    else:
        show(rows, options.markdown)


if __name__ == "__main__":
    main()
