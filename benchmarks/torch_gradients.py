"""Time products of a layer in PyTorch and their gradients with respect to the input.

    python benchmarks/torch_gradients.py MODEL.rsr [--threads 2]

The layer is the widest of the largest matrices of the file, with int8 activations. Each time is the
best of three.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch

import rsr_runtime as rsr
from reporting import Lines, Row, report
from rsr_runtime.torch import RsrLinear

ROWS = 1, 64, 512


def best(call: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of three calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def measure(layer: RsrLinear, count: int) -> Row:
    """Return the milliseconds of a product with `count` rows and of its gradient."""
    x = torch.randn(count, layer.in_features, requires_grad=True)
    y = layer(x)
    g = torch.randn_like(y)
    return {
        "rows": count,
        "product": best(lambda: layer(x)),
        "gradient": best(lambda: torch.autograd.grad(y, x, g, retain_graph=True)),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a .rsr file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    matrix = max(rsr.load(options.model).matrices(), key=lambda m: (math.prod(m.shape), m.shape[1]))
    layer = RsrLinear(matrix, activations="int8")
    rows = [measure(layer, count) for count in ROWS]
    lines: Lines = [["rows", "product, ms", "gradient, ms"]]
    lines += [[f"{r['rows']}", f"{r['product']:.2f}", f"{r['gradient']:.0f}"] for r in rows]
    title = f"{matrix.shape[0]}x{matrix.shape[1]}, {options.threads} threads"
    report(options, rows, [(title, lines)])


if __name__ == "__main__":
    main()
