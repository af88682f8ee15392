"""What compiling a source would do with each tensor, and why; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..common.errors import OptionError, SourceError
from ..compiler.patterns import list_patterns
from ..compiler.plan import IndexPlan, plan
from ..compiler.recognize import PassthroughTensor, recognizer
from ..layouts import TernaryTensor
from ..source.checkpoint import Checkpoint
from ..source.open import open_checkpoint
from ..source.tensor import SourceTensor

# progress(tensor name, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RefusedTensor:
    """A tensor because of which compiling would end with an error."""

    tensor: SourceTensor
    reason: str


Outcome = TernaryTensor | PassthroughTensor | RefusedTensor


def survey(
    source: str | os.PathLike[str], tensor: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Describe what `compile` with its default options would make of a source.

    Args:
        source: what `compile` takes.
        tensor: describe this one alone.
        progress: called as progress(tensor name, bytes done, bytes in all).

    Returns:
        "path", "bytes" (of all tensors), "files" (names of what is kept beside them), "notes" (what
        could not be made of the source), "refused" (how many tensors keep the source from being
        compiled) and "tensors": "name", "dtype", "shape", "bytes", "becomes" ("ternary", "binary",
        "dense", "refused", or "absorbed" into the tensor that "into" names), "layout", "scale",
        "encoding", "packing", "direction" and "k" of what is indexed, and "reason" of what is not.

    Raises:
        SourceError: the source cannot be opened, or is refused as a whole.
        OptionError: there is no tensor of that name.
    """
    checkpoint = open_checkpoint(source)
    if tensor is not None and tensor not in checkpoint.tensors:
        names = [repr(name) for name in checkpoint.tensors]
        some = ", ".join(names[:5] + ["..."] * (len(names) > 5))
        raise OptionError(f"{source} has no tensor {tensor!r}; it has {some or 'none'}")
    asked = checkpoint.tensors if tensor is None else _with_owner(checkpoint, tensor)
    outcomes = _outcomes(checkpoint, asked, progress)
    into = {
        c.name: t.name
        for t in outcomes.values()
        if isinstance(t, TernaryTensor)
        for c in t.auxiliary
    }
    described = [
        _describe(outcome, into.get(name))
        for name, outcome in outcomes.items()
        if tensor in (None, name)
    ]
    return {
        "path": str(source),
        "bytes": checkpoint.stored_nbytes,
        "files": sorted(checkpoint.files),
        "notes": list(checkpoint.notes),
        "refused": sum(t["becomes"] == "refused" for t in described),
        "tensors": described,
    }


def _with_owner(checkpoint: Checkpoint, name: str) -> Mapping[str, SourceTensor]:
    """Return a tensor, and the one it may belong to by its name."""
    base = name.removesuffix("scales").removesuffix("biases")
    names = {name, name.removesuffix("_scale"), f"{base}weight"}
    return {n: t for n, t in checkpoint.tensors.items() if n in names}


def _outcomes(
    checkpoint: Checkpoint, asked: Mapping[str, SourceTensor], progress: Progress | None
) -> dict[str, Outcome]:
    look = recognizer(checkpoint)
    outcomes: dict[str, Outcome] = {}
    said: dict[str, str] = {}  # one reason can be that of many, and name them all
    total, done = sum(t.nbytes for t in asked.values()), 0
    for name, tensor in asked.items():
        try:
            outcomes[name] = look(tensor)
        except SourceError as error:
            first = said.setdefault(str(error), name)
            reason = str(error) if first == name else f"as {first}"
            outcomes[name] = RefusedTensor(tensor, reason)
        done += tensor.nbytes
        if progress is not None:
            progress(name, done, total)
    return outcomes


def _describe(outcome: Outcome, into: str | None) -> dict[str, Any]:
    t = outcome.tensor
    what: dict[str, Any] = {
        "name": t.name,
        "dtype": t.origin or t.dtype,
        "shape": list(t.shape),
        "bytes": t.stored_nbytes,
    }
    if into is not None:
        return what | {"becomes": "absorbed", "into": into}
    if isinstance(outcome, TernaryTensor):
        (p,) = plan([outcome])
        assert isinstance(p, IndexPlan)
        if p.lists:
            p = list_patterns(p, t.read())
        return what | {
            "becomes": "ternary" if len(outcome.digits) == 3 else "binary",
            "layout": outcome.layout.name,
            "scale": outcome.note,
            "encoding": p.encoding,
            "packing": p.packing,
            "direction": p.direction,
            "k": p.k,
        }
    becomes = "dense" if isinstance(outcome, PassthroughTensor) else "refused"
    return what | {"becomes": becomes, "reason": outcome.reason}
