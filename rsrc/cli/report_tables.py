"""The tables that `rsrc compile` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rsr_formats.text import printable

from ..common.console import console, new_table, size
from ..compiler.report import HeadReport, Report, TensorReport, stored_ratio


def print_report(report: Report) -> None:
    """Print sizes by kind, and which tensors stayed dense and why."""
    compressed = any(t.bytes != t.raw_bytes for t in report.tensors)
    more = ["of raw"] if compressed else []
    table = new_table("", "tensors", "weights", "source", "in .rsr", "bits/weight", *more)
    for kind in ("ternary", "binary", "dense"):
        tensors = [t for t in report.tensors if t.kind == kind]
        if tensors:
            _kind_row(table, kind, tensors, compressed)
    table.add_section()
    table.add_row(
        "in all",
        str(len(report.tensors)),
        "",
        size(report.source_bytes),
        size(report.output_bytes),
        f"{report.bits_per_weight:.3f}",
        *([_percent(report.tensors)] if compressed else []),
    )
    out = console()
    out.print(table)
    rules = Counter((t.layout, t.scale) for t in report.tensors if t.layout is not None)
    for (layout, scale), count in rules.items():
        noun = "tensor" if count == 1 else "tensors"
        out.print(f"{count} {noun} in layout {layout}, scale: {scale}", highlight=False)
    if quantized := [t for t in report.tensors if t.relative_error is not None]:
        out.print(_quality_table(quantized))
    if report.head is not None:
        _print_head(out, report.head)
    reasons: dict[str, list[TensorReport]] = {}
    for t in report.tensors:
        if t.reason is not None:
            reasons.setdefault(t.reason, []).append(t)
    if reasons:
        dense = new_table("stayed dense because", "tensors", "bytes", "for instance")
        for reason, tensors in sorted(reasons.items(), key=lambda item: -_bytes(item[1])):
            name = printable(tensors[0].name)
            dense.add_row(printable(reason), str(len(tensors)), size(_bytes(tensors)), name)
        out.print(dense)
    for note in report.notes:
        out.print(printable(note), highlight=False)
    kept = f" with {', '.join(report.files)}" if report.files else ""
    rate = report.source_bytes / max(report.seconds, 1e-9)
    out.print(
        f"{report.output}{kept}: {report.seconds:.2f} s, {size(rate)}/s on "
        f"{report.threads} thread{'s' if report.threads > 1 else ''}",
        highlight=False,
    )


def _print_head(out: Console, head: HeadReport) -> None:
    """Print what `--head` lost, and how that was measured."""
    table = new_table("output head in int8, lossy", "")
    for words, value in (
        ("read for each token", f"{size(head.bytes)}, {size(head.bytes_saved)} less"),
        ("relative error of weights", f"{head.relative_error:.4f}"),
        ("relative error of logits", f"{head.logits_relative_error:.4f}"),
        ("cosine of logits", f"{head.logits_cosine:.6f}"),
        ("first token kept", f"{head.argmax_kept:.1%}"),
    ):
        table.add_row(words, value)
    out.print(table)
    beside = f"made of {head.of}, which is kept beside it; " if head.is_added else ""
    out.print(f"{printable(beside)}logits measured {printable(head.measured)}", highlight=False)


def _quality_table(tensors: Sequence[TensorReport]) -> Table:
    """Return what `--quantize` lost: each figure over all tensors, and the worst tensor."""
    table = new_table("quantized after training, lossy", "min", "mean", "max", "worst in")
    table.columns[4].justify = "left"
    for words, field, worst in (
        ("share of zeros", "zero_share", max),
        ("relative error", "relative_error", max),
        ("cosine", "cosine", min),
    ):
        values = [float(getattr(t, field)) for t in tensors]
        name = tensors[values.index(worst(values))].name
        mean = sum(values) / len(values)
        table.add_row(
            words, *(f"{v:.4f}" for v in (min(values), mean, max(values))), printable(name)
        )
    return table


def _kind_row(table: Table, kind: str, tensors: Sequence[TensorReport], compressed: bool) -> None:
    weights = sum(t.weights for t in tensors)
    bits = sum((t.bits_per_weight or 0) * t.weights for t in tensors)
    table.add_row(
        kind,
        str(len(tensors)),
        f"{weights:,}" if weights else "",
        size(sum(t.source_bytes for t in tensors)),
        size(_bytes(tensors)),
        f"{bits / weights:.3f}" if weights else "",
        *([_percent(tensors)] if compressed else []),
    )


def _percent(tensors: Sequence[TensorReport]) -> str:
    return f"{100 * stored_ratio(tensors):.1f} %"


def _bytes(tensors: Sequence[TensorReport]) -> int:
    return sum(t.bytes for t in tensors)
