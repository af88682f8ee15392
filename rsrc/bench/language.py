"""The benchmark of a whole language model: what a token costs, and where its time goes.

Rounds go over the numbers of threads in turn, so that what disturbs the machine disturbs all alike.
A run of tokens has plain reads of the very bytes that a token reads right before and behind it:
the weights where they are mapped, and the keys and values of the positions it looks back on.
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
from rsr_runtime import Matrix
from rsr_runtime.llm import LanguageModel, load
from rsr_runtime.llm.linear import Dense, Linear
from rsr_runtime.llm.phase_timer import PARTS

from .._version import __version__
from ..common.errors import OptionError
from ..common.progress import ProgressFunction
from .products import compiled_operand
from .turns import Bytes, Operand, WrongResultError, read_plainly, shares

SCHEMA = 1  # moves when the meaning of a key of the result does
RUN = 16  # tokens that are decoded one after another
SHORT, MEDIUM = 16, 128  # tokens of prompts, besides the longest

_OPENED = 3  # times, with each number of threads
_FEWEST_ROUNDS = 5  # whatever the time box says
_READS = 2  # plain reads before a run, and as many behind it
_OPENING = 0.1  # what is done of the whole, for progress, when rounds begin


def bench_model(
    path: str | os.PathLike[str],
    *,
    context: int = 512,
    memory: str = "map",
    threads: Sequence[int] = (),
    seconds: float = 20.0,
    seed: int = 0,
    progress: ProgressFunction | None = None,
) -> dict[str, Any]:
    """Time a language model: opening it, prompts, and tokens one by one.

    Prompts are random tokens, so the file needs no tokenizer.

    Args:
        path: a `.rsr` file that holds a language model.
        context: tokens of the longest prompt. Tokens are decoded behind it and behind a short one.
        memory: "map" or "huge", as `rsr_runtime.llm.load` takes it.
        threads: numbers of them to measure with; none: one, and as many as are in use.
        seconds: how long to measure, at least; opening the file comes on top.
        seed: of the tokens.
        progress: called as progress(what is measured, thousandths done, 1000).

    Returns:
        What benchmarks/README.md documents, ready for JSON.

    Raises:
        ModelError: the file holds no language model.
        FormatError: it breaks a rule of its format.
        OptionError: an argument is out of its range.
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
    times = [_Times(count) for count in counts]
    try:
        for done, own in enumerate(own for own in times for _ in range(_OPENED)):
            report("opening the file", _OPENING * done / (_OPENED * len(times)))
            rsr.set_num_threads(own.threads)
            _time_opening(own, path, memory, tokens)
        with (
            load(path, memory=memory, context=len(tokens) + 1) as model,
            ThreadPoolExecutor(max(counts)) as pool,
        ):
            turns = _Turns(model, tokens, pool)
            needed = _FEWEST_ROUNDS * len(times) * turns.steps
            start, steps, passed = time.perf_counter(), 0, 0.0
            while steps < needed or passed < seconds:
                for own in times:
                    for what in turns.take(own):
                        # The fewest rounds and the time box must both be over.
                        share = min(1.0, steps / needed, passed / max(seconds, 1e-9))
                        report(what, _OPENING + (1 - _OPENING) * share)
                        steps += 1
                        passed = time.perf_counter() - start
                passed = time.perf_counter() - start
            report("", 1.0)
            rows = [_row(own, model) for own in times]
            described = _describe(model)
    finally:
        rsr.set_num_threads(before)
    return {
        "schema": SCHEMA,
        "file": os.fspath(path),
        "file_bytes": Path(path).stat().st_size,
        "model": described,
        "memory": memory,
        "context": context,
        "seed": seed,
        "machine": rsr.cpu_info(),
        "versions": {"rsr-ternary": __version__, "numpy": version("numpy")},
        "peak_rss_bytes": _peak_rss(),
        "results": rows,
    }


@dataclass(frozen=True)
class _Run:
    """A run of tokens: seconds of one on average, in all and by part, and of a plain read."""

    seconds: float
    parts: dict[str, float]
    read: float


