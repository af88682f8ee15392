"""The table of `rsrc diff --stat`."""

from __future__ import annotations

from rsr_formats.text import counted, printable, quoted

from ..common.console import console, new_table
from ..delta.statistics import Counts, Statistics


def print_statistics(found: Statistics) -> None:
    """Print the tensors that differ, and the sums."""
    out = console()
    differing = [t for t in found.tensors if t.status != "same"]
    if differing:
        columns = ("shape", "changed", "sign", "to zero", "from zero", "scales")
        table = new_table("tensor", *columns)
        for t in differing:
            shape = "x".join(map(str, t.shape)) or "scalar"
            cells = [t.status, *[""] * 4]
            if t.status == "changed":
                scales = "" if t.scales_changed is None else _share(t.scales_changed)
                cells = [*_shares(t.counts, t.kind == "dense"), scales]
            table.add_row(printable(t.name), shape, *cells)
        c = found.counts
        if c.weights:
            table.add_section()
            table.add_row("indexed tensors", f"{c.weights:,}", *_shares(c, False), "")
        out.print(table)
    same = len(found.tensors) - len(differing)
    out.print(f"{counted(same, 'tensor')} of {len(found.tensors)} the same")
    if found.files:
        out.print(f"files that differ: {printable(quoted(found.files))}")


def _shares(c: Counts, is_dense: bool) -> list[str]:
    weights = max(1, c.weights)
    counts = (c.changed_sign, c.became_zero, c.became_nonzero)
    return [_share(c.changed / weights), *("" if is_dense else _share(n / weights) for n in counts)]


def _share(share: float) -> str:
    """Format a share: 0 only if it is none."""
    return "0" if not share else f"{share:.4%}" if share >= 1e-6 else "< 0.0001%"
