"""Measure constants of kernels on this processor, and print its row of the table of processors.

    python benchmarks/tune.py [--seconds 10] [--shape 4096x4096] [--head 128256x2560]
                             [--megabytes 1000] [--json]

The constants are in runtime/native/tuning.h, the table in runtime/native/processor.cpp. Candidates
run through the kernels of products, in turn with the constants in use, on one thread. A candidate
wins if it takes at least 1 % less time than what is in use. Send the printed row, with the tables,
to have your processor supported.

Thresholds of batch kernels are measured with one ternary matrix without groups. Those of slots for
groups, and every max_k, stay as they are. They are set by hand in processor.cpp: build with one,
then with another, and compare `python benchmarks/kinds.py --isa ISA --vectors 2,4,8,16,32`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from reporting import Lines, Row, Work, measuring_parser, report, time_in_turns
from rsr_runtime import Matrix, _native, kernels
from rsrc.bench.compiled import compile_matrix

Array = npt.NDArray[Any]
Tuning = _native.Tuning
Change = dict[str, Any]  # of attributes of a Tuning

KIB = 1024
DISTANCES = [(far * KIB, near * KIB) for far in (2, 4, 6, 8, 12, 16) for near in (0, 1, 2)]
STYLES = [
    {"tables_in_registers": registers, "shifts": shifts}
    for registers, shifts in itertools.product((False, True), repeat=2)
]
BATCHES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 48)
GAIN = 0.99  # a candidate wins if it takes at most this share of the time
NEVER = 1 << 30  # vectors
ROUNDS = 5  # however short the time


def prefetch_candidates() -> Iterator[Change]:
    """List distances for each instruction set that prefetches an index."""
    for field, (l2, l1) in itertools.product(("avx2", "avx512"), DISTANCES):
        yield {field: _native.PrefetchDistances(l2, l1)}


def changed(tuning: Tuning, change: Change) -> Tuning:
    """Return a copy of `tuning` with other attributes."""
    found = Tuning(tuning)
    for name, value in change.items():
        setattr(found, name, value)
    return found


def with_tuning(tuning: Tuning, work: Work) -> Work:
    def run(call: int) -> None:
        _native.use_tuning(tuning)
        work(call)

    return run


def name_of(change: Change) -> str:
    parts = []
    for name, value in change.items():
        if isinstance(value, _native.PrefetchDistances):
            parts.append(f"{name} {value.l2 // KIB} + {value.l1 // KIB} KiB")
        else:
            parts.append(f"{name} {str(value).lower()}")
    return ", ".join(parts)


class Tuner:
    """Finds the fastest constants, one choice after the other."""

    def __init__(self, seconds: float) -> None:
        self.best = _native.tuning()
        self.rows: list[Row] = []
        self._seconds = seconds

    def choose(self, what: str, isa: str, changes: Iterable[Change], works: Sequence[Work]) -> None:
        """Try changes on an instruction set; keep the fastest if it wins.

        Args:
            what: names the measurement.
            isa: of the kernels.
            changes: the candidates.
            works: what each candidate does in a turn; the mean of their ratios of time counts.
        """
        rsr.use_isa(isa)
        candidates = {"in use": self.best}
        candidates |= {name_of(change): changed(self.best, change) for change in changes}

        turns = {
            f"{name}/{i}": with_tuning(tuning, work)
            for name, tuning in candidates.items()
            for i, work in enumerate(works)
        }
        times = time_in_turns(turns, self._seconds, ROUNDS)
        ratios = {
            name: float(np.exp(np.mean([
                np.log(np.median(times[f"{name}/{i}"] / times[f"in use/{i}"]))
                for i in range(len(works))
            ])))
            for name in candidates
        }  # fmt: skip
        fastest = min(ratios, key=lambda name: ratios[name])
        if ratios[fastest] <= GAIN:
            self.best = candidates[fastest]
        _native.use_tuning(self.best)
        self.rows += [
            {"measured": what, "isa": isa, "candidate": name, "time": ratio,
             "chosen": candidates[name] is self.best}
            for name, ratio in ratios.items()
        ]  # fmt: skip

    def choose_threshold(
        self, slot: str, isa: str, multiply: Callable[[int], Work], limit: int
    ) -> int:
        """Find from how many vectors on a batch kernel is faster than those for fewer.

        Args:
            slot: of the kernel.
            isa: of the kernel.
            multiply: makes the product of that many vectors.
            limit: another kernel takes so many vectors and more.

        Returns:
            The number of vectors from which this kernel or that of `limit` is used.
        """
        rsr.use_isa(isa)
        others = [t for t in self.best.thresholds if (t.isa, t.slot) != (isa, slot)]

        counts = [count for count in BATCHES if count < limit]
        in_use = next(t for t in _native.thresholds() if t.slot == slot)
        now, max_k = in_use.min_vectors, in_use.max_k
        if not counts:
            return min(limit, now)
        works = {count: multiply(count) for count in counts}
        tunings = {
            least: changed(
                self.best, {"thresholds": [*others, _native.Threshold(isa, slot, least, max_k)]}
            )
            for least in (1, NEVER)
        }
        turns = {
            f"{least}/{b}": with_tuning(tuning, work)
            for b, work in works.items()
            for least, tuning in tunings.items()
        }
        times = time_in_turns(turns, self._seconds, ROUNDS)
        ratios = {b: float(np.median(times[f"1/{b}"] / times[f"{NEVER}/{b}"])) for b in counts}
        slower = [i for i, b in enumerate(counts) if ratios[b] > 1]
        first = slower[-1] + 1 if slower else 0
        least = counts[first] if first < len(counts) else NEVER
        _native.use_tuning(self.best)
        near = [b for b in counts if min(least, now) <= b < max(least, now)]
        if any(abs(ratios[b] - 1) > 1 - GAIN for b in near):
            threshold = _native.Threshold(isa, slot, least, max_k)
            self.best = changed(self.best, {"thresholds": [*others, threshold]})
            _native.use_tuning(self.best)
        else:
            least = now
        self.rows += [
            {"measured": f"{slot}, now from {now}", "isa": isa, "time": ratio,
             "candidate": f"{b} vectors", "chosen": least <= b}
            for b, ratio in ratios.items()
        ]  # fmt: skip
        return min(limit, least)


def vectors(matrix: Matrix, dtype: str, count: int, rng: np.random.Generator) -> Array:
    if dtype == "int8":
        return rng.integers(-128, 128, (count, matrix.shape[1]), np.int8)
    return rng.standard_normal((count, matrix.shape[1]), np.float32)


def rotating(matrix: Matrix, copies: int, dtype: str, rng: np.random.Generator) -> Work:
    """Return a product of one vector with copies of the matrix in turn."""
    x = vectors(matrix, dtype, 1, rng)
    y = np.empty((1, matrix.shape[0]), np.int32 if dtype == "int8" else np.float32)
    several = [matrix.copy(lambda nbytes: np.empty(nbytes, np.uint8)) for _ in range(copies)]
    turn = itertools.cycle(several)
    return lambda _: kernels.multiply_rows([next(turn)], x, [y])


def batch(matrix: Matrix, dtype: str, rng: np.random.Generator) -> Callable[[int], Work]:
    def multiply(count: int) -> Work:
        x = vectors(matrix, dtype, count, rng)
        y = np.empty((count, matrix.shape[0]), np.int32 if dtype == "int8" else np.float32)
        return lambda _: kernels.multiply_rows([matrix], x, [y])

    return multiply


def head(shape: str, rng: np.random.Generator) -> Work:
    m, n = map(int, shape.split("x"))
    W = np.resize(rng.integers(0, 1 << 14, (min(m, 1024), n), np.uint16), (m, n))
    x, y = np.ones((1, n), np.float32), np.empty((1, m), np.float32)
    return lambda _: kernels.multiply_dense(W, "BF16", x, y)


def tune(
    tuner: Tuner, shape: str, head_shape: str, memory_bytes: int, rng: np.random.Generator
) -> None:
    m, n = map(int, shape.split("x"))
    W = rng.integers(-1, 2, (m, n)).astype(np.int8)
    info = rsr.cpu_info()
    supported = info["supported_isas"]
    targets = ("avx2", "avx512")
    compiled = compile_matrix(W, *({"target": target} for target in targets))
    fitting = dict(zip(targets, compiled, strict=True))
    for isa, matrix in fitting.items():
        if isa not in supported:
            continue
        copies = max(2, memory_bytes // matrix.nbytes)
        memory = [rotating(matrix, copies, dtype, rng) for dtype in ("int8", "float32")]
        cache = [rotating(matrix, 1, dtype, rng) for dtype in ("int8", "float32")]
        if isa == "avx512":
            tuner.choose("lookups, cache and memory", isa, STYLES, [*cache, *memory])
        distances = [c for c in prefetch_candidates() if isa in c]
        tuner.choose("prefetch, memory", isa, distances, memory)
    in_use = info["isa"]
    orders = [{"dense_in_order": value} for value in (False, True)]
    tuner.choose("output head", in_use, orders, [head(head_shape, rng)])
    matrix = fitting["avx2" if in_use == "avx2" else "avx512"]
    if in_use != "scalar":
        rsr.use_isa(in_use)
        slots = [t.slot for t in _native.thresholds() if t.max_k >= matrix.k]
        for dtype, short in (("int8", "i8"), ("float32", "f32")):
            limit = NEVER
            for size in ("large", "medium", "small"):
                slot = f"{matrix.packing}_{short}.{size}_batch"
                if slot in slots:
                    some = batch(matrix, dtype, rng)
                    limit = tuner.choose_threshold(slot, in_use, some, limit)
    rsr.use_isa(in_use)


def cpp_row(tuning: Tuning) -> str:
    """Return the row of the table in runtime/native/processor.cpp."""
    vendor, family, _ = _native.processor()

    def distances(d: _native.PrefetchDistances) -> str:
        return f"{{{d.l2}, {d.l1}}}"

    flags = ("tables_in_registers", "shifts", "dense_in_order")
    constants = [distances(tuning.avx2), distances(tuning.avx512)]
    constants += [str(getattr(tuning, flag)).lower() for flag in flags]
    thresholds = [
        f'{{"{t.isa}", "{t.slot}", {t.min_vectors}, {t.max_k}}}' for t in tuning.thresholds
    ]
    return (
        f'{{{{"{vendor}", {family}, {family}}},\n'
        f' {{{{{", ".join(constants)}}}, "{vendor} {family}", {{{", ".join(thresholds)}}}}}}},'
    )


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, Lines]]:
    lines = [["measured", "isa", "candidate", "time", "chosen"]]
    lines += [
        [row["measured"], row["isa"], row["candidate"], f"{row['time']:.3f}",
         "yes" if row["chosen"] else ""]
        for row in rows
    ]  # fmt: skip
    yield "Time over that of the constants in use", lines


def main() -> None:
    parser = measuring_parser(__doc__, 10.0, "choice")
    parser.add_argument("--shape", default="4096x4096", metavar="MxN")
    parser.add_argument("--head", default="128256x2560", metavar="MxN")
    parser.add_argument("--megabytes", type=int, default=1000, help="of copies in memory (1000)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rsr.set_num_threads(1)
    tuner = Tuner(options.seconds)
    tune(tuner, options.shape, options.head, options.megabytes * 10**6, rng)
    report(options, tuner.rows, tables(tuner.rows), left=3)
    if not options.as_json:
        print(cpp_row(tuner.best))


if __name__ == "__main__":
    main()
