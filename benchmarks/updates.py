"""Time changes of a matrix in memory, as shares of encoding all of it.

    python benchmarks/updates.py

Random weights of a random ternary matrix get other random digits, in row-major order. `encode` is
the compiler's encoder alone, on one thread, from digits in memory; `compile` is `rsrc.compile` of
the same matrix, an int8 tensor of a file in the page cache, on one thread. Medians, in turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import rsr_runtime as rsr
import rsrc
from reporting import Row, Work, measuring_parser, report, time_in_turns
from rsrc import _native

SHAPE = 2560, 6912  # down_proj of bitnet-b1.58-2B-4T
SHARES = 0.001, 0.01, 0.1
KINDS: dict[str, dict[str, Any]] = {
    "ranked w16": {"target": "avx512", "k": 3},
    "ranked n4s1": {"target": "avx2", "k": 3},
    "permuted": {"encoding": "permuted"},
}


def encoder(matrix: rsr.Matrix) -> Callable[[int], object]:
    """Return what encodes all digits of a matrix again."""
    digits = (matrix.to_dense(np.int8) + 1).astype(np.uint8)
    arrays = [np.empty_like(a) for a in matrix.arrays]
    if matrix.packing == "w16":
        return lambda _: _native.pack_w16(digits, 3, matrix.k, 1, arrays[0], None)
    if matrix.packing == "n4s1":
        return lambda _: _native.pack_n4s1(digits, arrays[0], 0)
    A = digits.T if matrix.direction == "reduce" else digits
    return lambda _: _native.sort_blocks(A, 3, matrix.k, 1, arrays[0], arrays[1])


def change(matrix: rsr.Matrix, share: float, rng: np.random.Generator) -> Work:
    """Return what changes a share of the weights, there and back again."""
    before = matrix.to_dense(np.int8)
    chosen = rng.random(before.shape) < share
    rows, columns = np.nonzero(chosen)
    old = before[rows, columns]
    new = ((old + 1 + rng.integers(1, 3, len(old))) % 3 - 1).astype(np.int8)
    w = rsr.MutableMatrix(matrix)
    return lambda call: w.update(rows, columns, old if call % 2 else new)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the result."""
    parser = measuring_parser(__doc__, 4, "encoding")
    parser.add_argument("--shape", type=int, nargs=2, default=SHAPE, metavar=("M", "N"))
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    W = rng.integers(-1, 2, options.shape).astype(np.int8)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "w.safetensors"), Path(folder, "w.rsr")
        safetensors.numpy.save_file({"w": W}, source)
        for kind, choices in KINDS.items():

            def compile_all(_: int, choices: dict[str, Any] = choices) -> None:
                rsrc.compile(source, output, threads=1, force=True, **choices)

            compile_all(0)
            matrix = rsr.load(output).matrix("w")
            works: dict[str, Work] = {f"{s:.1%}": change(matrix, s, rng) for s in SHARES}
            works |= {"encode": encoder(matrix), "compile": compile_all}
            times = time_in_turns(works, options.seconds, 5)
            rows.append({"index": kind, **{n: float(np.median(t)) for n, t in times.items()}})
    lines = [["index", *(f"{s:.1%} changed" for s in SHARES), "encode", "compile"]]
    for row in rows:
        cells = [
            f"{1000 * row[f'{s:.1%}']:.2f} ms ({row[f'{s:.1%}'] / row['encode']:.0%})"
            for s in SHARES
        ]
        cells += [f"{1000 * row[name]:.1f} ms" for name in ("encode", "compile")]
        lines.append([row["index"], *cells])
    title = f"{options.shape[0]} x {options.shape[1]}, share of `encode` in brackets"
    report(options, rows, [(title, lines)])


if __name__ == "__main__":
    main()
