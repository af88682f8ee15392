"""Shared by the scripts in this folder: options, timing, and results as tables or JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

import rsr_runtime as rsr
from rsrc.common.console import console

Work = Callable[[int], object]  # takes the number of the call
Works = dict[str, Work]  # by name
Row = dict[str, Any]
Lines = list[list[str]]  # the first line names the columns


def measuring_parser(doc: str | None, seconds: float, what: str) -> argparse.ArgumentParser:
    """Return a parser with the options that the scripts share.

    Args:
        doc: of the script; its first line becomes the description.
        seconds: the default of --seconds.
        what: what the seconds are for.
    """
    found = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    found.add_argument(
        "--seconds", type=float, default=seconds, help=f"for each {what}, at least ({seconds:g})"
    )
    found.add_argument("--json", action="store_true", dest="as_json")
    found.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    return found


def time_in_turns(works: Works, seconds: float, rounds: int) -> dict[str, npt.NDArray[Any]]:
    """Call each in turn until the time is up, `rounds` times or more; return seconds by name."""
    times: dict[str, list[float]] = {name: [] for name in works}
    end, call = time.perf_counter() + seconds, 0
    while call < rounds or time.perf_counter() < end:
        for name, work in works.items():
            start = time.perf_counter()
            work(call)
            times[name].append(time.perf_counter() - start)
        call += 1
    return {name: np.array(t) for name, t in times.items()}


def report(
    options: argparse.Namespace,
    rows: Sequence[Row],
    tables: Iterable[tuple[str, Lines]],
    left: int = 1,
) -> None:
    """Print the rows as JSON, or the tables as Markdown or text.

    Args:
        options: of a `measuring_parser`.
        rows: the result.
        tables: the same as (title, lines).
        left: number of columns that are left-justified in text; the others hold figures.
    """
    if options.as_json:
        print(json.dumps({"machine": rsr.cpu_info(), "results": rows}, indent=2))
        return
    for title, (names, *lines) in tables:
        if options.markdown:
            body = [names, ["---"] * len(names), *lines]
            print(f"**{title}**\n", *(f"| {' | '.join(line)} |" for line in body), "", sep="\n")
            continue
        table = Table(title=title, title_justify="left", box=None)
        for i, name in enumerate(names):
            table.add_column(name, justify="left" if i < left else "right")
        for line in lines:
            table.add_row(*(cell.replace(" (", "\n").rstrip(")") for cell in line))
        console().print(table, "")
