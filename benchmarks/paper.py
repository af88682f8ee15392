"""Repeat the experiment of the RSR paper (arXiv 2411.06360): v . A for random n x n matrices.

    python benchmarks/paper.py [--sizes 11-13] [--json] [--markdown] [--plot-dir DIR]

Binary (0, 1) and ternary (-1, 0, 1) matrices A, n = 2^11 to 2^15, one vector v, one thread:

* NumPy's v @ A, the baseline: dense float32, which OpenBLAS multiplies, and, up to 2^12, dense
  int64, for which NumPy uses the standard algorithm without BLAS.
* RSR and RSR++, the paper's algorithms, on the paper's index: column blocks of A, each with a
  permutation of its rows and a segment list. This runtime stores W with y = W x, so A is W
  transposed, and its index has direction "reduce". As in the paper, k is the fastest: here of five
  around the choice of the compiler's cost model. The size of the index is that for the same k.
* ranked, the compiler's default encoding, with float32 v and with int8 v.

Timing is interleaved as in `rsrc bench`, and every timed product is checked: int8 exactly, float32
against the bound that `rsr_runtime.Matrix` promises. The time of an engine is its best turn, each
turn being the median of its products. n = 2^15 takes 10 GB of memory and 4 GB of temporary files.
"""

from __future__ import annotations

import os

# NumPy reads these when it is imported, and only then.
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

import rsr_runtime as rsr
from reporting import Lines, Row, measuring_parser, report
from rsr_formats.records import MAX_PATTERNS
from rsr_formats.text import counted
from rsrc import bench

Array = npt.NDArray[Any]
Curves = dict[tuple[str, str], list[tuple[int, float, float]]]  # (n, value, factor) by (kind, name)

LOWEST = {"binary": 0, "ternary": -1}  # entry of a matrix; the highest is 1
LARGEST_INTEGER = 12  # log2 of the largest n for dense int64, which is slow
ENGINES = ("NumPy int64", "NumPy float32", "RSR", "RSR++", "ranked float32", "ranked int8")
BASELINE = "NumPy float32"
PACKED_BITS = {"binary": 1, "ternary": 2}  # of an entry
DENSE_BITS = {"int64": 64, "float32": 32, "int8": 8}  # of an entry
COLORS = {
    "dense int64": "#8f8f8f",
    "dense float32": "#5f5f5f",
    "dense int8": "#8f8f8f",
    "1 bit packed": "#e0955a",
    "2 bits packed": "#e0955a",
    "RSR++ index": "#3f8f86",
    "ranked index": "#12558c",
    "NumPy int64": "#8f8f8f",
    "NumPy float32": "#5f5f5f",
    "RSR": "#6fb5aa",
    "RSR++": "#3f8f86",
    "ranked float32": "#4a98d6",
    "ranked int8": "#12558c",
}


def run(kind: str, n: int, seconds: float, rng: np.random.Generator) -> list[Row]:
    """Time all engines with one random matrix; return a row for each, with the fastest k."""
    A = rng.integers(LOWEST[kind], 2, (n, n), np.int8)
    W = np.ascontiguousarray(A.T)
    base, index = 2 - LOWEST[kind], {"encoding": "permuted", "direction": "reduce"}
    ranked, default = bench.compile_matrix(W, {}, index)
    around = range(max(1, default.k - 2), default.k + 3)
    others = [{**index, "k": k} for k in around if k != default.k and base**k <= MAX_PATTERNS]
    permuted = [default, *bench.compile_matrix(W, *others)]
    reference = bench.reference_products(ranked, W, rng)
    del W
    contenders = [
        _dense(kind, A, dtype, reference.x[source], reference.y[source])
        for dtype, source in (("float32", "float32"), ("int64", "int8"))
        if dtype == "float32" or n <= 1 << LARGEST_INTEGER
    ]
    del A
    labels = [(ranked, label) for label in bench.kernels_in_use(ranked, 1)]
    labels += [(w, label) for w in permuted for label in bench.by_algorithm(w, "rsr", "rsr++")]
    for matrix, label in labels:
        product = bench.compiled_product(label, matrix, reference)
        copies = cycle([bench.compiled_operand(matrix)])
        contenders.append(bench.Contender(label, copies, n * n, *product))
    found: dict[str, Row] = {}
    for row in bench.measure(contenders, seconds):
        engine = _engine(row)
        row |= {"engine": engine, "matrix": kind, "n": n}
        if engine not in found or row["seconds_best"] < found[engine]["seconds_best"]:
            found[engine] = row
    baseline = found[BASELINE]["seconds_best"]
    return [
        {**found[engine], "speedup": baseline / found[engine]["seconds_best"]}
        for engine in ENGINES
        if engine in found
    ]


