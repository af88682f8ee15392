"""Interleaved timing: contenders take short turns, each next to a plain read of its bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import rsr_runtime as rsr
from rsr_formats.errors import RsrError

from ..common.arrays import ByteArray as ByteArray

_TURN = 0.008  # seconds of products in one turn
_MIN_ROUNDS = 3  # however short the time
_MAX_PRODUCTS = 8192  # in one turn
_SETTLE = 0.03  # seconds that idle threads of a BLAS library may keep spinning


class WrongResultError(RsrError):
    """A timed product or forward pass gave a wrong result."""


@dataclass(frozen=True)
class Operand:
    """One copy of the weights, in the form an engine takes, and the bytes a product reads."""

    weights: Any
    parts: tuple[ByteArray, ...]

    @property
    def nbytes(self) -> int:
        """ByteArray a product reads."""
        return sum(len(p) for p in self.parts)


@dataclass(frozen=True)
class Label:
    """The keys that identify a row of the result; None where a key does not apply."""

    matrix: str
    dtype: str
    threads: int
    engine: str = "rsr-ternary"
    level: str = "cache"
    shape: list[int] | None = None
    encoding: str | None = None
    packing: str | None = None
    direction: str | None = None
    k: int | None = None
    algorithm: str | None = None
    isa: str | None = None
    vectors: int = 1


@dataclass(frozen=True)
class Contender:
    """One row of the result: an engine with its settings, and copies of the weights.

    `copies` cycles forever, least recently used copy first. `multiply` takes an operand's weights.
    `check` takes a product and returns None, or a description of its error.
    """

    label: Label
    copies: Iterator[Operand]
    weights: int
    multiply: Callable[[Any], Any]
    check: Callable[[Any], str | None]


class Turn(NamedTuple):
    """Seconds of one product, and of one plain read of the same bytes."""

    product: float
    plain_read: float


def measure(
    contenders: Sequence[Contender],
    seconds: float,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[dict[str, Any]]:
    """Time all contenders in turns, round after round.

    Args:
        contenders: what to time; the order changes from round to round.
        seconds: how long to measure, at least.
        report: called with the fraction of the time that has passed.

    Returns:
        One row for each contender, with the keys that benchmarks/README.md documents.

    Raises:
        WrongResultError: a product was wrong.
    """
    turns: list[list[Turn]] = [[] for _ in contenders]
    isa, threads = rsr.cpu_info()["isa"], rsr.get_num_threads()
    workers = max(c.label.threads for c in contenders) - 1
    start, rounds, passed = time.perf_counter(), 0, 0.0
    try:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            while rounds < _MIN_ROUNDS or passed < seconds:
                for i in range(len(contenders)):
                    j = (i + rounds) % len(contenders)
                    turns[j].append(_turn(contenders[j], turns[j], pool))
                rounds += 1
                passed = time.perf_counter() - start
                report(min(1.0, passed / max(seconds, 1e-9)))
    finally:
        rsr.use_isa(isa)
        rsr.set_num_threads(threads)
    return [_row(c, own) for c, own in zip(contenders, turns, strict=True)]


def _turn(c: Contender, before: Sequence[Turn], pool: ThreadPoolExecutor) -> Turn:
    """Time products for a few milliseconds, and plain reads of as many copies.

    Reads come after the products in one turn and before them in the next.
    """
    if len(before) % 2 == 0:
        product, count = _time_products(c)
        return Turn(product, _time_plain_reads(c, count, pool))
    plain_read = _time_plain_reads(c, max(1, round(_TURN / before[-1].product)), pool)
    return Turn(_time_products(c)[0], plain_read)


def _time_products(c: Contender) -> tuple[float, int]:
    """Return the seconds of a product, and how many products the turn had.

    Only `multiply` is timed. The median discards products that were preempted.
    """
    if c.label.isa is not None:
        rsr.use_isa(c.label.isa)
    rsr.set_num_threads(c.label.threads)
    if c.label.level == "cache":  # warm up: the operand should be in the caches if it fits
        _check(c, c.multiply(next(c.copies).weights))
    times: list[float] = []
    end = time.perf_counter() + _TURN
    while not times or (time.perf_counter() < end and len(times) < _MAX_PRODUCTS):
        weights = next(c.copies).weights
        start = time.perf_counter()
        y = c.multiply(weights)
        times.append(time.perf_counter() - start)
        _check(c, y)
    if c.label.isa is None and c.label.threads > 1:
        time.sleep(_SETTLE)
    return statistics.median(times), len(times)


def _check(c: Contender, y: Any) -> None:
    wrong = c.check(y)
    if wrong is not None:
        label = ", ".join(f"{k} {v}" for k, v in vars(c.label).items() if v is not None)
        raise WrongResultError(f"a timed product is wrong: {wrong} ({label})")


def _time_plain_reads(c: Contender, count: int, pool: ThreadPoolExecutor) -> float:
    """Return the seconds of a plain read of one operand, on as many threads as the product uses.

    Reads always use the best instruction set, because they stand for the limit of the machine.
    """
    rsr.use_isa(rsr.cpu_info()["supported_isas"][0])
    operands = [next(c.copies) for _ in range(count)]
    if c.label.level == "cache":
        _read(operands[0].parts)
    threads = c.label.threads
    if threads > 1:  # all copies in one go: starting the threads takes time
        parts = shares([p for operand in operands for p in operand.parts], threads)
        start = time.perf_counter()
        plain_read(parts, pool)
        return (time.perf_counter() - start) / count
    times = []
    for operand in operands:
        start = time.perf_counter()
        _read(operand.parts)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def shares(parts: Sequence[ByteArray], threads: int) -> list[list[ByteArray]]:
    """Divide the arrays among threads: each thread reads an equal share of every array."""
    return [
        [p[len(p) * i // threads : len(p) * (i + 1) // threads] for p in parts]
        for i in range(threads)
    ]


def plain_read(shares: Sequence[Sequence[ByteArray]], pool: ThreadPoolExecutor) -> None:
    """Read all bytes, one thread per share; the calling thread reads the first."""
    others = [pool.submit(_read, share) for share in shares[1:]]
    _read(shares[0])
    for other in others:
        other.result()


def _read(parts: Sequence[ByteArray]) -> None:
    for part in parts:
        rsr.kernels.plain_read(part)


def _row(c: Contender, turns: Sequence[Turn]) -> dict[str, Any]:
    median = statistics.median(turn.product for turn in turns)
    plain = statistics.median(turn.plain_read for turn in turns)
    nbytes = next(c.copies).nbytes
    return {
        **vars(c.label),
        "rounds": len(turns),
        "seconds_best": min(turn.product for turn in turns),
        "seconds_median": median,
        "weights": c.weights,
        "weights_per_ns": c.weights / median / 1e9,
        "macs_per_ns": c.label.vectors * c.weights / median / 1e9,
        "index_bytes": nbytes,
        "bits_per_weight": 8 * nbytes / c.weights,
        "gigabytes_per_second": nbytes / median / 1e9,
        "plain_read_gigabytes_per_second": nbytes / plain / 1e9,
        "ratio_to_plain_read": statistics.median(t.plain_read / t.product for t in turns),
    }
