"""Load a large language model mapped, read a prompt and decode: time, and resident memory.

    python benchmarks/mapped.py FILE.rsr [--prompt 66] [--tokens 10] [--activations int8-group]
        [--kv int8]

Tokens are random, so the file needs no tokenizer. Reads /proc/self/status: Linux only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsr_runtime import llm


def resident() -> str:
    """Return the resident memory: what only this process has, and pages of files."""
    fields = dict(
        line.split(":")
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
    own, mapped = (int(fields[key].split()[0]) / 1e6 for key in ("RssAnon", "RssFile"))
    return f"{own + mapped:.3f} GB resident, of which {mapped:.3f} GB of files"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--prompt", type=int, default=66, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=10, help="tokens that follow it")
    parser.add_argument("--activations", default="trained")
    parser.add_argument("--kv", choices=("float16", "float32", "int8"), default="float16")
    parser.add_argument("--context", type=int, help="default: what the memory holds, at most 4096")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    model = llm.load(
        options.file,
        memory="map",
        context=options.context,
        kv=options.kv,
        activations=options.activations,
    )
    print(f"loaded in {1e3 * (time.perf_counter() - start):.0f} ms: {resident()}", flush=True)
    count, first = options.prompt, 2
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.config.vocab_size, count + options.tokens).tolist()
    session = model.new_session()
    start = time.perf_counter()
    session.follow(tokens[:first])
    print(f"first pass in {time.perf_counter() - start:.2f} s: {resident()}", flush=True)
    start = time.perf_counter()
    session.follow(tokens[:count])
    rate = (count - first) / (time.perf_counter() - start)
    print(f"prompt: {rate:.2f} tokens/s for {count - first} tokens: {resident()}", flush=True)
    before, times = model.phase_seconds(), []
    for i in range(count, count + options.tokens):
        start = time.perf_counter()
        session.follow(tokens[: i + 1])
        times.append(time.perf_counter() - start)
    after = model.phase_seconds()
    phases = {name: 1e3 * (after[name] - before[name]) / options.tokens for name in after}
    listed = ", ".join(f"{name} {spent:.1f} ms" for name, spent in phases.items())
    median = statistics.median(times)
    print(f"decode: {1 / median:.2f} tokens/s, {1e3 * median:.0f} ms each: {listed}; {resident()}")
    size = options.file.stat().st_size
    print(f"a token reads {model.bytes_per_token(count) / 1e9:.2f} GB of {size / 1e9:.2f} GB")
    model.close()


if __name__ == "__main__":
    main()
