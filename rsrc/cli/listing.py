"""List tensors in the width of a terminal: one line for the same tensor of identical layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from rich.console import Console

from rsr_formats.text import printable

from ..common.console import size as format_size

_NUMBER = re.compile(r"(?:^|(?<=\.))[0-9]+(?=\.)")  # a layer or an expert in a tensor's name
_Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Listed:
    """A tensor, or several whose names differ only in numbers."""

    name: str
    heading: str  # tensors are grouped by it
    shape: Sequence[int]
    size: int  # bytes of all `count` tensors
    bits_per_weight: float | None = None
    count: int = 1


def print_tensors(out: Console, tensors: Sequence[Listed]) -> None:
    """Print tensors under their headings, as wide as the terminal is.

    Names are broken after a dot, and headings between words.
    """
    groups: dict[str, list[Listed]] = {}
    for line in _merged_layers(tensors):
        groups.setdefault(line.heading, []).append(line)
    shapes = max((len(_shape(t)) for t in tensors), default=0)
    has_bits = any(t.bits_per_weight is not None for t in tensors)
    counts = max((len(str(line.count)) for lines in groups.values() for line in lines), default=1)
    rest = f"  {'n':>{counts}}  {'shape':<{shapes}}{'  bits/w' if has_bits else ''}      size"
    widest = max((len(line.name) for lines in groups.values() for line in lines), default=0)
    width = max(20, min(widest, out.width - len(rest) - 2))
    out.print(f"{'tensor':<{width + 2}}{rest}", style="bold")
    for heading, lines in groups.items():
        out.print(printable(heading))
        for line in lines:
            *above, last = _broken(line.name, width)
            bits = f"{'' if line.bits_per_weight is None else f'{line.bits_per_weight:.3f}':>8}"
            figures = (
                f"{line.count:>{counts}}  {_shape(line):<{shapes}}{bits if has_bits else ''}"
                f"  {format_size(line.size):>8}"
            )
            for text in (*above, f"{last:<{width}}  {figures}"):
                out.print(f"  {text}", no_wrap=True)


def _shape(t: Listed) -> str:
    return "x".join(map(str, t.shape)) or "scalar"


def _merged_layers(tensors: Sequence[Listed]) -> Iterator[Listed]:
    """Merge tensors that differ only in the numbers in their names."""
    alike: dict[tuple[str, str, str], dict[_Numbers, Listed]] = {}
    for t in tensors:
        numbers = tuple(map(int, _NUMBER.findall(t.name)))
        alike.setdefault((_NUMBER.sub("\0", t.name), t.heading, _shape(t)), {})[numbers] = t
    for (template, _, _), members in alike.items():
        for merged in _merged(list(members)):
            found = [members[numbers] for numbers in merged]
            ranges = iter([_ranges(sorted(set(column))) for column in zip(*merged, strict=True)])
            name = "".join(next(ranges) if c == "\0" else c for c in template)
            size = sum(t.size for t in found)
            yield replace(found[0], name=printable(name), size=size, count=len(found))


def _merged(numbers: Sequence[_Numbers]) -> Iterator[list[_Numbers]]:
    """Split into sets that ranges describe: each holds every combination of its numbers."""
    if prod(len(set(column)) for column in zip(*numbers, strict=True)) == len(numbers):
        yield list(numbers)
        return
    by_rest: dict[_Numbers, list[_Numbers]] = {}
    for n in numbers:
        by_rest.setdefault(n[1:], []).append(n)
    yield from by_rest.values()


def _ranges(numbers: Sequence[int]) -> str:
    """Return "0-3,5" for 0, 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    return ",".join("-".join(map(str, run)) for run in runs)


def _broken(name: str, width: int) -> list[str]:
    """Break a name after dots into lines of `width`; a part that is longer stays whole."""
    lines = [""]
    for part in re.findall(r"[^.]*\.|[^.]+$", name) or [name]:
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("  ")
        lines[-1] += part
    return lines
