"""The compiler: open source -> recognize -> plan -> index -> write.

Memory. Tensors under way take at most `workers.BUDGET` (384 MiB: their bytes and what becomes of
them). One that needs more than half of that is held by the main thread alone, beside panels of
32 MiB. So the peak is the largest ternary tensor and 512 MiB, Python included; with one thread, the
largest ternary tensor and 128 MiB. Dense tensors pass in pieces. Compressing takes up to 90 MB more
for each thread, at the highest levels. Workers of an executor hold a tensor and its index each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rsr_formats import create
from rsr_formats.atomic import check_output
from rsr_formats.records import DenseTensor, FileEntry, IndexedTensor, Section, Tensor
from rsr_formats.writer import Bytes, RsrWriter

from .._version import __version__
from ..common.errors import OptionError
from ..source.checkpoint import Checkpoint
from ..source.open import open_checkpoint
from ..workers.pool import LARGEST, Local, Submits, Workers, open_workers
from .head import HEADS, WEIGHT, HeadPlan, find_head, plan_head, write_head
from .plan import IndexPlan, Plan, plan
from .recognize import Advance, PassthroughTensor, recognize
from .record import Encoder, encode, nbytes, renumbered
from .report import HeadReport, Report, TensorReport

# progress(tensor name, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]


def compile(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    encoding: str = "auto",
    target: str = "native",
    k: int | None = None,
    direction: str = "auto",
    quantize: str | None = None,
    per: str | None = None,
    head: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    zstd: int | None = None,
    threads: int | None = None,
    executor: str | Submits | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Compile a checkpoint to a `.rsr` file.

    Args:
        source: a .safetensors or .gguf file, a .safetensors.index.json or a model directory.
        output: the .rsr file; it appears only when it is whole.
        encoding: "auto", "ranked" or "permuted".
        target: "native", "generic", "avx2", "avx512" or "neon": where products will run.
        k: columns of a column block; None leaves it to the cost model (rsrc/plan.py).
        direction: "auto", "expand" or "reduce".
        quantize: "absmean", "absmedian" or "twn" makes linear weights that are not ternary so:
            post-training quantization, lossy. Models whose config.json says that they quantize
            their weights themselves need no such option.
        per: what has a scale of its own then: "tensor" (None, too), "row" or "group:N", N columns
            of a row.
        head: "int8" makes the output head int8 with a scale for each row: lossy, and half or a
            quarter of its bytes. Where config.json ties it to the embedding, that stays as it is
            beside it. Logits are measured on as many threads as rsr_runtime uses.
        include: glob patterns; only matching tensors are indexed.
        exclude: glob patterns; matching tensors stay dense.
        zstd: compress sections at this level (1 to 22); None leaves them mappable.
        threads: how many tensors are worked on at once; None takes all processors, 1 works in the
            calling thread alone.
        executor: who works on tensors instead of this process's threads: "dask://HOST:PORT" for
            the workers of a Dask scheduler, or any object with `submit`, as those of
            concurrent.futures. Workers read the source themselves: they need the same files at the
            same paths. What is written does not depend on them.
        force: replace an existing output.
        progress: called as progress(tensor name, bytes done, bytes in all), where every byte of the
            source counts twice: when it is recognized and when it is written. If it also has a
            method `begin`, that is called as begin("recognizing" or "compiling", tensors) first.

    Raises:
        SourceError: the source is missing, damaged or of a kind that is not read.
        NothingToCompileError: no tensor is ternary or binary.
        OptionError: an option is out of its range, the output is part of the source, or there is
            no head to make int8.
        ExecutorError: the executor cannot be reached, or lost its workers.
        OutputExistsError: the output exists and `force` is not set, or it is not a regular file.
        OSError: reading or writing failed; no output is left behind.
    """
    start = time.perf_counter()
    if zstd is not None and not 1 <= zstd <= 22:
        raise OptionError(f"zstd: found level {zstd}, expected 1 to 22")
    if head not in (None, *HEADS):
        raise OptionError(f"head: found {head!r}, expected {' or '.join(HEADS)}")
    if threads is not None and threads < 1:
        raise OptionError(f"threads: found {threads}, expected 1 or more")
    threads = threads or _processors()
    target_path = check_output(output, force)
    path = source if executor is None else Path(source).absolute()  # theirs is another folder
    checkpoint = open_checkpoint(path)
    check_not_source(target_path, _parts(checkpoint))
    total = 2 * checkpoint.nbytes
    if head is not None and (source_head := find_head(checkpoint)).name != WEIGHT:
        total += source_head.nbytes  # read once more
    advance = _counting(progress, total)
    with open_workers(executor, threads) as workers:
        _begin(progress, "recognizing", len(checkpoint.tensors))
        recognized = recognize(
            checkpoint,
            quantize=quantize,
            per=per,
            include=include,
            exclude=exclude,
            advance=advance,
            workers=workers,
        )
        chosen = recognized if head is None else plan_head(checkpoint, recognized)
        plans = plan(chosen, encoding=encoding, target=target, direction=direction, k=k)
        _begin(progress, "compiling", len(plans))
        tensors, files = write(checkpoint, plans, output, zstd, force, advance, workers)
    return Report(
        source=str(source),
        output=str(output),
        tensors=tuple(tensors),
        files=tuple(files),
        source_bytes=checkpoint.stored_nbytes,
        output_bytes=Path(output).stat().st_size,
        seconds=time.perf_counter() - start,
        threads=threads,
        notes=checkpoint.notes,
    )


