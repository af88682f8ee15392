"""The compiler: open source -> recognise -> plan -> index -> write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsr_formats import create
from rsr_formats.atomic import check_output
from rsr_formats.layout import (
    SCALE_DTYPES,
    DenseTensor,
    FileEntry,
    IndexedTensor,
    Scale,
    SourceRecord,
    Tensor,
)
from rsr_formats.writer import Bytes, RsrWriter

from ._version import __version__
from .checkpoint import Checkpoint, open_checkpoint
from .errors import OptionError
from .index import index_sections
from .layouts import TernaryTensor
from .plan import IndexPlan, Plan, plan
from .recognise import Advance, KeptTensor, recognise
from .report import Report, TensorReport

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
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    zstd: int | None = None,
    threads: int | None = None,
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
        quantize: "absmean" makes the linear weights of a float checkpoint ternary; lossy.
        include: glob patterns; only matching tensors are indexed.
        exclude: glob patterns; matching tensors stay dense.
        zstd: compress sections at this level (1 to 22); None leaves them mappable.
        threads: for encoding; None takes all processors.
        force: replace an existing output.
        progress: called as progress(tensor name, bytes done, bytes in all), where every byte of the
            source counts twice: when it is recognised and when it is written.

    Raises:
        SourceError: the source is missing, damaged or of a kind that is not read.
        NothingToCompileError: no tensor is ternary or binary.
        OptionError: an option is out of its range, or the output is part of the source.
        OutputExistsError: the output exists and `force` is not set, or it is not a regular file.
        OSError: reading or writing failed; no output is left behind.
    """
    start = time.perf_counter()
    if zstd is not None and not 1 <= zstd <= 22:
        raise OptionError(f"zstd: found level {zstd}, expected 1 to 22")
    if threads is not None and threads < 1:
        raise OptionError(f"threads: found {threads}, expected 1 or more")
    threads = threads or _processors()
    target_path = check_output(output, force)
    checkpoint = open_checkpoint(source)
    check_not_source(target_path, _parts(checkpoint))
    advance = _counting(progress, 2 * checkpoint.nbytes)
    recognised = recognise(
        checkpoint, quantize=quantize, include=include, exclude=exclude, advance=advance
    )
    plans = plan(recognised, encoding=encoding, target=target, direction=direction, k=k)
    tensors, files = write(checkpoint, plans, output, zstd, threads, force, advance)
    return Report(
        source=str(source),
        output=str(output),
        tensors=tuple(tensors),
        files=tuple(files),
        source_bytes=checkpoint.stored_nbytes,
        output_bytes=Path(output).stat().st_size,
        seconds=time.perf_counter() - start,
        threads=threads,
    )


def write(
    checkpoint: Checkpoint,
    plans: Sequence[Plan],
    output: str | os.PathLike[str],
    zstd: int | None = None,
    threads: int = 1,
    force: bool = False,
    advance: Advance = lambda name, count: None,
) -> tuple[list[TensorReport], list[str]]:
    """Stages 4 and 5: index every tensor and write it, one tensor in memory at a time.

    Returns:
        A report for each tensor, and the names of the files kept.
    """
    records: list[Tensor] = []
    reports: list[TensorReport] = []
    largest = max((p.source.tensor.nbytes for p in plans if isinstance(p, IndexPlan)), default=0)
    buffer = np.empty(largest, np.uint8)  # one for all tensors: new memory costs as much as reading
    with create(output, force) as writer, ThreadPoolExecutor(threads) as pool:
        for p in plans:
            if isinstance(p, KeptTensor):
                dense = _write_dense(writer, p, zstd, advance)
                records.append(dense)
                stored = writer.sections[dense.section].stored_size
                reports.append(_dense_report(p, dense, stored))
            else:
                indexed, stored = _write_indexed(writer, p, buffer, zstd, pool, threads, advance)
                records.append(indexed)
                reports.append(_indexed_report(p, indexed, stored))
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


def _counting(progress: Progress | None, total: int) -> Advance:
    done = 0

    def advance(name: str, count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(name, done, total)

    return advance


def _write_dense(
    writer: RsrWriter, p: KeptTensor, zstd: int | None, advance: Advance
) -> DenseTensor:
    t = p.tensor

    def pieces() -> Iterator[memoryview]:
        for piece in t.pieces():
            yield piece
            advance(t.name, len(piece))

    return DenseTensor(t.name, t.dtype, t.shape, writer.add(pieces(), zstd))


def _write_indexed(
    writer: RsrWriter,
    p: IndexPlan,
    buffer: npt.NDArray[np.uint8],
    zstd: int | None,
    pool: ThreadPoolExecutor,
    threads: int,
    advance: Advance,
) -> tuple[IndexedTensor, int]:
    t = p.source
    raw = t.tensor.read(buffer)
    sections: dict[str, int] = {}
    stored = 0

    def add(pieces: Iterable[Bytes]) -> int:
        nonlocal stored
        index = writer.add(pieces, zstd)
        stored += writer.sections[index].stored_size
        return index

    for part, pieces in index_sections(p, raw, pool, threads):
        sections[part] = add(pieces)
    scale = _write_scale(t, add)
    negative_zeros = t.layout.negative_zeros(raw, t)
    source = SourceRecord(
        layout=t.layout.name,
        dtype=t.source_dtype,
        shape=t.source_shape,
        negative_zeros=None if negative_zeros is None else add([negative_zeros.tobytes()]),
        companions=t.companions,
    )
    advance(t.name, t.nbytes)
    record = IndexedTensor(
        t.name, t.shape, t.digits, p.k, p.direction, p.encoding, p.packing, sections, source, scale
    )
    return record, stored


def _write_scale(t: TernaryTensor, add: Callable[[Iterable[Bytes]], int]) -> Scale | None:
    if t.scale is None:
        return None
    rows, columns, values = t.scale.rows, t.scale.columns, t.scale.values
    dtype = "F32"
    if columns is not None:  # so many that half the bytes count, where no bit is lost
        with np.errstate(over="ignore"):
            dtype = "F16" if (values.astype(np.float16) == values).all() else "F32"
    values = values[: -(-t.shape[0] // rows)]  # none for a matrix without rows
    scales = values.T.astype(SCALE_DTYPES[dtype])  # group by group
    return Scale(rows, add([scales.tobytes()]), columns, dtype)


def _dense_report(p: KeptTensor, t: DenseTensor, stored: int) -> TensorReport:
    return TensorReport(
        t.name, "dense", t.shape, t.dtype, p.tensor.stored_nbytes, stored, reason=p.reason
    )


def _indexed_report(p: IndexPlan, t: IndexedTensor, stored: int) -> TensorReport:
    return TensorReport(
        name=t.name,
        kind=t.kind,
        shape=t.shape,
        source_dtype=t.source.dtype,
        source_bytes=p.source.nbytes,
        bytes=stored,
        layout=t.source.layout,
        scale=p.source.note,
        encoding=t.encoding,
        packing=t.packing,
        direction=t.direction,
        k=t.k,
        bits_per_weight=t.bits_per_weight,
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
