"""The tables that `rsrc compile` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from rsr_formats.records import KINDS
from rsr_formats.text import counted, printable

from ..common.console import console, new_table, size
from ..compiler.report import HeadReport, Report, TensorReport, stored_ratio
from .listing import Listed, print_tensors


def print_report(report: Report) -> None:
    """Print the sizes of all parts of the file, and which tensors stayed dense and why."""
    names = ["", "tensors", "weights", "source", "bytes in .rsr", "bits/w"]
    if any(t.bytes != t.raw_bytes for t in report.tensors):
        names.append("of raw")
    columns = len(names)
    table = new_table(*names)
    for kind in (*KINDS.values(), "dense"):
        if tensors := [t for t in report.tensors if t.kind == kind]:
            sizes = sum(t.source_bytes for t in tensors), sum(t.bytes for t in tensors)
            table.add_row(*_size_row(kind, tensors, *sizes)[:columns])
    for part in ("files", "header", "padding"):
        if nbytes := report.output_parts.get(part):
            table.add_row(part, "", "", "", f"{nbytes:,}")
    table.add_section()
    sizes = report.source_bytes, report.output_bytes
    table.add_row(*_size_row("total", report.tensors, *sizes)[:columns])
    if report.reused["tensors"]:
        count, nbytes = report.reused.values()
        table.add_row("reused", str(count), "", "", f"{nbytes:,}")
    out = console()
    out.print(table)
    rules = Counter((t.layout, t.scale) for t in report.tensors if t.layout is not None)
    for (layout, scale), count in rules.items():
        out.print(f"{counted(count, 'tensor')} in layout {layout}, scale: {scale}")
    if quantized := [t for t in report.tensors if t.relative_error is not None]:
        _print_quality(out, quantized)
    if report.head is not None:
        _print_head(out, report.head)
    if dense := [t for t in report.tensors if t.reason is not None]:
        print_tensors(out, [Listed(t.name, f"dense: {t.reason}", t.shape, t.bytes) for t in dense])
    lines = [] if report.support is None else report.support.sentences()
    for note in (*report.notes, *lines):
        out.print(printable(note))
    kept = f" with {', '.join(report.files)}" if report.files else ""
    rate = report.source_bytes / max(report.seconds, 1e-9)
    out.print(
        f"{report.output}{kept}: {report.seconds:.2f} s, {size(rate)}/s on "
        f"{counted(report.threads, 'thread')}"
    )


def _print_head(out: Console, head: HeadReport) -> None:
    """Print the loss of `--head` and how it was measured."""
    table = new_table("output head in int8, lossy", "")
    for figure, value in (
        ("read for each token", f"{size(head.bytes)}, {size(head.bytes_saved)} less"),
        ("relative error of weights", f"{head.relative_error:.4f}"),
        ("relative error of logits", f"{head.logits_relative_error:.4f}"),
        ("cosine of logits", f"{head.logits_cosine:.6f}"),
        ("same top token", f"{head.argmax_kept:.1%}"),
    ):
        table.add_row(figure, value)
    out.print(table)
    origin = f"made from {head.of}, which is kept as well; " if head.is_added else ""
    out.print(printable(f"{origin}logits measured {head.measured}"))


def _print_quality(out: Console, tensors: Sequence[TensorReport]) -> None:
    """Print the loss of `--quantize`: each figure over all tensors, and the worst tensors."""
    table = new_table("quantized after training, lossy", "min", "mean", "max")
    worst: dict[str, list[str]] = {}
    for words, field, choose in (
        ("share of zeros", "zero_share", max),
        ("relative error", "relative_error", max),
        ("cosine", "cosine", min),
    ):
        values = [float(getattr(t, field)) for t in tensors]
        mean = sum(values) / len(values)
        table.add_row(words, *(f"{v:.4f}" for v in (min(values), mean, max(values))))
        worst.setdefault(tensors[values.index(choose(values))].name, []).append(words)
    out.print(table)
    for name, figures in worst.items():
        out.print(printable(f"worst {', '.join(figures)}: {name}"))


def _size_row(
    kind: str, tensors: Sequence[TensorReport], source_bytes: int, stored_bytes: int
) -> list[str]:
    weights = sum(t.weights for t in tensors)
    bits = sum((t.bits_per_weight or 0) * t.weights for t in tensors)
    return [
        kind,
        str(len(tensors)),
        f"{weights:,}" if weights else "",
        size(source_bytes),
        f"{stored_bytes:,}",  # exact, so that the rows add up to the size of the file
        f"{bits / weights:.3f}" if weights else "",
        f"{100 * stored_ratio(tensors):.1f} %",
    ]