def write(
    checkpoint: Checkpoint,
    plans: Sequence[Plan],
    output: str | os.PathLike[str],
    zstd: int | None = None,
    force: bool = False,
    advance: Advance = lambda name, count: None,
    workers: Workers | None = None,
) -> tuple[list[TensorReport], list[str]]:
    """Stages 4 and 5: index every tensor and write it.

    Workers index whole tensors ahead; this thread puts what they return into the file, in order,
    streams dense tensors, and cuts those into panels that are too large to be indexed whole.

    Returns:
        A report for each tensor, and the names of the files kept.
    """
    workers = workers or Workers()
    encoder = Encoder(zstd, workers.local)
    local = workers.local or Local()
    records: list[Tensor] = []
    reports: list[TensorReport] = []
    with (
        create(output, force, threaded=not workers.are_alone) as writer,
        closing(workers.map(encoder, plans, partial(_cost, workers))) as encoded,
    ):
        for p, whole in encoded:
            first = len(writer.sections)
            if isinstance(p, PassthroughTensor):
                dense = _write_dense(writer, p, zstd, advance)
                records.append(dense)
                reports.append(_dense_report(p, dense, writer.sections[first:]))
                continue
            if isinstance(p, HeadPlan):
                weight, scale, loss = write_head(p, lambda s: writer.add(s, zstd), advance)
                records += weight, scale
                reports += _head_reports(p, weight, scale, loss, writer.sections[first:])
                continue
            if whole is None:
                indexed = _write_indexed(writer, p, zstd, local, workers)
            else:
                for section in whole.sections:
                    writer.append(section)
                indexed = renumbered(whole.record, first)
            advance(p.source.name, p.source.nbytes)
            records.append(indexed)
            reports.append(_indexed_report(p, indexed, writer.sections[first:]))
        files = [
            FileEntry(name, writer.add(_file_pieces(file), zstd))
            for name, file in sorted(checkpoint.files.items())
        ]
        writer.finish(
            producer=f"rsrc {__version__}",
            metadata=checkpoint.metadata,
            files=files,
            tensors=records,
        )
    return reports, [f.name for f in files]


def _cost(workers: Workers, p: Plan) -> int | None:
    """Return the bytes that a tensor under way takes in this process; None: not to be given away.

    Other processes hold what they read themselves; it is their result that is held here.
    """
    if isinstance(p, PassthroughTensor | HeadPlan) or workers.are_alone:
        return None
    cost = nbytes(p) + (p.source.tensor.nbytes if workers.is_local else 0)
    return cost if cost <= LARGEST else None


