"""The tables that `rsrc eval` prints: those of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rsr_formats.text import printable

from ..common.console import console, new_table

_BETTER = {True: "↑", False: "↓"}
_NO_METRICS = {"alias", "name", "sample_len", "sample_count"}


def print_results(results: Mapping[str, Any]) -> None:
    """Print a row for each metric of a task, and a table of groups if there are any."""
    out = console()
    for first, key in (("Tasks", "results"), ("Groups", "groups")):
        if found := results.get(key):
            table = new_table(first, "Version", "Filter", "n-shot", "Metric", "", "Value", "Stderr")
            for column in (2, 4):
                table.columns[column].justify = "left"
            for name, depth in _ordered(found, results.get("group_subtasks", {})):
                for row in _rows(results, name, found[name]):
                    table.add_row("  " * depth + printable(name), *row)
            out.print(table)


def _ordered(
    found: Mapping[str, Any], members: Mapping[str, list[str]]
) -> Iterator[tuple[str, int]]:
    """Yield names and their depths: groups before their members."""
    inner = {name for names in members.values() for name in names}

    def visit(name: str, depth: int) -> Iterator[tuple[str, int]]:
        if name in found:
            yield name, depth
        for member in members.get(name, ()):
            yield from visit(member, depth + 1)

    for name in dict.fromkeys([*members, *found]):
        if name not in inner:
            yield from visit(name, 0)


def _rows(results: Mapping[str, Any], name: str, metrics: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the cells of each metric, which lm-eval names "METRIC,FILTER"."""
    version = str(results["versions"].get(name, ""))
    shots = str(results["n-shot"].get(name, ""))
    for key, value in sorted(metrics.items()):
        metric, _, chosen = key.partition(",")
        if key in _NO_METRICS or metric.endswith("_stderr"):
            continue
        better = _BETTER.get(results["higher_is_better"].get(name, {}).get(metric), "")
        error = metrics.get(f"{metric}_stderr,{chosen}")
        yield [version, chosen, shots, metric, better, _number(value), _number(error)]


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else printable(str(value))
