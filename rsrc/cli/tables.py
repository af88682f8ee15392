"""What the command line prints for people."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_formats.text import printable

from ..common.console import console, size
from ..compiler.report import HeadReport, Report, TensorReport, stored_ratio

_BAR = 32
_MOST_SEGMENTS = 81


def print_report(report: Report) -> None:
    """Print the end of a compilation: sizes by kind, and what stayed dense and why."""
    compressed = any(t.bytes != t.raw_bytes for t in report.tensors)
    more = ["of raw"] if compressed else []
    table = _table("", "tensors", "weights", "source", "in .rsr", "bits/weight", *more)
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
        dense = _table("stayed dense because", "tensors", "bytes", "for instance")
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
    """What --head lost, and how that was measured."""
    table = _table("output head in int8, lossy", "")
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
    """What --quantize lost: each figure over all tensors, and the tensor it is worst in."""
    table = _table("quantized after training, lossy", "min", "mean", "max", "worst in")
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


def print_inspection(result: dict[str, Any]) -> None:
    """Print what `rsrc inspect` found: a file, a tensor or a block."""
    out = console()
    if "tensors" in result:
        out.print(
            f"{printable(result['path'])}: format {result['version']}, {size(result['bytes'])}, "
            f"written by {printable(result['producer'])}",
            highlight=False,
        )
        out.print(_tensor_table(result["tensors"]))
        for file in result["files"]:
            out.print(f"file {printable(file['name'])}, {size(file['bytes'])}", highlight=False)
        for key, value in result["metadata"].items():
            out.print(f"metadata {printable(key)} = {printable(value)}", highlight=False)
        if result["advice"]:
            out.print(result["advice"], highlight=False)
        return
    fields = Table(box=None, show_header=False, padding=(0, 1))
    for key, value in result.items():
        if key == "scales":
            fields.add_row(key, f"{value}{_scale_rule(result['scale'])}")
        elif (key, value) in (("stride", 1), ("quantised", None)):
            continue  # as everybody expects
        elif key == "quantised":
            made = f"{value['rule']} of {value['of']}, {value['dtype']}"
            fields.add_row("int8 by", printable(made))
        elif key not in ("scale", "sections", "permutation", "segments", "patterns"):
            fields.add_row(key.replace("_", " "), _plain(value))
    out.print(fields)
    if "block" in result:
        _print_block(out, result)
        return
    table = _table("section", "offset", "stored", "size", "codec", "SHA-256")
    for s in result["sections"]:
        table.add_row(
            s["role"], f"{s['offset']:,}", f"{s['stored_size']:,}", f"{s['size']:,}", s["codec"],
            s["sha256"][:16],
        )  # fmt: skip
    out.print(table)


def print_survey(result: dict[str, Any]) -> None:
    """Print what compiling a source would do."""
    table = _table("tensor", "stored as", "becomes", "because")
    for column in table.columns[1:]:
        column.justify = "left"
    for t in result["tensors"]:
        shape = "x".join(map(str, t["shape"])) or "scalar"
        index = f" {t['encoding']} {t['packing']} k={t['k']}" if "encoding" in t else ""
        if t["becomes"] == "absorbed":
            because = f"belongs to {t['into']}"
        else:
            because = t.get("reason") or f"{t['layout']}, scale: {t['scale']}"
        table.add_row(
            printable(t["name"]), f"{t['dtype']} {shape}", t["becomes"] + index, printable(because)
        )
    out = console()
    out.print(table)
    counts = Counter(t["becomes"] for t in result["tensors"])
    summary = ", ".join(f"{count} {becomes}" for becomes, count in counts.items())
    out.print(f"{printable(result['path'])}: {size(result['bytes'])}: {summary}", highlight=False)
    if result["files"]:
        out.print(f"kept beside them: {', '.join(result['files'])}", highlight=False)
    for note in result["notes"]:
        out.print(printable(note), highlight=False)
    if result["refused"]:
        out.print("compiling it would be refused: see above", highlight=False)
    elif not counts.keys() & {"ternary", "binary"}:
        out.print("nothing here is ternary or binary", highlight=False)


def _scale_rule(scale: dict[str, Any] | None) -> str:
    """Say what shares a scale where that is not a number of rows alone."""
    if scale is None or scale["columns"] is None:
        return ""
    rows = "row" if scale["rows"] == 1 else f"{scale['rows']} rows"
    return f", one per {rows} and {scale['columns']} columns ({scale['dtype']})"


def _tensor_table(tensors: Sequence[dict[str, Any]]) -> Table:
    table = _table("tensor", "kind", "shape", "source", "index", "k", "bits/weight", "bytes")
    for t in tensors:
        indexed = t["kind"] != "dense"
        table.add_row(
            printable(t["name"]),
            t["kind"],
            "x".join(map(str, t["shape"])) or "scalar",
            f"{t['dtype']} {t['layout']}" if indexed else _dense_source(t),
            f"{t['encoding']} {t['packing']} {t['direction']}" if indexed else "",
            str(t["k"]) if indexed else "",
            f"{t['bits_per_weight']:.3f}" if indexed else "",
            f"{t['bytes']:,}",
        )
    return table


def _dense_source(t: dict[str, Any]) -> str:
    made = t["quantised"]
    return str(t["dtype"]) if made is None else f"{made['dtype']} {made['rule']}"


def _print_block(out: Console, result: dict[str, Any]) -> None:
    """Draw the segments: pattern, where it lies in sigma, how long it is, its first rows."""
    L, sigma, patterns = result["segments"], result["permutation"], result["patterns"]
    longest = max((b - a for a, b in itertools.pairwise(L)), default=0) or 1
    table = _table("segment", "pattern", "L[s]", "rows", "", "first rows of sigma")
    table.columns[4].justify = table.columns[5].justify = "left"
    shown = [s for s in range(len(patterns)) if L[s + 1] > L[s]]
    for s in shown[:_MOST_SEGMENTS]:
        count = L[s + 1] - L[s]
        rows = sigma[L[s] : L[s + 1]]
        table.add_row(
            str(s),
            " ".join({-1: "-", 0: "0", 1: "+"}[v] for v in patterns[s]),
            str(L[s]),
            str(count),
            "█" * max(1, round(_BAR * count / longest)),
            " ".join(map(str, rows[:6])) + (" ..." if count > 6 else ""),
        )
    out.print(table)
    hidden = len(shown) - _MOST_SEGMENTS
    if hidden > 0:
        out.print(f"... and {hidden} segments more (--json lists all)")
    empty = len(patterns) - len(shown)
    out.print(f"{len(shown)} segments hold {len(sigma)} rows, {empty} are empty", highlight=False)


def print_info(result: dict[str, Any]) -> None:
    """Print what `rsrc info` found."""
    cpu = result["cpu"]
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_row("processor", f"{cpu['processor'] or 'unknown'} ({cpu['machine']})")
    table.add_row("kernels in use", cpu["isa"])
    table.add_row("instruction sets", f"{', '.join(cpu['supported_isas'])} (RSR_ISA forces one)")
    table.add_row("compiled in", ", ".join(cpu["compiled_isas"]))
    table.add_row("threads", f"{cpu['threads']} of {cpu['processors']} processors")
    table.add_row("native target", f"{result['target']}: packing {result['packing']}")
    table.add_row("file format", result["format_version"])
    for name, version in result["versions"].items():
        table.add_row(name, version)
    console().print(table, highlight=False)


def _plain(value: Any) -> str:
    return printable(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(Text(first), overflow="fold")  # Text: "L[s]" is no markup; names stay whole
    for name in others:
        table.add_column(Text(name), justify="left" if name == "for instance" else "right")
    return table
