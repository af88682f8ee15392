"""Time the operations of a decoder other than products, in the shapes of bitnet-b1.58-2B-4T.

    python benchmarks/decoder_ops.py [--threads 1] [--contexts 512,4096] [--seconds 1] [--json]

Norms and gates are timed for one row and for 512. Attention is timed for one row after contexts of
several lengths, with a plain read of the same bytes, and for the last 512 rows of prompts, with the
rate of multiply-adds. On level `memory`, copies of a KV cache are used in rotation, 1 GB in all, so
that the processor's caches never hold the next one. Times are those of one layer: the best call,
and the median of all calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from reporting import Lines, Row, Work, Works, measuring_parser, report, time_in_turns
from rsr_runtime import kernels

HIDDEN, INTERMEDIATE, HEADS, KEY_HEADS, HEAD_DIM, LAYERS = 2560, 6912, 20, 5, 128, 30
PROMPT = 512
EPS = 1e-5
ROUNDS = 5  # however short the time
MEMORY_BYTES = 1 << 30


def row(op: str, rows: int, times: npt.NDArray[np.float64], **more: Any) -> Row:
    return {
        "op": op, "rows": rows, "seconds_best": float(times.min()),
        "seconds_median": float(np.median(times)), **more,
    }  # fmt: skip


def rows_of_activations(count: int, seconds: float, rng: np.random.Generator) -> Iterator[Row]:
    """Norms and gates of `count` rows."""

    def arrays(n: int) -> tuple[Any, ...]:
        x, other = (rng.standard_normal((count, n)).astype(np.float32) for _ in range(2))
        weight = rng.standard_normal(n).astype(np.float32)
        quantized = np.empty((count, n), np.int8), np.empty((count, 1), np.float32)
        return x, other, weight, np.empty_like(x), *quantized

    x, other, weight, out, q, s = arrays(HIDDEN)
    other *= np.float32(1e-6)  # added in place by every call: x must not grow
    gate, up, sub_norm, _, q_wide, s_wide = arrays(INTERMEDIATE)

    def gated(activation: str) -> Work:
        def work(_: int) -> None:
            kernels.gated(gate, up, activation, sub_norm, EPS, None, q_wide, s_wide)

        return work

    works: Works = {
        f"normalize {HIDDEN}, add, int8": lambda _: kernels.normalize(
            x, other, weight, EPS, None, q, s
        ),
        f"normalize {HIDDEN}, float32": lambda _: kernels.normalize(
            x, None, weight, EPS, out, None, None
        ),
        f"quantize {HIDDEN}": lambda _: kernels.quantize_i8(x, q, s),
        f"gated {INTERMEDIATE}, relu2, int8": gated("relu2"),
        f"gated {INTERMEDIATE}, silu, int8": gated("silu"),
        f"gated {INTERMEDIATE}, gelu_tanh, int8": gated("gelu_tanh"),
    }
    for op, times in time_in_turns(works, seconds, ROUNDS).items():
        yield row(op, count, times)


class Caches:
    """Filled copies of a KV cache."""

    def __init__(self, context: int, dtype: str, copies: int, rng: np.random.Generator) -> None:
        blocks = -(-context // 16)
        shape = (KEY_HEADS, blocks, HEAD_DIM, 16)
        cells: npt.NDArray[Any] = rng.standard_normal(shape).astype(np.float32)
        if dtype == "float16":
            cells = cells.astype(np.float16).view(np.uint16)
        elif dtype == "int8":
            cells = np.rint(cells * 25).astype(np.int8)
        scales = np.full((KEY_HEADS, blocks * 16), 1 / 25, np.float32)
        self._scales = (scales, scales) if dtype == "int8" else ()
        values = cells.reshape(KEY_HEADS, blocks * 16, HEAD_DIM)
        self.keys = [cells.copy() for _ in range(copies)]
        self.values = [values.copy() for _ in range(copies)]
        self.bytes = 2 * cells.nbytes
        angles = rng.uniform(0, 2 * np.pi, (context, HEAD_DIM // 2))
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.context = context

    def attend(self, rows: int, rng: np.random.Generator) -> Work:
        """Return the attention of the last `rows` rows."""
        q, k, v = (
            rng.standard_normal((rows, heads, HEAD_DIM)).astype(np.float32)
            for heads in (HEADS, KEY_HEADS, KEY_HEADS)
        )
        out = np.empty((rows, HEADS * HEAD_DIM), np.float32)
        # Scaled here, because every call rotates q in place; a rotation keeps its length.
        q *= np.float32(HEAD_DIM**-0.5)
        start = np.array([self.context - rows], np.int64)
        rope = kernels.Rope(self.cos, self.sin, scale=1.0)
        caches = [
            kernels.KVCache(*pair, *self._scales)
            for pair in zip(self.keys, self.values, strict=True)
        ]

        def work(call: int) -> None:
            kernels.attend(q, k, v, rope, caches[call % len(caches)], start, out)

        return work

    def read(self, call: int) -> None:
        """Read a copy that neither this call nor the calls just before have read."""
        i = (call + len(self.keys) // 2) % len(self.keys)
        for cells in (self.keys[i], self.values[i]):
            kernels.plain_read(cells.reshape(-1).view(np.uint8))


def attention(contexts: list[int], seconds: float, rng: np.random.Generator) -> Iterator[Row]:
    """Time one row after each context, and the last rows of prompts."""
    for dtype, nbytes in (("float32", 4), ("float16", 2), ("int8", 1)):
        for context in contexts:
            for level in ("cache", "memory"):
                one = 2 * KEY_HEADS * context * HEAD_DIM * nbytes
                copies = 1 if level == "cache" else max(4, MEMORY_BYTES // one)
                caches = Caches(context, dtype, copies, rng)
                times = time_in_turns(
                    {"attend": caches.attend(1, rng), "read": caches.read}, seconds, ROUNDS
                )
                yield row(
                    "attend", 1, times["attend"], context=context, cache=dtype, level=level,
                    bytes=caches.bytes, plain_read_seconds_best=float(times["read"].min()),
                    plain_read_seconds_median=float(np.median(times["read"])),
                )  # fmt: skip
        for context in sorted({PROMPT, *(n for n in contexts if n > PROMPT)}):
            caches = Caches(context, dtype, 1, rng)
            times = time_in_turns({"attend": caches.attend(PROMPT, rng)}, seconds, ROUNDS)
            # Scores and values, causal.
            multiply_adds = HEADS * HEAD_DIM * PROMPT * (2 * context - PROMPT + 1)
            yield row(
                "attend", PROMPT, times["attend"], context=context, cache=dtype, level="cache",
                multiply_adds=multiply_adds,
            )  # fmt: skip


def table(rows: list[Row]) -> Lines:
    lines = [[
        "op", "rows", "context", "KV", "level", "best us", "median us", f"x{LAYERS} ms", "of read",
        "MAC/ns",
    ]]  # fmt: skip
    for r in rows:
        best, median = r["seconds_best"], r["seconds_median"]
        read = r.get("plain_read_seconds_median")
        lines.append([
            r["op"], str(r["rows"]), str(r.get("context", "")), r.get("cache", ""),
            r.get("level", ""), f"{best * 1e6:.1f}", f"{median * 1e6:.1f}",
            f"{best * LAYERS * 1e3:.2f}", f"{read / median:.0%}" if read else "",
            f"{r['multiply_adds'] / best / 1e9:.1f}" if "multiply_adds" in r else "",
        ])  # fmt: skip
    return lines


def main() -> None:
    parser = measuring_parser(__doc__, 1.0, "measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contexts", default="512,4096", metavar="N,...")
    options = parser.parse_args()
    isa = rsr.cpu_info()["isa"]  # chooses the kernels, as RSR_ISA may say
    rsr.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for count in (1, PROMPT):
        rows += rows_of_activations(count, options.seconds, rng)
    rows += attention([int(n) for n in options.contexts.split(",")], options.seconds, rng)
    report(options, rows, [(f"{isa}, {options.threads} thread(s): one layer", table(rows))])


if __name__ == "__main__":
    main()