def _counting(progress: Progress | None, total: int) -> Advance:
    done = 0

    def advance(name: str, count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(name, done, total)

    return advance


def _begin(progress: Progress | None, phase: str, tensors: int) -> None:
    begin = getattr(progress, "begin", None)
    if begin is not None:
        begin(phase, tensors)


def _write_dense(
    writer: RsrWriter, p: PassthroughTensor, zstd: int | None, advance: Advance
) -> DenseTensor:
    t = p.tensor

    def pieces() -> Iterator[memoryview]:
        for piece in t.pieces():
            yield piece
            advance(t.name, len(piece))
        if not t.nbytes:
            advance(t.name, 0)

    return DenseTensor(t.name, t.dtype, t.shape, writer.add(pieces(), zstd))


def _write_indexed(
    writer: RsrWriter, p: IndexPlan, zstd: int | None, local: Local, workers: Workers
) -> IndexedTensor:
    """Index a tensor in panels, so that of the result only they are in memory."""

    def add(pieces: Iterable[Bytes]) -> int:
        return writer.add(pieces, zstd)

    with local.memory(p.source.tensor.nbytes) as memory:
        raw = p.source.tensor.read(memory)
        return encode(p, raw, add, workers.pool, workers.threads)


def _dense_report(
    p: PassthroughTensor, t: DenseTensor, sections: Sequence[Section]
) -> TensorReport:
    return TensorReport(
        name=t.name,
        kind="dense",
        shape=t.shape,
        source_dtype=t.dtype,
        source_bytes=p.tensor.stored_nbytes,
        bytes=sum(s.stored_size for s in sections),
        raw_bytes=sum(s.size for s in sections),
        reason=p.reason,
    )


def _head_reports(
    p: HeadPlan,
    weight: DenseTensor,
    scale: DenseTensor,
    loss: HeadReport,
    sections: Sequence[Section],
) -> list[TensorReport]:
    added = f", of {p.tensor.name}, which it is tied to" if p.is_added else ""
    reports = []
    for t, section, source in zip((weight, scale), sections, (p.tensor, None), strict=True):
        report = TensorReport(
            name=t.name,
            kind="dense",
            shape=t.shape,
            source_dtype=p.tensor.dtype,
            source_bytes=0 if source is None or p.is_added else source.stored_nbytes,
            bytes=section.stored_size,
            raw_bytes=section.size,
            reason=f"output head in int8, lossy{added}",
            head=loss if source is not None else None,
        )
        reports.append(report)
    return reports


def _indexed_report(p: IndexPlan, t: IndexedTensor, sections: Sequence[Section]) -> TensorReport:
    return TensorReport(
        name=t.name,
        kind=t.kind,
        shape=t.shape,
        source_dtype=t.source.dtype,
        source_bytes=p.source.nbytes,
        bytes=sum(s.stored_size for s in sections),
        raw_bytes=sum(s.size for s in sections),
        layout=t.source.layout,
        scale=p.source.note,
        encoding=t.encoding,
        packing=t.packing,
        direction=t.direction,
        k=t.k,
        bits_per_weight=t.bits_per_weight,
        **({} if p.source.quality is None else asdict(p.source.quality)),
    )


def _file_pieces(file: Path | bytes) -> Iterator[bytes]:
    if isinstance(file, bytes):
        yield file
        return
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            yield piece


def check_not_source(output: Path, sources: Iterable[Path]) -> None:
    """Refuse an output that would replace what it is made from, by whatever name.

    Raises:
        OptionError: `output` is one of `sources`.
    """
    if output.exists() and any(output.samefile(s) for s in sources if s.exists()):
        raise OptionError(f"{output} is part of the source: choose another output")


def _parts(checkpoint: Checkpoint) -> set[Path]:
    """List every file that is read, also those that are not kept."""
    files = [file for file in checkpoint.files.values() if isinstance(file, Path)]
    parts = {checkpoint.path, *checkpoint.shards, *files}
    return parts if checkpoint.config_path is None else parts | {checkpoint.config_path}


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
