"""Time every kind of matrix on every instruction set, through the API.

    python benchmarks/kinds.py [--shape 2304x2304] [--isa avx2,avx512,amx] [--vectors 1,4,32,128]
                               [--kinds NAME,...] [--threads 1] [--seconds 1] [--json] [--markdown]

`Matrix.linear` with float32 activations and with int8; where scales belong to groups of columns,
with int8 activations by group, too. Files are compiled for avx2 where that is the instruction set,
for avx512 otherwise. The best of many calls counts; the matrix stays in the caches. Rates are
multiply-adds of a dense product per nanosecond; in brackets, the rate divided by that of the matrix
with one scale per tensor that has the same digits: a kind that is far below 1 is a hole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

import rsr_runtime as rsr
import rsrc
from reporting import Lines, Row, Work, measuring_parser, report, time_in_turns

FloatArray = npt.NDArray[np.float32]

ROUNDS = 3  # however short the time


class Kind(NamedTuple):
    """Digits, and what shares a scale: "tensor", "row" or a number of columns of a row."""

    digits: str  # of `draw`
    scale: str | int

    @property
    def name(self) -> str:
        """What the tables call it."""
        grouped = isinstance(self.scale, int)
        return f"{self.digits} " + (
            f"in groups of {self.scale}" if grouped else f"per {self.scale}"
        )


KINDS = [
    *(Kind("ternary", scale) for scale in ("tensor", "row", 256, 128, 64, 32)),
    *(Kind("3:4 sparse", scale) for scale in ("tensor", 256)),
    *(Kind("binary", scale) for scale in ("tensor", 128)),
    *(Kind("quaternary", scale) for scale in ("tensor", 128)),
]


def draw(digits: str, m: int, n: int, rng: np.random.Generator) -> FloatArray:
    """Draw digits: "ternary", "3:4 sparse" (one zero in four columns), "binary" or "quaternary"."""
    if digits in ("ternary", "quaternary"):
        return rng.integers(-1, 2 if digits == "ternary" else 3, (m, n)).astype(np.float32)
    W = rng.integers(0, 2, (m, n)).astype(np.float32) * 2 - 1
    if digits == "3:4 sparse":
        W[np.arange(n) % 4 == np.repeat(rng.integers(0, 4, (m, -(-n // 4))), 4, axis=1)[:, :n]] = 0
    return W


def compiled(kind: Kind, m: int, n: int, isa: str, folder: Path) -> rsr.Matrix:
    """Compile a random matrix of a kind."""
    target = "avx2" if isa == "avx2" else "avx512"
    rng = np.random.default_rng(0)
    W = draw(kind.digits, m, n, rng)
    if kind.scale == "row":
        W *= rng.uniform(0.5, 1, (m, 1)).astype(np.float32)
    elif isinstance(kind.scale, int):
        scales = rng.uniform(0.5, 1, (m, -(-n // kind.scale))).astype(np.float32)
        W *= np.repeat(scales, kind.scale, axis=1)[:, :n]
    source = folder / "matrix.safetensors"
    save_file({kind.name: W}, source)
    per = f"group:{kind.scale}" if isinstance(kind.scale, int) else kind.scale
    output = folder / f"{kind.name}.rsr"
    rsrc.compile(source, output, target=target, quantize="absmean", per=per, force=True)
    return rsr.load(output, memory="huge").matrix(kind.name)


def run(options: Any, m: int, n: int, folder: Path) -> Iterator[Row]:
    """Yield a row for each instruction set, kind, number of vectors and type of activations."""
    rng = np.random.default_rng(1)
    for isa in options.isa.split(","):
        rsr.use_isa(isa)
        base: dict[tuple[str, int, str], float] = {}  # rates with one scale per tensor
        for kind in KINDS:
            if options.kinds and kind.name not in options.kinds.split(","):
                continue
            w = compiled(kind, m, n, isa, folder)
            for vectors in map(int, options.vectors.split(",")):
                x = rng.standard_normal((vectors, n)).astype(np.float32)
                works = {name: product(w, x, name) for name in activations(kind)}
                for name, seconds in time_in_turns(works, options.seconds, ROUNDS).items():
                    rate = vectors * m * n / float(seconds.min()) / 1e9
                    if kind.scale == "tensor":
                        base[kind.digits, vectors, name] = rate
                    same = base.get((kind.digits, vectors, name.removesuffix("-group")))
                    yield {
                        "kind": kind.name, "isa": isa, "packing": w.packing, "k": w.k,
                        "bits_per_weight": w.bits_per_weight, "vectors": vectors,
                        "activations": name, "macs_per_ns": rate,
                        "ratio_to_tensor_scale": rate / same if same else None,
                    }  # fmt: skip


def product(w: rsr.Matrix, x: FloatArray, activations: str) -> Work:
    return lambda _: w.linear(x, activations)


def activations(kind: Kind) -> list[str]:
    """List the types of activations that are timed."""
    return ["float32", "int8", *(["int8-group"] if isinstance(kind.scale, int) else [])]


def tables(rows: Sequence[Row], vectors: Sequence[str]) -> Iterator[tuple[str, Lines]]:
    for isa in dict.fromkeys(row["isa"] for row in rows):
        for name in ("float32", "int8", "int8-group"):
            lines = [["kind", "packing", "bits", *vectors]]
            for kind in dict.fromkeys(row["kind"] for row in rows):
                found = [
                    r for r in rows if (r["isa"], r["kind"], r["activations"]) == (isa, kind, name)
                ]
                if found:
                    bits = f"{found[0]['bits_per_weight']:.2f}"
                    lines.append([kind, found[0]["packing"], bits, *map(_cell, found)])
            if len(lines) > 1:
                yield f"{isa}, {name} activations: multiply-adds/ns, by vectors", lines


def _cell(row: Row) -> str:
    ratio = row["ratio_to_tensor_scale"]
    return f"{row['macs_per_ns']:.0f}" + (f" ({ratio:.2f})" if ratio is not None else "")


def main() -> None:
    parser = measuring_parser(__doc__, 1.0, "kind, instruction set and number of vectors")
    parser.add_argument("--shape", default="2304x2304", metavar="MxN")
    supported = rsr.cpu_info()["supported_isas"]
    usual = ",".join(isa for isa in ("avx2", "avx512", "amx") if isa in supported) or supported[0]
    parser.add_argument("--isa", default=usual, help=f"({usual})")
    parser.add_argument("--vectors", default="1,4,32,128", help="multiplied at once (1,4,32,128)")
    parser.add_argument("--kinds", default="", help=f"of {', '.join(k.name for k in KINDS)} (all)")
    parser.add_argument("--threads", type=int, default=1, help="(1)")
    options = parser.parse_args()
    unknown = set(filter(None, options.kinds.split(","))) - {kind.name for kind in KINDS}
    if unknown:
        parser.error(f"--kinds: found {', '.join(sorted(unknown))}, expected names of --help")
    rsr.set_num_threads(options.threads)
    m, n = map(int, options.shape.split("x"))
    with TemporaryDirectory() as folder:
        rows = list(run(options, m, n, Path(folder)))
    report(options, rows, tables(rows, options.vectors.split(",")), left=2)


if __name__ == "__main__":
    main()