@dataclass
class _Times:
    """What was measured with one number of threads: seconds, and runs by tokens of context."""

    threads: int
    opening: list[float] = field(default_factory=list)
    opening_to_token: list[float] = field(default_factory=list)
    prefill: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    decode: defaultdict[int, list[_Run]] = field(default_factory=lambda: defaultdict(list))


def _prepare(path: str | os.PathLike[str], context: int, seed: int) -> list[int]:
    """Return random tokens, of the longest prompt and a run; afterwards the page cache is warm."""
    if context < 1:
        raise OptionError(f"context: found {context}, expected at least 1")
    with load(path) as model:
        most = model.config.max_positions
        if context + RUN >= most:
            raise OptionError(
                f"context: found {context}, expected at most {most - RUN - 1}: the model's limit "
                f"is {most:,} tokens, and {RUN} more are decoded"
            )
        rng = np.random.default_rng(seed)
        tokens: list[int] = rng.integers(0, model.config.vocab_size, context + RUN).tolist()
        model.next_logits(tokens[:1])
    return tokens


def _time_opening(
    own: _Times, path: str | os.PathLike[str], memory: str, tokens: Sequence[int]
) -> None:
    """Open the file once; nothing of the model is left behind."""
    start = time.perf_counter()
    with load(path, memory=memory, context=len(tokens) + 1) as model:
        own.opening.append(time.perf_counter() - start)
        model.next_logits(tokens[: min(SHORT, len(tokens) - RUN)])
        own.opening_to_token.append(time.perf_counter() - start)


