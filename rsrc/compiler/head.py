"""Quantize the output head to int8, one float32 scale per row (rule `absmax`, formats/SPEC.md).

A decoder reads its whole head for every token. In a ternary model of two billion weights, that is
more than half of all bytes; int8 reduces the head to a half or a quarter. This is lossy. The loss
of weights and logits is measured while the head is written, and reported.

The head is `lm_head.weight`. If the source has none and config.json ties it to the embedding, it is
made from the embedding, which is kept unchanged for lookups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.architectures import DecoderNames, is_tied
from rsr_formats.records import (
    FLOAT_DTYPES,
    KINDS,
    MAX_QUANTIZED_COLUMNS,
    DenseTensor,
    Quantized,
    Rotation,
)
from rsr_formats.records import row_scales_name as scales_name
from rsr_formats.writer import BytesLike

from ..common.arrays import ByteArray
from ..common.errors import OptionError, SourceError
from ..common.progress import Advance
from ..layouts import TernaryTensor
from ..layouts.float_bits import from_float32, row_panels, to_float32
from ..source.checkpoint import Checkpoint
from ..source.tensor import SourceTensor
from .recognize import Recognized
from .report import HeadReport

WEIGHT = "lm_head.weight"
RULE = "absmax"
_VECTORS = 64  # hidden states for which logits are compared

Floats = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class HeadPlan:
    """An output head to quantize.

    Attributes:
        tensor: the source tensor, a matrix of floats.
        norm: weight of the model's final norm, which scales hidden states before the head.
        rotation: of the columns, None if they are not rotated.
    """

    tensor: SourceTensor
    norm: SourceTensor | None
    rotation: Rotation | None = None

    @property
    def is_added(self) -> bool:
        """Whether the source tensor is kept as well."""
        return not self.tensor.name.endswith(WEIGHT)

    @property
    def name(self) -> str:
        """Name of the int8 tensor."""
        return WEIGHT if self.is_added else self.tensor.name


def find_head(checkpoint: Checkpoint) -> SourceTensor:
    """Return the source tensor of the output head.

    Raises:
        OptionError: there is no head.
    """
    tensors = checkpoint.tensors
    found = DecoderNames.find(tensors)
    head = f"{found.head}.weight"
    ties = head not in tensors and is_tied(checkpoint.config)
    names = (head, f"{found.prefix}embed_tokens.weight") if ties else (head,)
    for name in names:
        if name in tensors:
            return tensors[name]
    raise OptionError(
        f"head: {checkpoint.path} has no {' and no '.join(map(repr, names))}, and "
        f"tie_word_embeddings is {'true' if ties else 'not true'} in its config.json, so there "
        "is no output head to quantize: compile without --head"
    )


def plan_head(checkpoint: Checkpoint, found: Recognized) -> HeadPlan:
    """Return the plan of the head, given how its source tensor was recognized.

    Raises:
        OptionError: the head is ternary, not a matrix of floats, or too wide; or the source has a
            tensor with the name of the scales.
    """
    name = found.tensor.name
    if isinstance(found, TernaryTensor):
        kind = KINDS[len(found.digits)]
        raise OptionError(
            f"head: {name!r} is {kind} (layout {found.layout.name}), which is smaller than int8: "
            "compile without --head, or keep it dense with --exclude to quantize it anyway"
        )
    norm = checkpoint.tensors.get(f"{DecoderNames.find(checkpoint.tensors).prefix}norm.weight")
    if norm is not None:
        norm = norm.dense
        if norm.dtype not in FLOAT_DTYPES or norm.shape != found.tensor.shape[1:]:
            norm = None
    plan = HeadPlan(found.tensor, norm, checkpoint.rotation_of(name, found.tensor.shape))
    _check(checkpoint, plan)
    return plan


def _check(checkpoint: Checkpoint, plan: HeadPlan) -> None:
    t = plan.tensor
    if t.dtype not in FLOAT_DTYPES or len(t.shape) != 2 or 0 in t.shape:
        raise OptionError(
            f"head: {t.name!r} is {t.dtype} {list(t.shape)}, expected a matrix of "
            f"{', '.join(FLOAT_DTYPES)}: compile without --head"
        )
    if t.shape[1] > MAX_QUANTIZED_COLUMNS:
        raise OptionError(
            f"head: {t.name!r} has {t.shape[1]} columns, an int8 head at most "
            f"{MAX_QUANTIZED_COLUMNS}: compile without --head"
        )
    if scales_name(plan.name) in checkpoint.tensors:
        raise OptionError(
            f"head: the source has a tensor {scales_name(plan.name)!r} already, which is the name "
            "of the head's scales: compile without --head"
        )


# --- the rule -----------------------------------------------------------------------------------


def quantize(values: Floats) -> tuple[Int8, Floats]:
    """Quantize each row by rule `absmax`.

    Args:
        values: float32 (rows, columns), finite.

    Returns:
        q, int8 (rows, columns), and scale, float32 (rows,), with values ~ q * scale.
    """
    scale = np.abs(values).max(axis=1) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.clip(np.rint(values / scale[:, None]), -127, 127)
    q[scale == 0] = 0
    return q.astype(np.int8), scale


def quantized_panels(t: SourceTensor) -> Iterator[tuple[Floats, Int8, Floats]]:
    """Read a matrix in panels of rows; yield each panel's values, q and scale.

    Raises:
        SourceError: an entry is not finite, or the file became shorter.
    """
    first = 0
    for raw in row_panels(t):
        values = to_float32(raw, t.dtype).reshape(-1, t.shape[1])
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise SourceError(
                f"{t.name}: row {row} has an entry that is not finite, so it has no int8 scale: "
                "compile without --head"
            )
        first += len(values)
        yield values, *quantize(values)


def restored_panels(file: RsrFile, t: DenseTensor) -> Iterator[ByteArray]:
    """Yield the bytes of q * scale, rounded to the source's dtype, in panels of rows."""
    assert t.quantized is not None
    rows, columns = t.shape
    q = file.section(t.section).view(np.int8).reshape(rows, columns)
    scale = scales_of(file, t)
    step = max(1, (1 << 20) // max(1, columns))
    for first in range(0, rows, step):
        panel = slice(first, first + step)
        with np.errstate(over="ignore", invalid="ignore"):  # untrusted scales
            values = q[panel].astype(np.float32) * scale[panel, None]
        yield from_float32(values, t.quantized.dtype).reshape(-1).view(np.uint8)


def scales_of(file: RsrFile, t: DenseTensor) -> Floats:
    """Return the scales of a quantized tensor, float32 (rows,)."""
    name = scales_name(t.name)
    section = next(
        s.section for s in file.header.tensors if isinstance(s, DenseTensor) and s.name == name
    )
    return file.section(section).view("<f4")


def difference(file: RsrFile, t: DenseTensor, source: SourceTensor) -> str | None:
    """Quantize the source again; return how a quantized tensor differs, or None."""
    assert t.quantized is not None
    source = source.dense
    if (source.dtype, source.shape) != (t.quantized.dtype, t.shape):
        return (
            f"made of {t.quantized.dtype} {list(t.shape)}, but {source.name!r} is "
            f"{source.dtype} {list(source.shape)} in the source"
        )
    kept = file.section(t.section).view(np.int8).reshape(t.shape)
    kept_scale = scales_of(file, t)
    first = 0
    for _, q, scale in quantized_panels(source):
        panel = slice(first, first + len(q))
        same = (q == kept[panel]).all(axis=1) & (scale == kept_scale[panel])
        if not same.all():
            return f"{source.name!r} quantizes to another row {first + int(np.argmin(same))}"
        first += len(q)
    return None


# --- writing ------------------------------------------------------------------------------------


def write_head(
    plan: HeadPlan, add: Callable[[Iterable[BytesLike]], int], advance: Advance
) -> tuple[DenseTensor, DenseTensor, HeadReport]:
    """Quantize the head and write the int8 matrix and the scales.

    Args:
        plan: the plan of the head.
        add: writes the pieces of a section and returns its number.
        advance: called for each panel.

    Returns:
        The records of weight and scales, and the loss.

    Raises:
        SourceError: an entry is not finite.
    """
    t = plan.tensor
    scales: list[Floats] = []
    loss = _Loss(_hidden(plan))

    def panels() -> Iterator[memoryview]:
        for values, q, scale in quantized_panels(t):
            scales.append(scale)
            loss.add(values, q, scale)
            yield q.reshape(-1).data
            advance(t.name, values.size * t.nbytes // (t.shape[0] * t.shape[1]))

    section = add(panels())
    weight = DenseTensor(plan.name, "I8", t.shape, section, Quantized(RULE, t.name, t.dtype))
    scale = np.concatenate(scales).astype("<f4")
    scale_record = DenseTensor(
        scales_name(plan.name), "F32", scale.shape, add([scale.view(np.uint8).data])
    )
    bytes_now = weight.nbytes + scale_record.nbytes
    return weight, scale_record, loss.report(plan, bytes_now)


def _hidden(plan: HeadPlan) -> Floats:
    """Draw hidden states, (_VECTORS, in_features): variance 1, times the weight of the norm.

    They are in the basis of the head.
    """
    hidden = np.random.default_rng(0).standard_normal((_VECTORS, plan.tensor.shape[1]), np.float32)
    if plan.norm is not None:
        hidden *= to_float32(plan.norm.read(), plan.norm.dtype)
    if plan.rotation is not None:
        import rsr_runtime  # lazily, as in `_Loss.add`

        hidden = rsr_runtime.Rotation(plan.rotation).apply(hidden)
    return hidden


class _Loss:
    """Compares a matrix and its logits with those of its int8 form, panel by panel.

    The runtime computes the logits. NumPy is as fast on an idle machine, but ten times slower while
    workers are busy, because its threads spin.
    """

    def __init__(self, hidden: Floats) -> None:
        self._hidden = hidden
        self._weights = np.zeros(2)  # |W - Q|^2, |W|^2
        self._logits = np.zeros(4)  # |a - b|^2, |a|^2, |b|^2, a.b of the logits a and b
        # Of W and Q, for each vector: the largest logit of all panels so far, and its row.
        self._largest = np.full((2, len(hidden)), -np.inf, np.float32)
        self._token = np.zeros((2, len(hidden)), np.int64)
        self._rows = 0

    def add(self, values: Floats, q: Int8, scale: Floats) -> None:
        from rsr_runtime import linear_rows  # lazily: compiling needs no kernels otherwise

        kept = q.astype(np.float32) * scale[:, None]
        self._weights += _square(values - kept), _square(values)
        exact, found = linear_rows(values, self._hidden), linear_rows(q, self._hidden, scale)
        product = (exact * found).sum(dtype=np.float64)
        self._logits += _square(exact - found), _square(exact), _square(found), product
        token = np.stack([exact.argmax(axis=1), found.argmax(axis=1)])
        largest = np.stack([exact.max(axis=1), found.max(axis=1)])
        better = largest > self._largest
        self._token[better], self._largest[better] = token[better] + self._rows, largest[better]
        self._rows += len(values)

    def report(self, plan: HeadPlan, bytes_now: int) -> HeadReport:
        error, exact, found, product = self._logits
        by = "" if plan.norm is None else f", times {plan.norm.name}"
        return HeadReport(
            of=plan.tensor.name,
            is_added=plan.is_added,
            bytes=bytes_now,
            bytes_saved=plan.tensor.nbytes - bytes_now,
            relative_error=_ratio(*self._weights),
            logits_relative_error=_ratio(error, exact),
            logits_cosine=float(product / np.sqrt(exact * found)) if exact * found else 1.0,
            argmax_kept=float((self._token[0] == self._token[1]).mean()),
            vectors=len(self._hidden),
            measured=(
                f"with {len(self._hidden)} random hidden vectors of variance 1{by}, "
                "int8 activations against float32"
            ),
        )


def _square(a: Floats) -> float:
    return float(np.square(a).sum(dtype=np.float64))


def _ratio(error: float, exact: float) -> float:
    return float(np.sqrt(error / exact)) if exact else 0.0
