"""What a compilation did, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rsr_formats.records import PREAMBLE, DenseTensor, FileEntry, IndexedTensor, Section, align

from ..layouts import TernaryTensor
from ..source.tensor import SourceTensor

if TYPE_CHECKING:
    from rsr_runtime.llm import Support


@dataclass(frozen=True)
class HeadReport:
    """The loss of an output head W that was quantized to int8: Q, and its logits."""

    of: str  # name of the source tensor
    is_added: bool  # whether the source tensor is kept as well
    bytes: int  # of int8 weights and scales
    bytes_saved: int  # per token that is generated: bytes of the source tensor minus `bytes`
    relative_error: float  # |W - Q| / |W|, Frobenius norms
    logits_relative_error: float  # the same for the logits of all vectors
    logits_cosine: float  # cosine between the logits of W and Q
    argmax_kept: float  # share of the vectors whose largest logit belongs to the same token
    vectors: int
    measured: str  # how the logits were measured


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the output. The fields that describe an index are None for a dense tensor."""

    name: str
    kind: str  # "dense", or one of rsr_formats.records.KINDS
    shape: tuple[int, ...]
    source_dtype: str
    source_bytes: int  # including auxiliary tensors
    bytes: int  # in the .rsr file, without padding
    raw_bytes: int  # the same before compression
    layout: str | None = None
    scale: str | None = None  # where the scale comes from
    encoding: str | None = None
    packing: str | None = None
    direction: str | None = None
    k: int | None = None
    bits_per_weight: float | None = None
    reason: str | None = None  # why it stayed dense
    reused: bool = False  # whether its sections were copied from the file given as `reuse`
    # Post-training quantization of W to Q; None without it.
    zero_share: float | None = None  # share of the weights of Q that are 0
    relative_error: float | None = None  # |W - Q| / |W|, Frobenius norms
    cosine: float | None = None  # cosine between W and Q
    head: HeadReport | None = None  # of an output head quantized to int8

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
    # Bytes of the file by use: "ternary", "binary", "quaternary" and "quinary" if there are such
    # matrices, "dense", "files", "header" and "padding" (which aligns sections); the sum is
    # `output_bytes`.
    output_parts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what the user should know, as sentences
    support: Support | None = None  # whether rsrc run and chat will work with the file

    @property
    def head(self) -> HeadReport | None:
        """The loss of the output head; None if it was not quantized."""
        return next((t.head for t in self.tensors if t.head is not None), None)

    @property
    def reused(self) -> dict[str, int]:
        """How many "tensors" were copied from the file given as `reuse`, and their "bytes"."""
        tensors = [t for t in self.tensors if t.reused]
        return {"tensors": len(tensors), "bytes": sum(t.bytes for t in tensors)}

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the indexes and scales of all indexed tensors, before compression."""
        weights = sum(t.weights for t in self.tensors)
        bits = sum((t.bits_per_weight or 0) * t.weights for t in self.tensors)
        return bits / weights if weights else 0.0

    @property
    def stored_ratio(self) -> dict[str, float]:
        """Stored bytes / uncompressed bytes, for each kind of tensor that occurs and for "all"."""
        kinds = dict.fromkeys(t.kind for t in self.tensors)
        return {
            kind: stored_ratio([t for t in self.tensors if t.kind == kind]) for kind in kinds
        } | {"all": stored_ratio(self.tensors)}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready types, keyed by the names of fields and properties."""
        fields = asdict(replace(self, support=None))
        del fields["support"]
        return {
            **fields,
            **({} if self.support is None else self.support.to_dict()),
            "reused": self.reused,
            "bits_per_weight": self.bits_per_weight,
            "stored_ratio": self.stored_ratio,
        }


def stored_ratio(tensors: Sequence[TensorReport]) -> float:
    """Return stored bytes / uncompressed bytes, 1 if there are none."""
    raw = sum(t.raw_bytes for t in tensors)
    return sum(t.bytes for t in tensors) / raw if raw else 1.0


def output_parts(
    tensors: Sequence[TensorReport],
    files: Sequence[FileEntry],
    sections: Sequence[Section],
    output_bytes: int,
) -> dict[str, int]:
    """Divide the bytes of a file by their use; see `Report.output_parts`."""
    parts = dict.fromkeys(("ternary", "binary", "dense"), 0)
    for t in tensors:
        parts[t.kind] = parts.get(t.kind, 0) + t.bytes
    end = max((s.offset + s.stored_size for s in sections), default=PREAMBLE.size)
    parts["files"] = sum(sections[f.section].stored_size for f in files)
    parts["header"] = PREAMBLE.size + output_bytes - align(end)
    parts["padding"] = output_bytes - sum(parts.values())
    return parts


def dense_report(
    t: DenseTensor, source: SourceTensor, section: Section, reason: str
) -> TensorReport:
    """Describe a tensor that stayed dense."""
    return TensorReport(
        name=t.name,
        kind="dense",
        shape=t.shape,
        source_dtype=source.dtype,
        source_bytes=source.stored_nbytes,
        bytes=section.stored_size,
        raw_bytes=section.size,
        reason=reason,
    )


def head_reports(
    records: tuple[DenseTensor, DenseTensor],
    source: SourceTensor,
    loss: HeadReport,
    sections: Sequence[Section],
) -> list[TensorReport]:
    """Describe the weight and the scales of an output head that was quantized to int8."""
    added = f", of {source.name}, which it is tied to" if loss.is_added else ""
    weight, scales = (
        dense_report(t, source, section, f"output head in int8, lossy{added}")
        for t, section in zip(records, sections, strict=True)
    )
    if loss.is_added:  # the report of the source tensor counts its bytes
        weight = replace(weight, source_bytes=0)
    return [replace(weight, head=loss), replace(scales, source_bytes=0)]


def indexed_report(
    source: TernaryTensor, t: IndexedTensor, sections: Sequence[Section]
) -> TensorReport:
    """Describe a tensor that was indexed."""
    return TensorReport(
        name=t.name,
        kind=t.kind,
        shape=t.shape,
        source_dtype=t.source.dtype,
        source_bytes=source.nbytes,
        bytes=sum(s.stored_size for s in sections),
        raw_bytes=sum(s.size for s in sections),
        layout=t.source.layout,
        scale=source.note,
        encoding=t.encoding,
        packing=t.packing,
        direction=t.direction,
        k=t.k,
        bits_per_weight=t.bits_per_weight,
        **({} if source.quality is None else asdict(source.quality)),
    )
