"""What compiling a source would do with each tensor, and why; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .checkpoint import Checkpoint, SourceTensor, open_checkpoint
from .errors import OptionError, SourceError
from .layouts import TernaryTensor
from .plan import IndexPlan, plan
from .recognise import KeptTensor, recogniser

# progress(tensor name, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RefusedTensor:
    """A tensor because of which compiling would end with an error."""

    tensor: SourceTensor
    reason: str


Outcome = TernaryTensor | KeptTensor | RefusedTensor


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
    outcomes = _outcomes(checkpoint, progress)
    into = {
        c.name: t.name
        for t in outcomes.values()
        if isinstance(t, TernaryTensor)
        for c in t.companions
    }
    described = [
        _describe(outcome, into.get(name))
        for name, outcome in outcomes.items()
        if tensor in (None, name)
    ]
    return {
        "path": str(source),
        "bytes": checkpoint.nbytes,
        "files": sorted(checkpoint.files),
        "notes": list(checkpoint.notes),
        "refused": sum(t["becomes"] == "refused" for t in described),
        "tensors": described,
    }


def _outcomes(checkpoint: Checkpoint, progress: Progress | None) -> dict[str, Outcome]:
    look = recogniser(checkpoint)
    outcomes: dict[str, Outcome] = {}
    done = 0
    for name, tensor in checkpoint.tensors.items():
        try:
            outcomes[name] = look(tensor)
        except SourceError as error:
            outcomes[name] = RefusedTensor(tensor, str(error))
        done += tensor.nbytes
        if progress is not None:
            progress(name, done, checkpoint.nbytes)
    return outcomes


def _describe(outcome: Outcome, into: str | None) -> dict[str, Any]:
    t = outcome.tensor
    what: dict[str, Any] = {
        "name": t.name,
        "dtype": t.dtype,
        "shape": list(t.shape),
        "bytes": t.nbytes,
    }
    if into is not None:
        return what | {"becomes": "absorbed", "into": into}
    if isinstance(outcome, TernaryTensor):
        (p,) = plan([outcome])
        assert isinstance(p, IndexPlan)
        return what | {
            "becomes": "ternary" if len(outcome.digits) == 3 else "binary",
            "layout": outcome.layout.name,
            "scale": outcome.note,
            "encoding": p.encoding,
            "packing": p.packing,
            "direction": p.direction,
            "k": p.k,
        }
    becomes = "dense" if isinstance(outcome, KeptTensor) else "refused"
    return what | {"becomes": becomes, "reason": outcome.reason}