def _dense(kind: str, A: Array, dtype: str, x: Array, expected: bench.Expected) -> bench.Contender:
    dense, v = A.astype(dtype), x.astype(dtype)
    out = np.empty(len(A), dtype)
    operand = bench.Operand(dense, (dense.reshape(-1).view(np.uint8),))
    label = bench.Label(kind, dtype, 1, "numpy", shape=list(A.shape), encoding="dense")
    return bench.Contender(
        label, cycle([operand]), A.size, lambda a: np.matmul(v, a, out=out), expected.check
    )


def _engine(row: Row) -> str:
    if row["engine"] == "numpy":
        return f"NumPy {row['dtype']}"
    if row["encoding"] == "permuted":
        return str(row["algorithm"]).upper()
    return f"ranked {row['dtype']}"


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, Lines]]:
    cases = list(dict.fromkeys((row["matrix"], row["n"]) for row in rows))
    by_case = {(row["matrix"], row["n"], row["engine"]): row for row in rows}
    lines = [["A", "n", *ENGINES]]
    for kind, n in cases:
        found = [by_case.get((kind, n, engine)) for engine in ENGINES]
        lines.append([kind, _power(n), *map(_time, found)])
    yield f"Time of v . A (speed-up over {BASELINE})", lines
    lines = [["A", "n", *DENSE_BITS, "packed", "RSR", "RSR++", "ranked"]]
    for kind, n in cases:
        dense = [_size(bits * n * n / 8) for bits in (*DENSE_BITS.values(), PACKED_BITS[kind])]
        index = [by_case[kind, n, engine] for engine in ("RSR", "RSR++", "ranked int8")]
        sizes = [f"{_size(r['index_bytes'])} ({r['bits_per_weight']:.2f})" for r in index]
        lines.append([kind, _power(n), *dense, *sizes])
    yield "Memory (bits per entry); packed: 1 bit per binary, 2 bits per ternary entry", lines


def _time(row: Row | None) -> str:
    if row is None:
        return ""
    k = f", k={row['k']}" if row["encoding"] == "permuted" else ""
    return f"{_duration(row['seconds_best'])} ({_times(row['speedup'])}{k})"


def _duration(seconds: float) -> str:
    return f"{_digits(seconds * 1e3)} ms"


def _size(nbytes: float) -> str:
    return f"{_digits(nbytes / 1e6)} MB"


def _digits(value: float) -> str:
    """Format with two significant digits, or all digits before the point."""
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}"


def _times(factor: float) -> str:
    return f"{factor:.{0 if factor >= 9.5 else 1 if factor >= 0.95 else 2}f}x"


def _power(n: int) -> str:
    return f"2^{n.bit_length() - 1}"


