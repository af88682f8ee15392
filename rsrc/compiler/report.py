"""What a compilation did, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class HeadReport:
    """What `--head int8` made of the output head W, as Q, and what that does to its logits."""

    of: str  # the source tensor
    is_added: bool  # beside that one, which stays as it is
    bytes: int  # of int8 and scales
    bytes_saved: int  # of what a token reads: those of the source tensor less these
    relative_error: float  # |W - Q| / |W|, Frobenius norms
    logits_relative_error: float  # the same of logits, over all vectors and tokens
    logits_cosine: float  # of the angle between them
    argmax_kept: float  # share of the vectors whose largest logit is the same token's
    vectors: int
    measured: str  # how, in words


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the output. For a dense tensor, the fields of the index are None."""

    name: str
    kind: str  # "ternary", "binary" or "dense"
    shape: tuple[int, ...]
    source_dtype: str
    source_bytes: int  # with what was absorbed into it
    bytes: int  # in the .rsr file, without padding
    raw_bytes: int  # there, if its sections were not compressed
    layout: str | None = None
    scale: str | None = None  # the scale rule, in words
    encoding: str | None = None
    packing: str | None = None
    direction: str | None = None
    k: int | None = None
    bits_per_weight: float | None = None
    reason: str | None = None  # why it stayed dense
    # What post-training quantization kept of W, as Q; None for all that was not asked for.
    zero_share: float | None = None  # weights of Q that are 0
    relative_error: float | None = None  # |W - Q| / |W|, Frobenius norms
    cosine: float | None = None  # of the angle between W and Q
    head: HeadReport | None = None  # of an output head that was made int8

    @property
    def weights(self) -> int:
        """Number of weights of an indexed matrix, 0 for a dense tensor."""
        return 0 if self.kind == "dense" else self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Report:
    """The result of `rsrc.compile`."""

    source: str
    output: str
    tensors: tuple[TensorReport, ...]
    files: tuple[str, ...]
    source_bytes: int  # of all tensors
    output_bytes: int  # of the whole .rsr file
    seconds: float
    threads: int
    notes: tuple[str, ...] = ()  # what could not be made of the source, in words

    @property
    def head(self) -> HeadReport | None:
        """What was made of the output head, None where it was left as it is."""
        return next((t.head for t in self.tensors if t.head is not None), None)

    @property
    def bits_per_weight(self) -> float:
        """Index and scales of all indexed tensors, in bits per weight (uncompressed)."""
        weights = sum(t.weights for t in self.tensors)
        bits = sum((t.bits_per_weight or 0) * t.weights for t in self.tensors)
        return bits / weights if weights else 0.0

    @property
    def stored_ratio(self) -> dict[str, float]:
        """Bytes stored to bytes uncompressed, of each kind of tensor that occurs and of "all"."""
        kinds = dict.fromkeys(t.kind for t in self.tensors)
        return {
            kind: stored_ratio([t for t in self.tensors if t.kind == kind]) for kind in kinds
        } | {"all": stored_ratio(self.tensors)}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready types; the keys are the fields' and properties' names."""
        return {
            **asdict(self),
            "bits_per_weight": self.bits_per_weight,
            "stored_ratio": self.stored_ratio,
        }


def stored_ratio(tensors: Sequence[TensorReport]) -> float:
    """Return bytes stored to bytes uncompressed, 1 where there are none."""
    raw = sum(t.raw_bytes for t in tensors)
    return sum(t.bytes for t in tensors) / raw if raw else 1.0