class _Turns:
    """Gives each number of threads its turns at one model."""

    def __init__(
        self, model: LanguageModel, tokens: Sequence[int], pool: ThreadPoolExecutor
    ) -> None:
        self._model = model
        self._tokens = tokens
        self._pool = pool
        longest = len(tokens) - RUN
        self._decoded = {min(SHORT, longest), longest}  # behind how many tokens
        self._prompts = sorted({*self._decoded, min(MEDIUM, longest)}, reverse=True)
        self._logits: dict[int, npt.NDArray[np.float32]] = {}  # at the end of the first run
        self._own_isa = rsr.cpu_info()["isa"]
        self._best_isa = rsr.cpu_info()["supported_isas"][0]

    @property
    def steps(self) -> int:
        """How many of them a turn has."""
        return len(self._prompts) + len(self._decoded)

    def take(self, own: _Times) -> Iterator[str]:
        """Measure everything once; before each step say what it is."""
        rsr.set_num_threads(own.threads)
        for count in self._prompts:
            yield f"a prompt of {count} tokens"
            own.prefill[count].append(self._prefill(count))
            if count in self._decoded:
                yield f"tokens behind a context of {count}"
                own.decode[count].append(self._decode(count, own.threads))

    def _prefill(self, count: int) -> float:
        """Return seconds from a prompt to the logits of its first token."""
        # Another first token: nothing of what the cache holds can be used again.
        self._model.next_logits([(self._tokens[0] + 1) % self._model.config.vocab_size])
        start = time.perf_counter()
        self._model.next_logits(self._tokens[:count])
        return time.perf_counter() - start

    def _decode(self, context: int, threads: int) -> _Run:
        """Time a run of tokens; the cache holds those before it."""
        operand = what_a_token_reads(self._model, context + RUN // 2)
        parts = shares([operand], threads)
        reads = [self._read(parts) for _ in range(_READS)]
        before = self._model.clock.seconds
        start = time.perf_counter()
        for end in range(context + 1, context + RUN + 1):
            logits = self._model.next_logits(self._tokens[:end])
        seconds = (time.perf_counter() - start) / RUN
        after = self._model.clock.seconds
        own = {part: (after[part] - before[part]) / RUN for part in PARTS}
        # The clock stands still between calls: that is none of the other parts either.
        own["rest"] += seconds - sum(own.values())
        self._check(logits, context, threads)
        reads += [self._read(parts) for _ in range(_READS)]
        return _Run(seconds, own, statistics.median(reads))

    def _read(self, parts: Sequence[Sequence[Bytes]]) -> float:
        """Time a plain read, always by the best instruction set: the limit is the machine's."""
        rsr.use_isa(self._best_isa)
        try:
            start = time.perf_counter()
            read_plainly(parts, self._pool)
            return time.perf_counter() - start
        finally:
            rsr.use_isa(self._own_isa)

    def _check(self, logits: npt.NDArray[np.float32], context: int, threads: int) -> None:
        """Compare with the first run of the same tokens, on any number of threads."""
        first = self._logits.setdefault(context, logits.copy())
        if not np.array_equal(logits, first) or not np.isfinite(first).all():
            wrong = "are not finite" if np.array_equal(logits, first) else "differ from run to run"
            raise WrongResultError(
                f"logits that were timed {wrong} ({threads} threads, after {context + RUN} tokens)"
            )


def what_a_token_reads(model: LanguageModel, positions: int) -> Operand:
    """Return the bytes that a token reads, where they lie: what `bytes_per_token` counts."""
    parts = [part for linear in model.weights.linear for part in _weight_bytes(linear)]
    for number in range(model.config.layers):
        keys, values = model._sequence.cache.layer(number)
        kept = values.shape[1]
        for array in (keys, values):
            # Of each head they lie in the order of positions.
            heads = array.reshape(len(array), -1).view(np.uint8)
            parts += [head[: len(head) * positions // kept] for head in heads]
    return Operand(model, tuple(parts))


def _weight_bytes(linear: Linear) -> list[Bytes]:
    weight = linear.weight
    if isinstance(weight, Matrix):
        return list(compiled_operand(weight).parts)
    arrays: list[npt.NDArray[Any]]
    arrays = [weight.stored] if isinstance(weight, Dense) else [weight.stored, weight.scale]
    return [a.reshape(-1).view(np.uint8) for a in arrays]


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
    best, median = min(times), statistics.median(times)
    return {
        "tokens": tokens,
        "rounds": len(times),
        "seconds_best": best,
        "seconds_median": median,
        "tokens_per_second_best": tokens / best,
        "tokens_per_second_median": tokens / median,
    }


def _decode_row(context: int, runs: Sequence[_Run], model: LanguageModel) -> dict[str, Any]:
    """Put runs together; parts are those of the median run, so that they add up to its time."""
    median = sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
    best, read = min(run.seconds for run in runs), statistics.median(run.read for run in runs)
    nbytes = model.bytes_per_token(context + RUN // 2)
    share = {part: seconds / median.seconds for part, seconds in median.parts.items()}
    return {
        "context": context,
        "tokens": RUN,
        "rounds": len(runs),
        "seconds_best": best,
        "seconds_median": median.seconds,
        "tokens_per_second_best": 1 / best,
        "tokens_per_second_median": 1 / median.seconds,
        "seconds_by_part": median.parts,
        "share_by_part": share,
        "share_outside_products": share["attention"] + share["rest"],
        "bytes_per_token": nbytes,
        "gigabytes_per_second": nbytes / median.seconds / 1e9,
        "plain_read_seconds": read,
        "plain_read_gigabytes_per_second": nbytes / read / 1e9,
        "ratio_to_plain_read": statistics.median(run.read / run.seconds for run in runs),
    }


def _best_and_median(times: Sequence[float]) -> dict[str, float]:
    return {"seconds_best": min(times), "seconds_median": statistics.median(times)}


def _describe(model: LanguageModel) -> dict[str, Any]:
    config, linear = model.config, model.weights.linear
    matrices = [one.weight for one in linear if isinstance(one.weight, Matrix)]
    head = linear[-1].weight
    if isinstance(head, Matrix):
        stored = f"{head.bits_per_weight:.2f} bits"
    else:
        stored = head.dtype if isinstance(head, Dense) else "I8"
    return {
        "architecture": config.architecture.name,
        "layers": config.layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "indexed_weights": sum(w.shape[0] * w.shape[1] for w in matrices),
        "head": stored,
    }


def _peak_rss() -> int | None:
    """Return the most memory this process had, in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10
