"""The tables that `rsrc inspect` and `rsrc info` print."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from rsr_formats.pages import huge_page_size
from rsr_formats.records import KINDS
from rsr_formats.text import printable
from rsr_runtime.llm import Support

from ..common.console import console, new_table, size
from .listing import Listed, print_tensors

_BAR_WIDTH = 16
_MAX_SEGMENTS = 81


def print_inspection(result: dict[str, Any]) -> None:
    """Print a .rsr file, one of its tensors or a column block."""
    out = console()
    if "tensors" in result:
        out.print(
            f"{printable(result['path'])}: format {result['version']}, {size(result['bytes'])}, "
            f"written by {printable(result['producer'])}"
        )
        _print_family(out, result)
        print_tensors(out, [_listed(t, _heading(t)) for t in result["tensors"]])
        if count := len(result["stacks"]):
            held = "tensor" if count == 1 else "tensors"
            out.print(f"{count} {held} of three dimensions in the source, held matrix by matrix")
        for file in result["files"]:
            out.print(f"file {printable(file['name'])}, {size(file['bytes'])}")
        for key, value in result["metadata"].items():
            out.print(f"metadata {printable(key)} = {printable(value)}")
        _print_support(out, result)
        if result["advice"]:
            out.print(result["advice"])
        return
    fields = Table(box=None, show_header=False, padding=(0, 1))
    for key, value in result.items():
        if key == "scales":
            scale = result["scale"]
            has_groups = scale is not None and scale["columns"] is not None
            fields.add_row(key, f"{value}, one {_sharing(scale)}" if has_groups else str(value))
        elif (key, value) in (("stride", 1), ("quantised", None)):
            continue  # the default
        elif key == "quantised":
            made = f"{value['rule']} of {value['of']}, {value['dtype']}"
            fields.add_row("int8 by", printable(made))
        elif key == "shape":
            fields.add_row(key, " x ".join(map(str, value)) or "scalar")
        elif key == "bytes":
            fields.add_row(key, f"{value:,}")
        elif key not in ("scale", "sections", "permutation", "segments", "patterns"):
            fields.add_row(key.replace("_", " "), _plain(value))
    out.print(fields)
    if "block" in result:
        _print_block(out, result)
        return
    table = new_table("section", "offset", "stored", "size", "codec", "SHA-256")
    for s in result["sections"]:
        table.add_row(
            s["role"], f"{s['offset']:,}", f"{s['stored_size']:,}", f"{s['size']:,}", s["codec"],
            s["sha256"][:16],
        )  # fmt: skip
    out.print(table)


def print_survey(result: dict[str, Any]) -> None:
    """Print how the tensors of a source would compile."""
    out = console()
    _print_family(out, result)
    print_tensors(out, [_listed(t, _source_heading(t)) for t in result["tensors"]])
    counts = Counter(t["becomes"] for t in result["tensors"])
    summary = ", ".join(f"{count} {becomes}" for becomes, count in counts.items())
    out.print(f"{printable(result['path'])}: {size(result['bytes'])}: {summary}")
    if result["files"]:
        out.print(f"kept as files: {', '.join(result['files'])}")
    for note in result["notes"]:
        out.print(printable(note))
    _print_support(out, result)
    if result["refused"]:
        out.print("this checkpoint cannot be compiled: see the refused tensors")
    elif not counts.keys() & set(KINDS.values()):
        out.print("no tensor is ternary or binary")


def _print_family(out: Console, result: dict[str, Any]) -> None:
    """Print what the models of a class are called."""
    if result.get("family") is not None:
        out.print(f"model family: {result['family']} ({result['architecture']})")


def _print_support(out: Console, result: dict[str, Any]) -> None:
    """Print what does not work with a model, if anything."""
    if "runs" not in result:  # of one tensor
        return
    support = Support(
        tuple(result["runs"]["reasons"]),
        tuple(result["chat"]["reasons"]),
        tuple(result["not_understood"]),
        tuple(result["not_applied"]),
        tuple(result["embeds"]["reasons"]),
    )
    for line in support.sentences():
        out.print(printable(line))


def _listed(t: dict[str, Any], heading: str) -> Listed:
    shape = t.get("weight_shape", t["shape"])  # of the weights: packed tensors are narrower
    return Listed(t["name"], heading, shape, t["bytes"], t.get("bits_per_weight"))


def _heading(t: dict[str, Any]) -> str:
    """Describe how a .rsr file stores a tensor."""
    if t["kind"] == "dense":
        made = t["quantised"]
        dtype = t["dtype"] if made is None else f"I8, {made['rule']} of {made['dtype']}"
        return f"dense {dtype}"
    return (
        f"{t['kind']}: {t['encoding']} {t['packing']}, {t['direction']}, k = {t['k']}; source "
        f"{t['dtype']}, layout {t['layout']}; {_scale_rule(t)}"
    )


def _scale_rule(t: dict[str, Any]) -> str:
    """Describe which weights share a scale."""
    scale = t["scale"]
    if scale is None:
        return "no scale"
    if scale["columns"] is None and t["scales"] == 1:
        return "one scale"
    return f"one scale {_sharing(scale)}"


def _sharing(scale: dict[str, Any]) -> str:
    rows = "row" if scale["rows"] == 1 else f"{scale['rows']} rows"
    if scale["columns"] is None:
        return f"per {rows}"
    return f"per {rows} and {scale['columns']} columns ({scale['dtype']})"


def _source_heading(t: dict[str, Any]) -> str:
    """Describe how a tensor of a source would compile."""
    if t["becomes"] == "absorbed":
        return f"absorbed into the tensor it scales ({t['dtype']})"
    if "encoding" in t:
        return (
            f"{t['becomes']}: {t['encoding']} {t['packing']}, k = {t['k']}; {t['dtype']}, layout "
            f"{t['layout']}, scale: {t['scale']}"
        )
    return f"{t['becomes']} {t['dtype']}: {t['reason'].removeprefix(t['dtype'] + ', ')}"


def _print_block(out: Console, result: dict[str, Any]) -> None:
    """Print the segments: pattern, start and length in the segment list, first rows."""
    L, sigma, patterns = result["segments"], result["permutation"], result["patterns"]
    longest = max((b - a for a, b in itertools.pairwise(L)), default=0) or 1
    table = new_table("segment", "pattern", "L[s]", "rows", "", "first rows of sigma")
    table.columns[4].justify = table.columns[5].justify = "left"
    table.columns[4].no_wrap = True
    shown = [s for s in range(len(patterns)) if L[s + 1] > L[s]]
    for s in shown[:_MAX_SEGMENTS]:
        count = L[s + 1] - L[s]
        rows = sigma[L[s] : L[s + 1]]
        table.add_row(
            str(s),
            " ".join({-1: "-", 0: "0", 1: "+"}.get(v, f"{v:+d}") for v in patterns[s]),
            str(L[s]),
            str(count),
            "█" * max(1, round(_BAR_WIDTH * count / longest)),
            " ".join(map(str, rows[:6])) + (" ..." if count > 6 else ""),
        )
    out.print(table)
    hidden = len(shown) - _MAX_SEGMENTS
    if hidden > 0:
        out.print(f"... and {hidden} more segments (--json lists all)")
    empty = len(patterns) - len(shown)
    out.print(f"{len(shown)} segments hold {len(sigma)} rows, {empty} are empty")


def print_info(result: dict[str, Any]) -> None:
    """Print the processor, the kernels in use and the versions."""
    cpu = result["cpu"]
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_row("processor", f"{cpu['processor'] or 'unknown'} ({cpu['machine']})")
    table.add_row("kernels in use", cpu["isa"])
    table.add_row("instruction sets", f"{', '.join(cpu['supported_isas'])} (RSR_ISA forces one)")
    table.add_row("compiled in", ", ".join(cpu["compiled_isas"]))
    table.add_row("threads", f"{cpu['threads']} of {cpu['processors']} processors")
    table.add_row("huge pages", _huge_pages(huge_page_size()))
    table.add_row("native target", f"{result['target']}: packing {result['packing']}")
    table.add_row("file format", result["format_version"])
    for name, version in result["versions"].items():
        table.add_row(name, version)
    console().print(table)


def _huge_pages(nbytes: int | None) -> str:
    if nbytes is None:
        return "none: --memory auto and huge stay in small pages"
    return f"of {nbytes >> 20} MiB, which --memory auto uses for models that work long"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return printable(", ".join(map(str, value)) if isinstance(value, list) else str(value))
