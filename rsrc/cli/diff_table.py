"""The table of `rsrc diff --stat`."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from rsr_formats.text import counted, printable, quoted

from ..common.console import console
from ..delta.statistics import Counts, Statistics


def print_statistics(found: Statistics) -> None:
    """Print the tensors that differ, and the sums."""
    out = console()
    differing = [t for t in found.tensors if t.status != "same"]
    if differing:
        # Without lines, and with narrow columns: the names of layers fit 80 columns.
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("tensor", overflow="fold")
        for column in ("changed", "sign", "to\nzero", "from\nzero", "scales"):
            table.add_column(column, justify="right", no_wrap=True)
        for t in differing:
            cells = [t.status, *[""] * 4]
            if t.status == "changed":
                scales = "" if t.scales_changed is None else _share(t.scales_changed)
                cells = [*_shares(t.counts, t.kind == "dense"), scales]
            table.add_row(Text(printable(t.name)), *cells)
        c = found.counts
        if c.weights:
            table.add_row(f"all {c.weights:,} indexed weights", *_shares(c, False), "")
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
    """Format a share with three digits, in 7 characters: 0 only if it is none, 100% only if all."""
    if share in (0, 1):
        return f"{share:.0%}" if share else "0"
    if share < 1e-6:
        return "<.0001%"
    decimals = 4 if share < 0.001 else 3 if share < 0.01 else 2
    return f"{min(share, 0.9999):.{decimals}%}"
