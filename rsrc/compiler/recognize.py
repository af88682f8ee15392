"""Stage 2: find the ternary and binary tensors and their layouts; give reasons for the others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rsr_formats.records import MAX_OUT_FEATURES, max_in_features

from ..common.errors import NothingToCompileError, SourceError
from ..common.progress import Advance, ignore
from ..layouts import LAYOUTS, QUANTIZERS, Layout, TernaryTensor
from ..layouts.bitnet import advice_on_master
from ..layouts.scales import parse_per
from ..source.checkpoint import Checkpoint, CheckpointReference
from ..source.open import reopen
from ..source.quantization import ONLINE_CONFIG
from ..source.shapes import check_shape, is_linear
from ..source.tensor import SourceTensor
from ..workers.pool import Workers
from .options import CompileOptions


@dataclass(frozen=True)
class PassthroughTensor:
    """A tensor that stays dense, and why."""

    tensor: SourceTensor
    reason: str


Recognized = TernaryTensor | PassthroughTensor


def recognize(
    checkpoint: Checkpoint,
    options: CompileOptions | None = None,
    workers: Workers | None = None,
    advance: Advance = ignore,
) -> list[Recognized]:
    """Decide for each tensor, in the order of the source, whether and how to index it.

    Args:
        checkpoint: the opened source.
        options: None for the defaults.
        workers: examine the tensors; None uses this thread.
        advance: called for each tensor that has been examined.

    Returns:
        A `TernaryTensor` or a `PassthroughTensor` for each source tensor, except auxiliary ones
        such as a weight_scale.

    Raises:
        SourceError: a tensor has a ternary layout but is damaged.
        NothingToCompileError: no tensor is ternary or binary.
    """
    recognition = Recognition(checkpoint, options, workers, advance)
    found = recognition.of(list(checkpoint.tensors.values()))
    recognition.check()
    return found


class Recognition:
    """Decides for the tensors of a source, some at a time; arguments as for `recognize`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: CompileOptions | None = None,
        workers: Workers | None = None,
        advance: Advance = ignore,
    ) -> None:
        self._checkpoint, self._advance = checkpoint, advance
        self._options = options = options or CompileOptions()
        self._workers = workers = workers or Workers()
        layouts = list(LAYOUTS)
        if options.quantize is not None:
            rule, per = QUANTIZERS[options.quantize], parse_per(options.per or "tensor")
            layouts.append(rule(per, chosen=bool(options.include)))
        known = checkpoint if workers.is_local else checkpoint.reference()
        self._function = Recognizer(
            known, tuple(layouts), tuple(options.include), tuple(options.exclude)
        )
        self._found: dict[str, Recognized] = {}
        self._auxiliary: set[str] = set()

    def of(self, tensors: Sequence[SourceTensor]) -> list[Recognized]:
        """Decide for some tensors; return what `recognize` would for them.

        Tensors in other files that may absorb one of them are decided first.

        Raises:
            SourceError: a tensor has a ternary layout but is damaged.
        """
        names = {t.name for t in tensors}
        owners = [
            owner
            for t in tensors
            for name in owners_of(t.name) - names
            if (owner := self._checkpoint.tensors.get(name)) is not None
        ]
        due = [t for t in (*tensors, *owners) if t.name not in self._found]
        with closing(self._workers.map(self._function, due)) as results:
            for tensor, recognized in results:
                assert recognized is not None
                self._found[tensor.name] = recognized
                if isinstance(recognized, TernaryTensor):
                    self._auxiliary |= {c.name for c in recognized.auxiliary}
                self._advance(tensor.name, tensor.nbytes)
        return [self._found[t.name] for t in tensors if t.name not in self._auxiliary]

    @property
    def found(self) -> list[Recognized]:
        """What was decided so far, without auxiliary tensors."""
        return [t for name, t in self._found.items() if name not in self._auxiliary]

    def check(self) -> None:
        """Check that some tensor is indexed; called when all are decided.

        Raises:
            NothingToCompileError: none is.
        """
        found = self.found
        if not any(isinstance(t, TernaryTensor) for t in found):
            raise NothingToCompileError(_advice(self._checkpoint, found, self._options))


