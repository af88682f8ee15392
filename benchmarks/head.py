"""Time products with an output head of each dtype, and a plain read of its bytes.

    python benchmarks/head.py [--shape 128256x2560] [--types BF16,I8] [--vectors 1,4,16]
                              [--threads 1,2] [--isa avx512,avx2] [--seconds 4]

A product with one vector is bound by reading the head from memory: the default shape, that of
bitnet-b1.58-2B-4T, exceeds last-level caches (657 MB in bfloat16). Timing is interleaved, and the
best time of each contender counts. "of a read" is the time of a plain read on as many threads,
divided by that of the product: 100% is the memory limit, which a product may exceed where
prefetching would help a plain read too. The time of int8 excludes quantizing the vectors. NumPy
takes float32 only, four bytes per weight; its threads are not limited here.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from reporting import Lines, Row, Work, Works, measuring_parser, report, time_in_turns
from rsr_runtime import kernels

Array = npt.NDArray[Any]

TYPES = ("BF16", "F16", "F32", "I8")
ROUNDS = 3  # however short the time
DISTINCT_ROWS = 4096  # drawn at random, then repeated: kernels cannot tell


def head(dtype: str, m: int, n: int, rng: np.random.Generator) -> Array:
    """Draw a head (m, n) as a file holds it."""
    rows = rng.standard_normal((min(m, DISTINCT_ROWS), n), np.float32)
    drawn: Array = rows
    if dtype == "BF16":
        drawn = (rows.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "F16":
        drawn = rows.astype(np.float16)
    elif dtype == "I8":
        drawn = rng.integers(-127, 128, rows.shape, np.int8)
    repeated: Array = np.resize(drawn, (m, n))
    return repeated


def product(dtype: str, W: Array, x: Array, y: Array) -> Work:
    if dtype != "I8":
        return lambda _: kernels.multiply_dense(W, dtype, x, y)
    scale, (q, s) = np.full(len(W), 0.01, np.float32), kernels.quantize_int8(x)
    return lambda _: kernels.multiply_rows_i8(W, scale, q, s, y)


def plain_read(W: Array, threads: int, pool: ThreadPoolExecutor) -> Work:
    parts = np.array_split(W.reshape(-1).view(np.uint8), threads)
    return lambda _: list(pool.map(kernels.plain_read, parts))


def on(isa: str, work: Work) -> Work:
    def run(call: int) -> None:
        rsr.use_isa(isa)
        work(call)

    return run


def run(options: Any, m: int, n: int) -> Iterator[Row]:
    widest, rng = rsr.cpu_info()["isa"], np.random.default_rng(0)
    with ThreadPoolExecutor() as pool:
        for dtype in options.types.split(","):
            W = head(dtype, m, n, rng)
            for threads in map(int, options.threads.split(",")):
                rsr.set_num_threads(threads)
                for vectors in map(int, options.vectors.split(",")):
                    x = rng.standard_normal((vectors, n), np.float32)
                    y = np.empty((vectors, m), np.float32)
                    contenders: Works = {"plain read": on(widest, plain_read(W, threads, pool))}
                    for isa in options.isa.split(","):
                        contenders[isa] = on(isa, product(dtype, W, x, y))
                    if dtype == "F32":
                        contenders["NumPy"] = lambda _, x=x, W=W: x @ W.T  # type: ignore[misc]
                    found = time_in_turns(contenders, options.seconds, ROUNDS)
                    times = {name: float(t.min()) for name, t in found.items()}
                    for name, seconds in times.items():
                        yield {
                            "type": dtype, "threads": threads, "vectors": vectors, "kernels": name,
                            "seconds_best": seconds, "bytes": W.nbytes,
                            "multiply_adds": vectors * m * n,
                            "ratio_to_plain_read": times["plain read"] / seconds,
                        }  # fmt: skip


def table(rows: list[Row]) -> Lines:
    lines = [["type", "threads", "vectors", "kernels", "ms", "GB/s", "MAC/ns", "of a read"]]
    for r in rows:
        nanoseconds = 1e9 * r["seconds_best"]
        lines.append([
            r["type"], str(r["threads"]), str(r["vectors"]), r["kernels"],
            f"{nanoseconds / 1e6:.1f}", f"{r['bytes'] / nanoseconds:.1f}",
            f"{r['multiply_adds'] / nanoseconds:.1f}", f"{r['ratio_to_plain_read']:.0%}",
        ])  # fmt: skip
    return lines


def main() -> None:
    parser = measuring_parser(__doc__, 4.0, "row")
    parser.add_argument("--shape", default="128256x2560", metavar="MxN")
    parser.add_argument("--types", default="BF16,I8", help=f"of {','.join(TYPES)} (BF16,I8)")
    parser.add_argument("--vectors", default="1", help="multiplied at once (1)")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--isa", default=rsr.cpu_info()["isa"], help="default: the one in use")
    options = parser.parse_args()
    m, n = map(int, options.shape.split("x"))
    rows = list(run(options, m, n))
    report(options, rows, [(f"Output head, {m} x {n}", table(rows))], left=4)


if __name__ == "__main__":
    main()
