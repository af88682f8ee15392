"""Stage 2: which tensors are ternary or binary, in which layout; and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rsr_formats.records import MAX_IN_FEATURES, MAX_OUT_FEATURES

from ..common.errors import NothingToCompileError, OptionError, SourceError
from ..layouts import LAYOUTS, QUANTIZERS, Layout, TernaryTensor
from ..layouts.bitnet import advice_on_master
from ..layouts.cells import parse_per
from ..source.checkpoint import Checkpoint, CheckpointReference
from ..source.open import reopen
from ..source.shapes import check_shape, is_linear
from ..source.tensor import SourceTensor
from ..workers.pool import Workers

# advance(tensor name, bytes done since the last call)
Advance = Callable[[str, int], None]


@dataclass(frozen=True)
class PassthroughTensor:
    """A tensor that stays dense."""

    tensor: SourceTensor
    reason: str


Recognized = TernaryTensor | PassthroughTensor


def recognize(
    checkpoint: Checkpoint,
    *,
    quantize: str | None = None,
    per: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    advance: Advance = lambda name, count: None,
    workers: Workers | None = None,
) -> list[Recognized]:
    """Decide for each tensor, in the order of the source, whether and how it is indexed.

    Args:
        checkpoint: the opened source.
        quantize: None, or a rule that makes linear weights which no layout claims ternary:
            "absmean", "absmedian" or "twn" (post-training, lossy).
        per: what has a scale of its own where `quantize` is given: "tensor" (None, too), "row" or
            "group:N", N columns of a row.
        include: glob patterns; where given, only tensors whose names match one are indexed.
        exclude: glob patterns of names that stay dense in any case.
        advance: called as advance(tensor name, bytes) when a tensor has been looked at.
        workers: who looks at the tensors; None: this thread, at one after the other.

    Returns:
        A `TernaryTensor` or a `PassthroughTensor` for each source tensor that is not absorbed into
        another (a weight_scale into its weight).

    Raises:
        SourceError: a tensor is of a ternary layout but damaged.
        NothingToCompileError: no tensor is ternary or binary.
        OptionError: an unknown `quantize` or `per`, `per` alone, or a string where patterns should
            be.
    """
    if quantize is not None and quantize not in QUANTIZERS:
        raise OptionError(f"quantize: found {quantize!r}, expected {' or '.join(QUANTIZERS)}")
    if per is not None and quantize is None:
        raise OptionError(f"per: found {per!r} without quantize, which it is for")
    for option, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):  # a sequence, but of letters
            raise OptionError(f"{option}: found {patterns!r}, expected a list of patterns")
    layouts = list(LAYOUTS)
    if quantize is not None:
        layouts.append(QUANTIZERS[quantize](parse_per(per or "tensor"), chosen=bool(include)))
    workers = workers or Workers()
    known = checkpoint if workers.is_local else checkpoint.reference()
    look = _Look(known, tuple(layouts), tuple(include), tuple(exclude))
    found: list[Recognized] = []
    with closing(workers.map(look, checkpoint.tensors.values())) as looked_at:
        for tensor, recognized in looked_at:
            assert recognized is not None
            found.append(recognized)
            advance(tensor.name, tensor.nbytes)
    absorbed = {c.name for t in found if isinstance(t, TernaryTensor) for c in t.auxiliary}
    found = [t for t in found if t.tensor.name not in absorbed]
    if not any(isinstance(t, TernaryTensor) for t in found):
        raise NothingToCompileError(_advice(checkpoint, found, bool(include or exclude), quantize))
    return found


def recognizer(checkpoint: Checkpoint) -> Callable[[SourceTensor], Recognized]:
    """Return what `recognize` does with one tensor when no option is given."""
    return _Look(checkpoint, LAYOUTS, (), ())


@dataclass(frozen=True)
class _Look:
    """What is done with one tensor, here or in another process."""

    checkpoint: Checkpoint | CheckpointReference
    layouts: tuple[Layout, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def __call__(self, tensor: SourceTensor) -> Recognized:
        if self.include and not _matches(tensor.name, self.include):
            return _keep(tensor, "not matched by --include")
        if _matches(tensor.name, self.exclude):
            return _keep(tensor, "matched by --exclude")
        checkpoint = self.checkpoint
        if isinstance(checkpoint, CheckpointReference):
            checkpoint = reopen(checkpoint)
        return recognize_one(checkpoint, tensor, self.layouts)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _keep(tensor: SourceTensor, reason: str) -> PassthroughTensor:
    dense = tensor.dense
    return PassthroughTensor(dense, reason if dense.origin is None else f"{dense.origin}; {reason}")


def recognize_one(
    checkpoint: Checkpoint, tensor: SourceTensor, layouts: Sequence[Layout] = LAYOUTS
) -> Recognized:
    """Decide for one tensor; `layouts` are asked in this order.

    Raises:
        SourceError: it is of a ternary layout but damaged.
    """
    reasons: list[str] = []
    for layout in layouts:
        result = layout.recognize(checkpoint, tensor)
        if isinstance(result, TernaryTensor):
            if result.shape[0] > MAX_OUT_FEATURES or result.shape[1] > MAX_IN_FEATURES:
                raise SourceError(
                    f"{tensor.name}: shape {list(result.shape)} exceeds the format's "
                    f"[{MAX_OUT_FEATURES}, {MAX_IN_FEATURES}]: keep it dense with --exclude"
                )
            if is_linear(tensor.name):
                found = f"{tensor.dtype} {list(tensor.shape)}"
                check_shape(checkpoint.config, tensor.name, result.shape, found)
            return result
        if result is not None:
            reasons.append(result)
    if not reasons:
        reasons = [f"{len(tensor.shape)}-dimensional" if len(tensor.shape) != 2 else tensor.dtype]
    reason = "; ".join(dict.fromkeys(reasons))
    return _keep(tensor, reason + advice_on_master(checkpoint, tensor))


def _advice(
    checkpoint: Checkpoint, found: Sequence[Recognized], filtered: bool, quantize: str | None
) -> str:
    text = f"{checkpoint.path}: none of its {len(found)} tensors is ternary or binary"
    matrices = [t for t in found if isinstance(t, PassthroughTensor) and len(t.tensor.shape) == 2]
    if matrices:
        text += f"; for instance {matrices[0].tensor.name!r} is kept dense: {matrices[0].reason}"
    if filtered:
        return text + ". Check --include and --exclude: they match whole tensor names"
    if quantize is None and any(t.tensor.dtype in ("F32", "F16", "BF16") for t in matrices):
        return text + (
            ". If this is the float master of a BitNet model, though config.json does not say so, "
            "compile with --quantize absmean (lossy for any other model)"
        )
    return text