def plot(rows: Sequence[Row], folder: Path) -> None:
    """Write paper-time.png and paper-memory.png."""
    folder.mkdir(parents=True, exist_ok=True)
    times: Curves = {}
    memory: Curves = {}
    for row in sorted(rows, key=lambda r: int(r["n"])):
        kind, engine, n = row["matrix"], row["engine"], row["n"]
        times.setdefault((kind, engine), []).append((n, row["seconds_best"], row["speedup"]))
        if engine == BASELINE:
            bits = {f"dense {dtype}": float(b) for dtype, b in DENSE_BITS.items()}
            bits[f"{counted(PACKED_BITS[kind], 'bit')} packed"] = PACKED_BITS[kind]
        else:
            name = {"RSR++": "RSR++ index", "ranked int8": "ranked index"}.get(engine)
            bits = {name: row["bits_per_weight"]} if name else {}
        for name, b in bits.items():
            memory.setdefault((kind, name), []).append((n, b, DENSE_BITS["float32"] / b))
    processor = rsr.cpu_info()["processor"]
    title = f"Time of v · A on one thread of {processor}; factors: speed-up over {BASELINE}"
    _draw(times, title, {10.0**e: _tick(10.0**e) for e in range(-6, 3)}, folder / "paper-time.png")
    title = "Memory of A in bits per entry; factors: times smaller than float32"
    _draw(memory, title, {2.0**e: str(2**e) for e in range(7)}, folder / "paper-memory.png")


def _tick(seconds: float) -> str:
    return f"{seconds * 1e6:g} µs" if seconds < 1e-3 else f"{seconds * 1e3:g} ms"


def _draw(curves: Curves, title: str, ticks: dict[float, str], path: Path) -> None:
    """Draw a panel for each kind of matrix, with curves labeled at their ends."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(kind for kind, _ in curves))
    sizes = sorted({n for points in curves.values() for n, _, _ in points})
    values = [value for points in curves.values() for _, value, _ in points]
    low, high = min(values) / 1.4, max(values) * 1.4
    figure = Figure((10, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for axes, kind in zip(
        figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True
    ):
        own = {name: points for (k, name), points in curves.items() if k == kind}
        axes.set(xscale="log", yscale="log", ylim=(low, high), xlabel="n")
        for name, points in own.items():
            xs, ys, _ = zip(*points, strict=True)
            axes.plot(xs, ys, color=COLORS[name], marker="o", markersize=4, linewidth=2)
        gap = (high / low) ** 0.055  # of two lines of text
        last = {name: points[-1] for name, points in own.items()}
        ends = {name: y for name, (x, y, _) in last.items() if x == sizes[-1]}
        heights = {**{name: y for name, (_, y, _) in last.items()}, **_apart(ends, gap)}
        for name, (x, _, factor) in last.items():
            text = name if factor == 1 else f"{name}  {_times(factor)}"
            label = axes.text(1.1 * x, heights[name], text, color=COLORS[name], fontsize=9)
            label.set(va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axes.set_xticks(sizes, [f"$2^{{{n.bit_length() - 1}}}$" for n in sizes])
        shown = [tick for tick in ticks if low <= tick <= high]
        axes.set_yticks(shown, [ticks[tick] for tick in shown])
        axes.minorticks_off()
        axes.tick_params(labelsize=9, length=0)
        axes.set_title(kind, fontsize=10, fontweight="bold", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
    figure.savefig(path, dpi=150)


def _apart(places: dict[str, float], gap: float) -> dict[str, float]:
    """Move places apart, little by little, until each is at least `gap` times the one below."""
    names = sorted(places, key=lambda name: places[name])
    moved = dict(places)
    for _ in range(100):
        for a, b in pairwise(names):
            short = gap * moved[a] / moved[b]
            if short > 1:
                moved[a] /= math.sqrt(short)
                moved[b] *= math.sqrt(short)
    return moved


def _sizes(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return [1 << e for e in range(int(first), int(last or first) + 1)]


def main() -> None:
    parser = measuring_parser(__doc__, 6.0, "matrix")
    parser.add_argument(
        "--sizes", type=_sizes, default="11-13", metavar="A-B", help="n = 2^A to 2^B (11-13)"
    )
    parser.add_argument("--plot-dir", type=Path, metavar="DIR")
    options = parser.parse_args()
    if options.plot_dir is not None:
        bench.require_matplotlib()
    rsr.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = []
    with Console(stderr=True).status("") as status:
        for kind in LOWEST:
            for n in options.sizes:
                status.update(f"{kind} {_power(n)}")
                rows += run(kind, n, options.seconds, rng)
    if options.plot_dir is not None:
        plot(rows, options.plot_dir)
    report(options, rows, tables(rows), left=2)


if __name__ == "__main__":
    main()