def owners_of(name: str) -> set[str]:
    """Return the possible names of the tensor that absorbs the tensor `name`."""
    base = name.removesuffix("scales").removesuffix("biases")
    return {name.removesuffix("_scale"), f"{base}weight"} - {name}


@dataclass(frozen=True)
class Recognizer:
    """The function that `recognize` applies to each tensor, in this process or another."""

    checkpoint: Checkpoint | CheckpointReference
    layouts: tuple[Layout, ...] = LAYOUTS
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __call__(self, tensor: SourceTensor) -> Recognized:
        """Decide for one tensor; errors as `recognize_one`."""
        if self.include and not _matches(tensor.name, self.include):
            return _keep(tensor, "not matched by --include")
        if _matches(tensor.name, self.exclude):
            return _keep(tensor, "matched by --exclude")
        checkpoint = self.checkpoint
        if isinstance(checkpoint, CheckpointReference):
            checkpoint = reopen(checkpoint)
        return recognize_one(checkpoint, tensor, self.layouts)


def unmatched(checkpoint: Checkpoint, options: CompileOptions) -> list[str]:
    """Name the patterns that match no tensor, each in a sentence."""
    return [
        f"{option} {pattern!r} matches no tensor: patterns are compared with whole names"
        for option, patterns in (("include", options.include), ("exclude", options.exclude))
        for pattern in patterns
        if not any(_matches(name, (pattern,)) for name in checkpoint.tensors)
    ]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _keep(tensor: SourceTensor, reason: str) -> PassthroughTensor:
    dense = tensor.dense
    return PassthroughTensor(dense, reason if dense.origin is None else f"{dense.origin}; {reason}")


def recognize_one(
    checkpoint: Checkpoint, tensor: SourceTensor, layouts: Sequence[Layout] = LAYOUTS
) -> Recognized:
    """Decide for one tensor. The first of `layouts` that recognizes it is used.

    Raises:
        SourceError: it has a ternary layout but is damaged, or its shape contradicts config.json or
            exceeds the limits of the format.
    """
    reasons: list[str] = []
    for layout in layouts:
        result = layout.recognize(checkpoint, tensor)
        if isinstance(result, TernaryTensor):
            widest = max_in_features(result.digits)
            if result.shape[0] > MAX_OUT_FEATURES or result.shape[1] > widest:
                raise SourceError(
                    f"{tensor.name}: shape {list(result.shape)} exceeds the format's "
                    f"[{MAX_OUT_FEATURES}, {widest}] for digits {list(result.digits)}: "
                    "keep it dense with --exclude"
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


def _advice(checkpoint: Checkpoint, found: Sequence[Recognized], options: CompileOptions) -> str:
    text = f"{checkpoint.path}: none of its {len(found)} tensors is ternary or binary"
    matrices = [t for t in found if isinstance(t, PassthroughTensor) and len(t.tensor.shape) == 2]
    if matrices:
        text += f"; for example, {matrices[0].tensor.name!r} stays dense: {matrices[0].reason}"
    if options.include or options.exclude:
        return text + ". Check --include and --exclude: they match whole tensor names"
    if any(_is_packed(checkpoint, t.tensor) for t in matrices):
        return text + ". Compile the checkpoint that it was quantized from"
    if options.quantize is None and any(t.tensor.dtype in ("F32", "F16", "BF16") for t in matrices):
        return text + (
            ". If these are master weights of a BitNet model whose config.json does not say so, "
            f"add {ONLINE_CONFIG} to it, or compile with --quantize absmean, which leaves "
            "activations float (and is lossy for any other model)"
        )
    return text


def _is_packed(checkpoint: Checkpoint, tensor: SourceTensor) -> bool:
    """Return whether a matrix was of codes, or is of codes beside which floats are scales."""
    base = tensor.name.removesuffix("weight")
    is_mlx = tensor.dtype == "U32" and f"{base}scales" in checkpoint.tensors
    return is_mlx or tensor.origin is not None
