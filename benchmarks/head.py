"""Time products with an output head, of each type it may have, beside a plain read of its bytes.

    python benchmarks/head.py [--shape 128256x2560] [--types BF16,I8] [--vectors 1,4,16]
                              [--threads 1,2] [--isa avx512,avx2] [--seconds 4]

One vector is bound by reading the head from memory: the default shape, bitnet-b1.58-2B-4T's, is
larger than last-level caches (657 MB as bfloat16). Turn and turn about; the best of each counts.
`of a read` is the time of a plain read by as many threads over that of the product: 100 % is the
memory limit, and where prefetching helps a plain read too, beyond. int8 counts without quantizing
the vectors. NumPy float32 reads four bytes a weight; its own threads are not limited here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import rsr_runtime as rsr
from rsr_runtime import _native
from rsr_runtime.products import quantize_int8

Array = npt.NDArray[Any]

TYPES = ("BF16", "F16", "F32", "I8")
DISTINCT_ROWS = 4096  # drawn at random, then repeated: kernels cannot tell


def head(kind: str, m: int, n: int, rng: np.random.Generator) -> Array:
    """Draw W [m, n] as a file holds it."""
    rows = rng.standard_normal((min(m, DISTINCT_ROWS), n), np.float32)
    drawn: Array = rows
    if kind == "BF16":
        drawn = (rows.view(np.uint32) >> 16).astype(np.uint16)
    elif kind == "F16":
        drawn = rows.astype(np.float16)
    elif kind == "I8":
        drawn = rng.integers(-127, 128, rows.shape, np.int8)
    repeated: Array = np.resize(drawn, (m, n))
    return repeated


def product(kind: str, W: Array, x: Array, y: Array) -> Callable[[], None]:
    if kind != "I8":
        return lambda: _native.multiply_dense(W, kind, x, y)
    scale, (q, s) = np.full(len(W), 0.01, np.float32), quantize_int8(x)
    return lambda: _native.multiply_rows_i8(W, scale, q, s, y)


def plain_read(W: Array, threads: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    parts = np.array_split(W.reshape(-1).view(np.uint8), threads)

    def read() -> None:
        list(pool.map(_native.plain_read, parts))

    return read


def numpy_product(W: Array, x: Array) -> Callable[[], None]:
    def multiply() -> None:
        x @ W.T

    return multiply


def on(isa: str, work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        rsr.use_isa(isa)
        work()

    return run


def best(contenders: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """Return the shortest time of each, in seconds, of turns until `seconds` are over."""
    times = dict.fromkeys(contenders, float("inf"))
    end, turns = time.perf_counter() + seconds, 0
    while turns < 3 or time.perf_counter() < end:
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            times[name] = min(times[name], time.perf_counter() - start)
        turns += 1
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="128256x2560", metavar="MxN")
    parser.add_argument("--types", default="BF16,I8", help=f"of {','.join(TYPES)} (BF16,I8)")
    parser.add_argument("--vectors", default="1", help="multiplied at once (1)")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--isa", default=rsr.cpu_info()["isa"], help="default: the one in use")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row, at least (4)")
    options = parser.parse_args()
    m, n = map(int, options.shape.split("x"))
    widest, rng = rsr.cpu_info()["isa"], np.random.default_rng(0)
    table = Table(
        "type", "threads", "vectors", "kernels", "ms", "GB/s", "MAC/ns", "of a read", box=None
    )
    with ThreadPoolExecutor() as pool:
        for kind in options.types.split(","):
            W = head(kind, m, n, rng)
            for threads in map(int, options.threads.split(",")):
                rsr.set_num_threads(threads)
                for count in map(int, options.vectors.split(",")):
                    x = rng.standard_normal((count, n), np.float32)
                    y = np.empty((count, m), np.float32)
                    contenders = {"plain read": on(widest, plain_read(W, threads, pool))}
                    for isa in options.isa.split(","):
                        contenders[isa] = on(isa, product(kind, W, x, y))
                    if kind == "F32":
                        contenders["NumPy"] = numpy_product(W, x)
                    times = best(contenders, options.seconds)
                    for name, seconds in times.items():
                        table.add_row(
                            kind, str(threads), str(count), name, f"{seconds * 1e3:.1f}",
                            f"{W.nbytes / seconds / 1e9:.1f}",
                            f"{count * m * n / seconds / 1e9:.1f}",
                            f"{times['plain read'] / seconds:.0%}",
                        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
