"""Report what compiling a source would do with each tensor, and why. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rsr_formats.records import KINDS
from rsr_formats.text import alternatives

from ..common.errors import OptionError, SourceError
from ..common.progress import ByteCounter, ProgressFunction
from ..compiler.patterns import list_patterns
from ..compiler.plan import IndexPlan, plan
from ..compiler.recognize import Recognized, Recognizer, owners_of
from ..compiler.support import activation_notes, check_source
from ..layouts import TernaryTensor
from ..source.checkpoint import Checkpoint
from ..source.open import open_checkpoint
from ..source.tensor import SourceTensor

if TYPE_CHECKING:
    from rsr_runtime.llm import Support

Outcome = Recognized | str  # str: the error with which compiling would reject the tensor


def survey(
    source: str | os.PathLike[str],
    tensor: str | None = None,
    progress: ProgressFunction | None = None,
) -> dict[str, Any]:
    """Describe what `compile` with its default options would make of a source.

    Args:
        source: anything that `compile` takes.
        tensor: describe only the tensor of this name.
        progress: called as progress(tensor name, bytes done, total bytes); shows a download, too.

    Returns:
        "path"; "bytes" of all tensors; "files", the names of the model files that are copied;
        "notes", sentences on what could not be read from the source; "refused", the number of
        tensors that keep the source from being compiled; unless `tensor` is given, the fields of
        `rsr_runtime.llm.Support.to_dict`; and "tensors". Each tensor has "name",
        "dtype", "shape", "bytes" and "becomes": a word of KINDS such as "ternary", "dense",
        "refused", or "absorbed" into the tensor named by "into". Indexed ones have "weight_shape"
        ([out_features, in_features]; "shape" is that of the packed tensor), "layout", "scale",
        "encoding", "packing", "direction" and "k"; dense and refused ones "reason".

    Raises:
        SourceError: the source cannot be opened, or is rejected as a whole.
        OptionError: the source has no tensor of that name.
    """
    checkpoint = open_checkpoint(source, progress)
    if tensor is not None and tensor not in checkpoint.tensors:
        raise unknown_tensor(source, tensor, list(checkpoint.tensors))
    asked = checkpoint.tensors if tensor is None else _with_owner(checkpoint, tensor)
    outcomes = _outcomes(checkpoint, asked, progress)
    into = {
        auxiliary.name: t.name
        for t in outcomes.values()
        if isinstance(t, TernaryTensor)
        for auxiliary in t.auxiliary
    }
    described = [
        _describe(checkpoint.tensors[name], outcome, into.get(name))
        for name, outcome in outcomes.items()
        if tensor in (None, name)
    ]
    result = {
        "path": str(source),
        "bytes": checkpoint.stored_nbytes,
        "files": sorted(checkpoint.files),
        "notes": [*checkpoint.notes, *activation_notes(checkpoint, None)],
        "refused": sum(t["becomes"] == "refused" for t in described),
        "tensors": described,
    }
    if tensor is None:
        result |= _support(checkpoint, outcomes, into).to_dict()
    return result


def _support(
    checkpoint: Checkpoint, outcomes: Mapping[str, Outcome], into: Mapping[str, str]
) -> Support:
    """Say whether the compiled file could be run."""
    recognized = {
        name: t for name, t in outcomes.items() if not isinstance(t, str) and name not in into
    }
    found = check_source(checkpoint, recognized)
    if any(isinstance(t, TernaryTensor) for t in recognized.values()) and len(recognized) == len(
        outcomes
    ) - len(into):
        return found
    why = "rsrc compile would reject the checkpoint"
    return replace(
        found,
        run_reasons=(why, *found.run_reasons),
        chat_reasons=(why, *found.chat_reasons),
        embed_reasons=(why, *found.embed_reasons),
    )


def unknown_tensor(path: str | os.PathLike[str], name: str, existing: list[str]) -> OptionError:
    """Return the error for a tensor name that a file does not have."""
    return OptionError(f"{path} has no tensor {name!r}; {alternatives(name, existing)}")


def _with_owner(checkpoint: Checkpoint, name: str) -> Mapping[str, SourceTensor]:
    """Return a tensor, and the one that would absorb it if it is a scale or a bias."""
    names = {name, *owners_of(name)}
    return {n: t for n, t in checkpoint.tensors.items() if n in names}


def _outcomes(
    checkpoint: Checkpoint, asked: Mapping[str, SourceTensor], progress: ProgressFunction | None
) -> dict[str, Outcome]:
    recognize = Recognizer(checkpoint)
    outcomes: dict[str, Outcome] = {}
    first: dict[str, str] = {}  # reason: the tensor that shows it; some name thousands of tensors
    counter = ByteCounter(progress, sum(t.nbytes for t in asked.values()))
    for name, tensor in asked.items():
        try:
            outcomes[name] = recognize(tensor)
        except SourceError as error:
            shown_by = first.setdefault(str(error), name)
            outcomes[name] = str(error) if shown_by == name else f"as {shown_by}"
        counter.advance(name, tensor.nbytes)
    return outcomes


def _describe(t: SourceTensor, outcome: Outcome, into: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": t.name,
        "dtype": t.origin or t.dtype,
        "shape": list(t.shape),
        "bytes": t.stored_nbytes,
    }
    if into is not None:
        return fields | {"becomes": "absorbed", "into": into}
    if isinstance(outcome, TernaryTensor):
        (p,) = plan([outcome])
        assert isinstance(p, IndexPlan)
        if p.lists:
            p = list_patterns(p, t.read())
        return fields | {
            "becomes": KINDS[len(outcome.digits)],
            "weight_shape": list(outcome.shape),
            "layout": outcome.layout.name,
            "scale": outcome.note,
            "encoding": p.encoding,
            "packing": p.packing,
            "direction": p.direction,
            "k": p.k,
        }
    if isinstance(outcome, str):
        return fields | {"becomes": "refused", "reason": outcome}
    return fields | {"becomes": "dense", "reason": outcome.reason}
