"""Contenders, and how they take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from rsr_formats.errors import RsrError
from rsr_runtime import _native

Bytes = npt.NDArray[np.uint8]
Turn = tuple[float, float]  # seconds per product, and per plain read of the same bytes

_TURN = 0.008  # seconds of products in one turn
_FEWEST_ROUNDS = 3  # whatever the time box says
_MOST_PRODUCTS = 8192  # in one turn
_SETTLE = 0.03  # seconds that idle threads of a BLAS library may go on spinning


class WrongResultError(RsrError):
    """A product that was being timed gave a wrong result."""


@dataclass(frozen=True)
class Operand:
    """One copy of the weights in the form some engine wants, and the bytes it consists of."""

    weights: Any
    parts: tuple[Bytes, ...]

    @property
    def nbytes(self) -> int:
        """Bytes a product reads."""
        return sum(len(p) for p in self.parts)


@dataclass(frozen=True)
class Label:
    """The keys of a row that say what it is, None where there is nothing to say."""

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

    `copies` goes round for ever: next is the copy that was not used for the longest time.
    `multiply` takes an operand's weights; `check` takes what it returned, and returns what is
    wrong with it, in words, or None.
    """

    label: Label
    copies: Iterator[Operand]
    weights: int
    multiply: Callable[[Any], Any]
    check: Callable[[Any], str | None]


def measure(
    contenders: Sequence[Contender], seconds: float, report: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Give all contenders turns, round after round, for `seconds`; return their rows.

    `report` is called with the fraction of the time that has passed.
    """
    turns: list[list[Turn]] = [[] for _ in contenders]
    isa, threads = rsr.cpu_info()["isa"], rsr.get_num_threads()
    others = max(c.label.threads for c in contenders) - 1
    start, rounds, passed = time.perf_counter(), 0, 0.0
    try:
        with ThreadPoolExecutor(max(1, others)) as pool:
            while rounds < _FEWEST_ROUNDS or passed < seconds:
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
    """Time products for a few milliseconds and plain reads of as many copies, in either order."""
    if len(before) % 2 == 0:
        product, count = _time_products(c)
        return product, _time_plain_reads(c, count, pool)
    plain = _time_plain_reads(c, max(1, round(_TURN / before[-1][0])), pool)
    return _time_products(c)[0], plain


def _time_products(c: Contender) -> tuple[float, int]:
    """Return seconds per product, and how many there were; only `multiply` is timed.

    The median of a turn: a product that lost the processor to another process does not count.
    """
    if c.label.isa is not None:
        rsr.use_isa(c.label.isa)
    rsr.set_num_threads(c.label.threads)
    if c.label.level == "cache":  # the caches should hold what they can of the operand
        _check(c, c.multiply(next(c.copies).weights))
    times: list[float] = []
    end = time.perf_counter() + _TURN
    while not times or (time.perf_counter() < end and len(times) < _MOST_PRODUCTS):
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
        what = ", ".join(f"{k} {v}" for k, v in vars(c.label).items() if v is not None)
        raise WrongResultError(f"a product that was timed is wrong: {wrong} ({what})")


def _time_plain_reads(c: Contender, count: int, pool: ThreadPoolExecutor) -> float:
    """Return seconds per plain read of one operand, by as many threads as the product has.

    It is always read with the best instruction set: the limit is the machine's.
    """
    rsr.use_isa(rsr.cpu_info()["supported_isas"][0])
    operands = [next(c.copies) for _ in range(count)]
    if c.label.level == "cache":
        _plain_read(operands[0].parts)
    threads = c.label.threads
    if threads > 1:  # in one go, as handing out the work takes time
        parts = shares(operands, threads)
        start = time.perf_counter()
        read_plainly(parts, pool)
        return (time.perf_counter() - start) / count
    times = []
    for operand in operands:
        start = time.perf_counter()
        _plain_read(operand.parts)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def shares(operands: Sequence[Operand], threads: int) -> list[list[Bytes]]:
    """Return what each thread reads of `operands`: an equal share of every array."""
    parts = [p for operand in operands for p in operand.parts]
    return [
        [p[len(p) * i // threads : len(p) * (i + 1) // threads] for p in parts]
        for i in range(threads)
    ]


def read_plainly(parts: Sequence[Sequence[Bytes]], pool: ThreadPoolExecutor) -> None:
    """Read all bytes, each of `parts` in a thread of its own, the first one in this thread."""
    others = [pool.submit(_plain_read, part) for part in parts[1:]]
    _plain_read(parts[0])
    for other in others:
        other.result()


def _plain_read(parts: Sequence[Bytes]) -> None:
    for part in parts:
        _native.plain_read(part)


def _row(c: Contender, turns: Sequence[Turn]) -> dict[str, Any]:
    products, plain_reads = zip(*turns, strict=True)
    median, plain = statistics.median(products), statistics.median(plain_reads)
    nbytes = next(c.copies).nbytes
    return {
        **vars(c.label),
        "rounds": len(turns),
        "seconds_best": min(products),
        "seconds_median": median,
        "weights": c.weights,
        "weights_per_ns": c.weights / median / 1e9,
        "macs_per_ns": c.label.vectors * c.weights / median / 1e9,
        "index_bytes": nbytes,
        "bits_per_weight": 8 * nbytes / c.weights,
        "gigabytes_per_second": nbytes / median / 1e9,
        "plain_read_gigabytes_per_second": nbytes / plain / 1e9,
        "ratio_to_plain_read": statistics.median(plain / product for product, plain in turns),
    }
