"""The benchmark of a language model: the time of a token, and where it goes.

Rounds alternate between the numbers of threads, so that disturbances of the machine affect all of
them. Each run of tokens has plain reads of the bytes that a token reads right before and after it:
the mapped weights, and the keys and values of the positions that attention reads.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
import rsrc
from rsr_runtime import Matrix
from rsr_runtime.llm import LanguageModel, load

from ..common.errors import OptionError
from ..common.progress import ProgressFunction
from .timing import ByteArray, WrongResultError, plain_read, shares

SCHEMA = 1  # grows when the meaning of a key of the result changes
RUN = 16  # tokens decoded one after another
SHORT, MEDIUM = 16, 128  # tokens of prompts, besides the longest

_CONTEXT = 512  # tokens of the longest prompt by default
_OPENINGS = 3  # of the file, for each number of threads
_MIN_ROUNDS = 5  # however short the time
_READS = 2  # plain reads before a run, and as many after it
_OPENING = 0.1  # progress when rounds begin


def bench_model(
    path: str | os.PathLike[str],
    *,
    context: int | None = None,
    memory: str = "auto",
    activations: str = "trained",
    kv: str = "float16",
    threads: Sequence[int] = (),
    seconds: float = 20.0,
    seed: int = 0,
    progress: ProgressFunction | None = None,
) -> dict[str, Any]:
    """Time a language model: opening it, prefill, and decoding.

    Prompts are random tokens, so the file needs no tokenizer.

    Args:
        path: a `.rsr` file that holds a language model.
        context: tokens of the longest prompt; None: 512, or as many as the model's limit allows.
            Decoding is timed after it and after a short one.
        memory: "auto", "map" or "huge", as for `rsr_runtime.llm.load`. With "auto", the model moves
            into huge pages, as far as the system allows it, before tokens are timed.
        activations: "trained", "float32" or "int8-group", as for `rsr_runtime.llm.load`.
        kv: "float16", "float32" or "int8", as for `rsr_runtime.llm.load`.
        threads: numbers of threads to measure with; by default one, and as many as are in use.
        seconds: how long to measure, at least; opening the file takes longer.
        seed: of the tokens.
        progress: called as progress(what is measured, thousandths done, 1000).

    Returns:
        The result that benchmarks/README.md documents, ready for JSON.

    Raises:
        ModelError: the file holds no language model.
        FormatError: the file breaks a rule of its format.
        OptionError: an argument is out of range.
        WrongResultError: runs of the same tokens gave different logits.
        OSError: the file cannot be read.
    """

    def report(what: str, done: float) -> None:
        if progress is not None:
            progress(what, round(1000 * done), 1000)

    before = rsr.get_num_threads()
    counts = sorted(set(threads or (1, before)))
    report("reading the file", 0.0)
    tokens = _prepare(path, context, seed)
    loading: dict[str, Any] = {"memory": memory, "activations": activations, "kv": kv}
    loading["context"] = len(tokens) + 1
    times = [_Times(count) for count in counts]
    try:
        for done, own in enumerate(own for own in times for _ in range(_OPENINGS)):
            report("opening the file", _OPENING * done / (_OPENINGS * len(times)))
            rsr.set_num_threads(own.threads)
            _time_opening(own, path, loading, tokens)
        with (
            load(path, **loading) as model,
            ThreadPoolExecutor(max(counts)) as pool,
        ):
            model.use_huge_pages()
            session = _Session(model, tokens, pool)
            needed = _MIN_ROUNDS * len(times) * session.steps
            start, steps, passed = time.perf_counter(), 0, 0.0
            while steps < needed or passed < seconds:
                for own in times:
                    for what in session.round(own):
                        # Both the rounds and the time must be over.
                        share = min(1.0, steps / needed, passed / max(seconds, 1e-9))
                        report(what, _OPENING + (1 - _OPENING) * share)
                        steps += 1
                        passed = time.perf_counter() - start
                passed = time.perf_counter() - start
            report("", 1.0)
            rows = [_row(own, model) for own in times]
            described, in_huge_pages = _describe(model), model.huge_page_bytes()
    finally:
        rsr.set_num_threads(before)
    return {
        "schema": SCHEMA,
        "file": os.fspath(path),
        "file_bytes": Path(path).stat().st_size,
        "model": described,
        "memory": memory,
        "activations": activations,
        "kv": kv,
        "huge_page_bytes": in_huge_pages,
        "context": len(tokens) - RUN,
        "seed": seed,
        "machine": rsr.cpu_info(),
        "versions": {"rsr-ternary": rsrc.__version__, "numpy": version("numpy")},
        "peak_rss_bytes": _peak_rss(),
        "results": rows,
    }


@dataclass(frozen=True)
class _Run:
    """Seconds of one token of a run on average, in all and by phase, and of a plain read."""

    seconds: float
    phases: dict[str, float]
    plain_read: float


@dataclass
class _Times:
    """What was measured with one number of threads, in seconds; runs by tokens of context."""

    threads: int
    opening: list[float] = field(default_factory=list)
    opening_to_token: list[float] = field(default_factory=list)
    prefill: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    decode: defaultdict[int, list[_Run]] = field(default_factory=lambda: defaultdict(list))


def _prepare(path: str | os.PathLike[str], context: int | None, seed: int) -> list[int]:
    """Draw the tokens of the longest prompt and a run, and warm the page cache."""
    if context is not None and context < 1:
        raise OptionError(f"context: found {context}, expected at least 1")
    with load(path, memory="map") as model:
        limit = model.config.max_position_embeddings
        largest = limit - RUN - 1
        if largest < 1:
            raise OptionError(
                f"{os.fspath(path)}: the model's limit is {limit:,} tokens, too few to time: "
                f"{RUN} are decoded after a prompt"
            )
        if context is None:
            context = min(_CONTEXT, largest)
        if context > largest:
            raise OptionError(
                f"{os.fspath(path)}: context: found {context}, expected at most {largest}: the "
                f"model's limit is {limit:,} tokens, and {RUN} more are decoded"
            )
        rng = np.random.default_rng(seed)
        tokens: list[int] = rng.integers(0, model.config.vocab_size, context + RUN).tolist()
        model.next_logits(tokens[:1])
    return tokens


def _time_opening(
    own: _Times, path: str | os.PathLike[str], loading: dict[str, Any], tokens: Sequence[int]
) -> None:
    """Open the file once, and close it after the first token."""
    start = time.perf_counter()
    with load(path, **loading) as model:
        own.opening.append(time.perf_counter() - start)
        model.next_logits(tokens[: min(SHORT, len(tokens) - RUN)])
        own.opening_to_token.append(time.perf_counter() - start)


class _Session:
    """Measures one open model, round by round."""

    def __init__(
        self, model: LanguageModel, tokens: Sequence[int], pool: ThreadPoolExecutor
    ) -> None:
        self._model = model
        self._tokens = tokens
        self._pool = pool
        longest = len(tokens) - RUN
        self._contexts = {min(SHORT, longest), longest}  # after which tokens are decoded
        self._prompts = sorted({*self._contexts, min(MEDIUM, longest)}, reverse=True)
        self._logits: dict[int, npt.NDArray[np.float32]] = {}  # by context, of the first run
        self._own_isa = rsr.cpu_info()["isa"]
        self._best_isa = rsr.cpu_info()["supported_isas"][0]

    @property
    def steps(self) -> int:
        """Number of steps of a round."""
        return len(self._prompts) + len(self._contexts)

    def round(self, own: _Times) -> Iterator[str]:
        """Measure everything once; name each step before it begins."""
        rsr.set_num_threads(own.threads)
        for count in self._prompts:
            yield f"a prompt of {count} tokens"
            own.prefill[count].append(self._prefill(count))
            if count in self._contexts:
                yield f"tokens after a context of {count}"
                own.decode[count].append(self._decode(count, own.threads))

    def _prefill(self, count: int) -> float:
        """Return the seconds from a prompt to the logits of its first token."""
        # A sequence with another first token: the prompt then finds nothing in the KV cache.
        self._model.next_logits([(self._tokens[0] + 1) % self._model.config.vocab_size])
        start = time.perf_counter()
        self._model.next_logits(self._tokens[:count])
        return time.perf_counter() - start

    def _decode(self, context: int, threads: int) -> _Run:
        """Time a run of tokens; the KV cache holds the context."""
        parts = shares(self._model.arrays_per_token(context + RUN // 2), threads)
        reads = [self._plain_read(parts) for _ in range(_READS)]
        before = self._model.phase_seconds()
        start = time.perf_counter()
        for end in range(context + 1, context + RUN + 1):
            logits = self._model.next_logits(self._tokens[:end])
        seconds = (time.perf_counter() - start) / RUN
        after = self._model.phase_seconds()
        phases = {phase: (after[phase] - before[phase]) / RUN for phase in after}
        # The model counts no time between calls, which belongs to no other phase either.
        phases["rest"] += seconds - sum(phases.values())
        self._check(logits, context, threads)
        reads += [self._plain_read(parts) for _ in range(_READS)]
        return _Run(seconds, phases, statistics.median(reads))

    def _plain_read(self, parts: Sequence[Sequence[ByteArray]]) -> float:
        """Time a plain read with the best instruction set: it is the limit of the machine."""
        rsr.use_isa(self._best_isa)
        try:
            start = time.perf_counter()
            plain_read(parts, self._pool)
            return time.perf_counter() - start
        finally:
            rsr.use_isa(self._own_isa)

    def _check(self, logits: npt.NDArray[np.float32], context: int, threads: int) -> None:
        """Compare with the first run of the same tokens, on whichever number of threads."""
        first = self._logits.setdefault(context, logits.copy())
        if not np.array_equal(logits, first) or not np.isfinite(first).all():
            wrong = "are not finite" if np.array_equal(logits, first) else "differ between runs"
            raise WrongResultError(
                f"timed logits {wrong} ({threads} threads, after {context + RUN} tokens)"
            )


def _row(own: _Times, model: LanguageModel) -> dict[str, Any]:
    return {
        "threads": own.threads,
        "opening": {"times": len(own.opening), **_best_and_median(own.opening)},
        "opening_to_first_token": {
            "tokens": min(own.prefill),
            **_best_and_median(own.opening_to_token),
        },
        "prefill": [_prefill_row(*item) for item in sorted(own.prefill.items())],
        "decode": [_decode_row(*item, model) for item in sorted(own.decode.items())],
    }


def _prefill_row(tokens: int, times: Sequence[float]) -> dict[str, Any]:
    seconds = _best_and_median(times)
    return {
        "tokens": tokens,
        "rounds": len(times),
        **seconds,
        "tokens_per_second_best": tokens / seconds["seconds_best"],
        "tokens_per_second_median": tokens / seconds["seconds_median"],
    }


def _decode_row(context: int, runs: Sequence[_Run], model: LanguageModel) -> dict[str, Any]:
    """Summarize runs. Phases are those of the median run, so that they add up to its time."""
    median = sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
    best = min(run.seconds for run in runs)
    read = statistics.median(run.plain_read for run in runs)
    nbytes = model.bytes_per_token(context + RUN // 2)
    share = {phase: seconds / median.seconds for phase, seconds in median.phases.items()}
    return {
        "context": context,
        "tokens": RUN,
        "rounds": len(runs),
        "seconds_best": best,
        "seconds_median": median.seconds,
        "tokens_per_second_best": 1 / best,
        "tokens_per_second_median": 1 / median.seconds,
        "seconds_by_part": median.phases,
        "share_by_part": share,
        "share_outside_products": share["attention"] + share["rest"],
        "bytes_per_token": nbytes,
        "gigabytes_per_second": nbytes / median.seconds / 1e9,
        "plain_read_seconds": read,
        "plain_read_gigabytes_per_second": nbytes / read / 1e9,
        "ratio_to_plain_read": statistics.median(run.plain_read / run.seconds for run in runs),
    }


def _best_and_median(times: Sequence[float]) -> dict[str, float]:
    return {"seconds_best": min(times), "seconds_median": statistics.median(times)}


def _describe(model: LanguageModel) -> dict[str, Any]:
    config, weights = model.config, [one.weight for one in model.weights.linear]
    matrices, head = [w for w in weights if isinstance(w, Matrix)], weights[-1]
    return {
        "architecture": config.architecture.name,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "indexed_weights": sum(w.shape[0] * w.shape[1] for w in matrices),
        "head": f"{head.bits_per_weight:.2f} bits" if isinstance(head, Matrix) else head.dtype,
    }


def _peak_rss() -> int | None:
    """Return the peak resident memory of this process in bytes; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
