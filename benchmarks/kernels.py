"""Time the kernels in use with the shapes of real layers, for one vector and for batches.

    python benchmarks/kernels.py [--shapes 2560x2560,...] [--json] [--markdown]

Shapes are out_features x in_features: those of bitnet-b1.58-2B-4T, then of models with 7 to 8
billion weights. Weights are uniform random ternary. Timing is that of `rsrc bench` (see README.md),
which also measures baselines, other instruction sets and other packings of one shape. The tables
show the best turn of each kernel; the JSON has medians too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from reporting import Lines, Row, measuring_parser, report
from rsrc import bench

SHAPES = "2560x2560,640x2560,6912x2560,2560x6912,4096x4096,14336x4096,4096x14336"
BATCHES = (2, 4, 8, 16, 32, 64, 256)


def run(shape: str, seconds: float) -> list[Row]:
    """Return the rows of one shape, with the keys that README.md documents."""
    m, n = map(int, shape.split("x"))
    found = bench.bench_shape(m, n, seconds=seconds, batches=BATCHES, compare=False)
    rows: list[Row] = found["results"]
    return rows


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, Lines]]:
    kernels: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        m, n = row["shape"]
        key = (f"{m} x {n}", row["dtype"], str(row["threads"]))
        kernels.setdefault(key, []).append(row)
    same = ["W", "x", "threads"]
    one = [[*same, "cache", "memory", "of a plain read"]]
    several = [[*same, *map(str, (1, *BATCHES))]]
    for key, found in kernels.items():
        cache, *rest = found  # in the order of measuring: cache, memory if any, batches
        memory = [row for row in rest if row["level"] == "memory"]
        ratios = [f"{row['ratio_to_plain_read']:.0%}" for row in memory]
        one.append([*key, _rate(cache), *map(_rate, memory), *ratios])
        single = cache["seconds_best"]
        batches = [row for row in rest if row["vectors"] > 1]
        shares = [row["seconds_best"] / row["vectors"] / single for row in batches]
        cells = [f"{_rate(row)} ({s:.2f})" for row, s in zip(batches, shares, strict=True)]
        several.append([*key, _rate(cache), *cells])
    yield "One vector: weights/ns", one
    yield "Batches from cache: multiply-adds/ns (time per vector / time of one alone)", several


def _rate(row: Row) -> str:
    return f"{row['vectors'] * row['weights'] / row['seconds_best'] / 1e9:.0f}"


def main() -> None:
    parser = measuring_parser(__doc__, 8.0, "shape")
    parser.add_argument("--shapes", default=SHAPES, metavar="MxN,...")
    options = parser.parse_args()
    rows = []
    with Console(stderr=True).status("") as status:
        for shape in options.shapes.split(","):
            status.update(shape)
            rows += run(shape, options.seconds)
    report(options, rows, tables(rows), left=3)


if __name__ == "__main__":
    main()
