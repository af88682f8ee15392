"""One tensor for the experts of a layer, as llama.cpp reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...common.errors import ExportError
from .output import GgufOutput

_HF = re.compile(r"model\.layers\.([0-9]+)\.mlp\.experts\.([0-9]+)\.(gate|up|down)_proj\.weight")
_GGUF = re.compile(r"(blk\.[0-9]+\.ffn_(?:gate|up|down)_exps)\.([0-9]+)\.weight")


def expert_name(name: str) -> str | None:
    """Return the name under which `stacked` takes the matrix of an expert.

    Args:
        name: of a tensor, as a class with a head has it.

    Returns:
        None for any other tensor.
    """
    found = _HF.fullmatch(name)
    return None if found is None else f"blk.{found[1]}.ffn_{found[3]}_exps.{found[2]}.weight"


def stacked(tensors: Iterable[GgufOutput]) -> list[GgufOutput]:
    """Return the tensors with one of three dimensions for the experts of each layer.

    Raises:
        ExportError: an expert is missing, or its shape or type differs from that of the others.
    """
    groups: dict[str, dict[int, GgufOutput]] = {}
    result: list[GgufOutput | str] = []  # the name of a group, where its first matrix was
    for t in tensors:
        if (found := _GGUF.fullmatch(t.name)) is None:
            result.append(t)
            continue
        name = f"{found[1]}.weight"
        if name not in groups:
            result.append(name)
        groups.setdefault(name, {})[int(found[2])] = t
    return [t if isinstance(t, GgufOutput) else _stack(t, groups[t]) for t in result]


def _stack(name: str, by_number: dict[int, GgufOutput]) -> GgufOutput:
    experts = [by_number[number] for number in sorted(by_number)]
    first, kinds = experts[0], {(t.kind, t.shape) for t in experts}
    if sorted(by_number) != list(range(len(experts))):
        raise ExportError(f"{name}: of {max(by_number) + 1} experts, {len(experts)} are there")
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{kind} {list(shape)}" for kind, shape in kinds))
        raise ExportError(
            f"{name}: GGUF has one tensor for all experts of a layer, but these would be {found}: "
            "write the model in another form"
        )
    shape = (len(experts), *first.shape)
    return replace(first, name=name, shape=shape, data=partial(_joined, experts))


def _joined(experts: list[GgufOutput]) -> npt.NDArray[Any]:
    return np.stack([t.data() for t in experts])
