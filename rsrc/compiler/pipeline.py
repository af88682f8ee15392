"""The compiler: load -> recognize -> plan -> index -> record -> write.

A source that arrives file by file (`--no-cache`) passes through all stages but the first in turn.

Memory. The tensors that workers hold, source bytes and results, take at most `workers.pool.BUDGET`
(384 MiB). A tensor that needs more than half of that is indexed by the main thread, in panels of 32
MiB; workers go on beside it within the same budget. So the peak is 512 MiB, including Python, or
the largest ternary tensor plus 256 MiB if that is more; with one thread, that tensor plus 128 MiB.
Scales of all tensors add 2 bytes each, or 4 where float16 is not exact. Dense tensors are streamed.
Compression takes up to 90 MB more per thread, at the highest levels. Each worker of an executor
holds one tensor and its index.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from rsr_formats import RsrFile, create
from rsr_formats.atomic import check_output
from rsr_formats.compression import compression_name
from rsr_formats.records import (
    REUSE,
    DenseTensor,
    FileEntry,
    Header,
    IndexedTensor,
    Section,
    Stack,
    Tensor,
)
from rsr_formats.writer import BytesLike, Packed, RsrWriter

from ..common.errors import OptionError
from ..common.progress import Advance, ByteCounter, Progress, ProgressFunction
from ..source.checkpoint import Checkpoint
from ..source.files import check_not_source
from ..source.hub.name import hub_name
from ..source.hub.stream import streamed
from ..source.open import open_checkpoint
from ..workers.pool import ExecutorLike, Workers, open_workers
from .head import WEIGHT, HeadPlan, find_head, write_head
from .options import CompileOptions
from .plan import IndexPlan, Plan
from .planner import Planner
from .recognize import PassthroughTensor, unmatched
from .record import Encoded, Encoder, encode, nbytes, renumbered, reused
from .report import Report, TensorReport, dense_report, head_reports, indexed_report, output_parts
from .reuse import PRODUCER, OldFile, ReuseEntry, content_hash, key_of
from .rotate import rotated
from .support import activation_notes, check_file

ORIGIN = "rsr.source"  # key of the metadata: the model of the Hub, with its commit

Written = tuple[list[Tensor], list[TensorReport]]


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
    executor: str | ExecutorLike | None = None,
    reuse: str | os.PathLike[str] | None = None,
    cache: bool = True,
    force: bool = False,
    progress: Progress | ProgressFunction | None = None,
) -> Report:
    """Compile a checkpoint to a `.rsr` file.

    Args:
        source: a .safetensors or .gguf file, a .safetensors.index.json or a model directory; or
            `hf://org/name[@revision][/file]`, a model of the Hugging Face Hub.
        output: the .rsr file. It appears only when it is complete.
        encoding: "auto", "ranked" or "permuted".
        target: "native", "generic", "avx2", "avx512" or "neon": where products will run.
        k: columns of a column block; None leaves it to the cost model.
        direction: "auto", "expand" or "reduce".
        quantize: "absmean", "absmedian" or "twn": make linear weights ternary that are not. This is
            post-training quantization, and lossy. Models whose config.json says that they quantize
            their own weights are recognized without this option.
        per: the weights that share a scale if `quantize` is given: "tensor" (the default), "row" or
            "group:N", N columns of a row.
        head: "int8" quantizes the output head to int8 with one scale per row: lossy, and half or a
            quarter of its bytes. If config.json ties the head to the embedding, the embedding is
            kept as well. The loss of logits is measured on the threads of rsr_runtime.
        include: glob patterns; only matching tensors are indexed.
        exclude: glob patterns; matching tensors stay dense.
        zstd: compress sections at this level (1 to 22); None leaves them mappable.
        threads: how many tensors are processed at once; None uses all processors, 1 works in the
            calling thread alone.
        executor: processes tensors instead of this process's threads: "dask://HOST:PORT" for the
            workers of a Dask scheduler, or an object with the `submit` of
            `concurrent.futures.Executor`. Workers read the source themselves, from the same paths.
            The output does not depend on the executor.
        reuse: an earlier .rsr file, which may be the output itself. What it holds of an unchanged
            tensor is copied instead of made again; the result has the same bytes. A damaged part is
            not copied. The file is trusted: its keys say which source a tensor was made of.
        cache: whether a model of the Hub is downloaded to the Hugging Face cache and stays there.
            If not, one file at a time is downloaded to a temporary folder beside the output, and
            removed before the next.
        force: replace an existing output.
        progress: called as progress(tensor name, bytes done, bytes in total). The total is the size
            of the source's tensors; recognizing a tensor is the first half of its bytes, writing it
            the second. If it also has a method `begin`, begin("recognizing" or "compiling",
            tensors) announces each phase. A download has a phase "downloading", with the bytes of
            each file.

    Raises:
        SourceError: the source is missing, damaged or not supported, or cannot be downloaded.
        MissingPackageError: downloading needs huggingface_hub.
        NothingToCompileError: no tensor is ternary or binary.
        OptionError: an option is out of range, the output is part of the source, or there is
            no head to quantize; or `reuse` is given with `executor`.
        FormatError: `reuse` is not a valid .rsr file.
        ExecutorError: the executor cannot be reached, or lost its workers.
        OutputExistsError: the output exists and `force` is not set, or it is not a regular file.
        OSError: reading or writing failed; no output is left behind.
    """
    start = time.perf_counter()
    options = CompileOptions(
        encoding=encoding, target=target, k=k, direction=direction, quantize=quantize, per=per,
        head=head, include=include, exclude=exclude, zstd=zstd, threads=threads, cache=cache,
        force=force,
    )  # fmt: skip
    with ExitStack() as stack:
        if reuse is not None and executor is not None:
            raise OptionError("reuse: an executor's workers do not read it: compile without")
        old = None if reuse is None else stack.enter_context(OldFile(reuse, zstd))
        is_local = executor is None
        checkpoint = stack.enter_context(load(source, output, options, is_local, progress))
        passes = _bytes_to_process(checkpoint, options)
        counter = ByteCounter(progress, checkpoint.stored_nbytes, passes)
        workers = stack.enter_context(open_workers(executor, options.thread_count))
        planner = Planner(checkpoint, options, workers, counter)
        batches: Iterable[list[Plan]] = stack.enter_context(closing(planner.plans()))
        if checkpoint.fetched is None:  # all is planned before the output is begun
            batches = [[*chain.from_iterable(batches)]]
        tensors, files, header = write(
            checkpoint, batches, planner, output, options, workers, counter, old
        )
        notes = (
            *checkpoint.notes,
            *_reuse_notes(header, old, tensors),
            *unmatched(checkpoint, options),
            *activation_notes(checkpoint, quantize, per),
        )
    output_bytes = Path(output).stat().st_size
    return Report(
        source=str(source),
        output=str(output),
        tensors=tuple(tensors),
        files=tuple(f.name for f in files),
        source_bytes=checkpoint.stored_nbytes,
        output_bytes=output_bytes,
        output_parts=output_parts(tensors, files, header.sections, output_bytes),
        seconds=time.perf_counter() - start,
        threads=options.thread_count,
        notes=notes,
        support=check_file(RsrFile(output)),
    )


@contextmanager
def load(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: CompileOptions,
    is_local: bool,
    progress: ProgressFunction | None,
) -> Iterator[Checkpoint]:
    """Stage 1: check the output and open the source, until the block ends.

    Args:
        source: see `compile`.
        output: see `compile`.
        options: see `compile`.
        is_local: whether only this process, with its working directory, opens the source.
        progress: shows downloads.
    """
    target = check_output(output, options.force)
    name = hub_name(source)
    if options.cache:
        path = source if is_local or name is not None else Path(source).absolute()
        checkpoint = open_checkpoint(path, progress)
        check_not_source(target, _files_read(checkpoint))
        yield checkpoint
        return
    if name is None:
        raise OptionError(f"cache: {source} is not downloaded: expected hf://ORG/NAME")
    if not is_local:
        raise OptionError("cache: an executor's workers need the files: compile without executor")
    with streamed(name, target, progress) as checkpoint:
        yield checkpoint


def write(
    checkpoint: Checkpoint,
    batches: Iterable[Sequence[Plan]],
    planner: Planner,
    output: str | os.PathLike[str],
    options: CompileOptions,
    workers: Workers,
    counter: ByteCounter,
    old: OldFile | None = None,
) -> tuple[list[TensorReport], list[FileEntry], Header]:
    """Stages 4 to 6: index every tensor, make its record, and write both.

    Workers index whole tensors ahead. This thread writes their results in order, streams dense
    tensors, and indexes in panels the tensors that are too large for one worker.

    Returns:
        The reports of all tensors, the model files and the header.
    """
    encoder = Encoder(options.zstd, workers.local if workers.is_local else None, old)
    records: list[Tensor] = []
    reports: list[TensorReport] = []
    with create(output, options.force, threaded=not workers.is_serial) as writer:
        out = _Output(writer, options.zstd, workers, counter.advance, old)
        for plans in batches:
            counter.begin("compiling", len(plans))
            with closing(workers.map(encoder, plans, partial(_cost, workers))) as encoded:
                for p, whole in encoded:
                    new_records, new_reports = out.write(p, whole)
                    records += new_records
                    reports += new_reports
        files = [
            FileEntry(name, out.add_file(name, file))
            for name, file in sorted(checkpoint.files.items())
        ]
        if old is not None:
            old.close()  # before the output, which may be the same file, is replaced
        tensors, used = rotated(records, planner.rotations)
        entry = ReuseEntry(compression_name(options.zstd), tuple(out.keys))
        header = writer.finish(
            producer=PRODUCER,
            metadata=_metadata(checkpoint),
            files=files,
            tensors=tensors,
            stacks=_whole_stacks(checkpoint, records),
            rotations=used,
            reuse=entry.encoded(),
        )
    return reports, files, header


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    own = {} if checkpoint.origin is None else {ORIGIN: checkpoint.origin}
    return {key: value for key, value in checkpoint.metadata.items() if key != REUSE} | own


def _reuse_notes(header: Header, old: OldFile | None, tensors: Sequence[TensorReport]) -> list[str]:
    notes = [] if old is None else old.notes(sum(t.reused and t.kind != "dense" for t in tensors))
    if header.reuse is None:
        notes.append("the file has no room for the keys of its tensors, so it cannot be reused")
    return notes


def _whole_stacks(checkpoint: Checkpoint, tensors: Sequence[Tensor]) -> list[Stack]:
    """Return the stacks of the source that the file can restore."""
    names = {t.name for t in tensors}
    names |= {a.name for t in tensors if isinstance(t, IndexedTensor) for a in t.source.auxiliary}
    return [s for s in checkpoint.stacks if names.issuperset(s.parts())]


@dataclass(frozen=True)
class _Output:
    """The file being written."""

    writer: RsrWriter
    zstd: int | None
    workers: Workers
    advance: Advance
    old: OldFile | None
    keys: list[bytes] = field(default_factory=list)  # of the indexed tensors so far

    def add(self, pieces: Iterable[BytesLike]) -> int:
        return self.writer.add(pieces, self.zstd)

    def add_file(self, name: str, file: Path | bytes) -> int:
        """Write a model file."""
        if self.old is not None and (s := self.old.file(name, _file_pieces(file))) is not None:
            return self.writer.copy(self.old.parts, s)
        return self.add(_file_pieces(file))

    def write(self, p: Plan, encoded: Encoded | None) -> Written:
        """Write one tensor; `encoded` is None if no worker has indexed it."""
        if isinstance(p, PassthroughTensor):
            return self._write_dense(p)
        if isinstance(p, HeadPlan):
            return self._write_head(p)
        return self._write_indexed(p, encoded)

    def _write_dense(self, p: PassthroughTensor) -> Written:
        t = p.tensor

        def pieces() -> Iterator[memoryview]:
            for piece in t.pieces():
                yield piece
                self.advance(t.name, len(piece))
            if not t.nbytes:
                self.advance(t.name, 0)

        found = None if self.old is None else self.old.dense(t)
        if self.old is not None and found is not None:
            section = self.writer.copy(self.old.parts, found)
            self.advance(t.name, t.nbytes)
        else:
            section = self.add(pieces())
        record = DenseTensor(t.name, t.dtype, t.shape, section)
        report = dense_report(record, t, self.writer.sections[-1], p.reason)
        return [record], [replace(report, reused=found is not None)]

    def _write_head(self, p: HeadPlan) -> Written:
        weight, scale, loss = write_head(p, self.add, self.advance)
        sections = self.writer.sections[-2:]
        return [weight, scale], head_reports((weight, scale), p.tensor, loss, sections)

    def _write_indexed(self, p: IndexPlan, encoded: Encoded | None) -> Written:
        first = len(self.writer.sections)
        done = self._index(p) if encoded is None else encoded
        for section in done.sections:
            if isinstance(section, Packed):
                self.writer.append(section)
            else:
                assert self.old is not None
                self.writer.copy(self.old.parts, section)
        record = renumbered(done.record, first) if done.sections else done.record
        self.keys.append(done.key)
        self.advance(p.source.name, p.source.nbytes)
        report = indexed_report(p.source, record, self.writer.sections[first:])
        is_reused = any(isinstance(section, Section) for section in done.sections)
        return [record], [replace(report, reused=is_reused)]

    def _index(self, p: IndexPlan) -> Encoded:
        """Write one tensor in panels, so that only panels of the result are in memory.

        Returns:
            Its record without sections, as they are written; or what is reused.
        """
        pool, threads = self.workers.pool, self.workers.threads
        with self.workers.local.buffer(p.source.tensor.nbytes) as buffer:
            raw = p.source.tensor.read(buffer)
            content: Callable[[], bytes] = partial(content_hash, raw)
            if pool is not None:  # beside the panels
                content = pool.submit(content).result
            key = None
            if self.old is not None:
                key = key_of(p, content())
                if (found := reused(p, key, self.old)) is not None:
                    return found
            record = encode(p, raw, self.add, pool, threads)
            return Encoded(record, (), key or key_of(p, content()))


def _cost(workers: Workers, p: Plan) -> int | None:
    """Return the bytes that an indexed tensor takes in this process; None: not for workers.

    A worker in another process holds the source bytes there; only its result comes here.
    """
    if not isinstance(p, IndexPlan) or workers.is_serial:
        return None
    return nbytes(p) + (p.source.tensor.nbytes if workers.is_local else 0)


def _bytes_to_process(checkpoint: Checkpoint, options: CompileOptions) -> int:
    total = 2 * checkpoint.nbytes
    if options.head is not None and (head := find_head(checkpoint)).name != WEIGHT:
        total += head.nbytes  # a tied embedding is read once more
    return total


def _files_read(checkpoint: Checkpoint) -> set[Path]:
    files = [file for file in checkpoint.files.values() if isinstance(file, Path)]
    files += [] if checkpoint.config_path is None else [checkpoint.config_path]
    return {checkpoint.path, *checkpoint.shards, *files}


def _file_pieces(file: Path | bytes) -> Iterator[bytes]:
    if isinstance(file, bytes):
        yield file
        return
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            yield piece
