"""Compile a checkpoint in the shapes of a ternary Llama-3-8B: time, memory, interruption.

    python benchmarks/large.py FOLDER [--layers N] [--shards N] [--zstd LEVEL]

Writes a sharded checkpoint to FOLDER, in the format in which Hugging Face publishes such models (U8
matrices [out / 4, in] with a BF16 `weight_scale`, BF16 embedding and head: 3.9 GB). Compiles it
with one and with two threads, each time in a separate process, whose peak memory the system
reports; verifies the result against the source; interrupts a compilation halfway and starts it
again. Removes everything at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench_compile import run_compiler
from make_2b_checkpoint import Sizes, Tensor, config, tensors, write_file

SIZES = Sizes(layers=32, hidden=4096, ffn=14336, kv=1024, vocab=128256)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "quantization_config": {"linear_class": "bitlinear", "quant_method": "bitnet"},
}


def write(folder: Path, sizes: Sizes, shards: int) -> int:
    """Write the checkpoint shard by shard; return its size."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(sizes) | CONFIG))
    listed = [t for t in tensors(sizes) if "sub_norm" not in t.name]  # Llama has none
    listed.append(Tensor("lm_head.weight", "BF16", (sizes.vocab, sizes.hidden), "embedding"))
    listed.sort(key=lambda t: t.name)  # shards then mix dtypes, as published ones do
    limit = -(-sum(t.nbytes for t in listed) // shards)
    groups: list[list[Tensor]] = [[]]
    for t in listed:
        if groups[-1] and sum(other.nbytes for other in groups[-1]) + t.nbytes > limit:
            groups.append([])
        groups[-1].append(t)
    rng = np.random.default_rng(0)
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups):
        name = f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        write_file(folder / name, group, rng)
        weight_map |= {t.name: name for t in group}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(t.nbytes for t in listed)


def interrupt(source: Path, output: Path, after: float) -> float:
    """Interrupt a compilation after some seconds; return how long it takes to end."""
    code = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from rsrc.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, "compile", str(source), "-o", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(after)
        if process.poll() is not None:
            raise SystemExit("the compiler ended before it could be interrupted")
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
        seconds = time.perf_counter() - start
    left = [p.name for p in output.parent.iterdir()]
    if process.returncode != 130 or error or left:
        raise SystemExit(f"interrupted: exit code {process.returncode}, {error!r}, left: {left}")
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="needs room for three times the model")
    parser.add_argument("--layers", type=int, default=SIZES.layers)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--zstd", metavar="LEVEL", help="passed to the compiler")
    options = parser.parse_args(arguments)
    scratch = Path(tempfile.mkdtemp(prefix="large-", dir=options.folder))
    try:
        start = time.perf_counter()
        source, out = scratch / "checkpoint", scratch / "out"
        size = write(source, replace(SIZES, layers=options.layers), options.shards)
        print(f"{size / 1e9:.2f} GB written in {time.perf_counter() - start:.0f} s", flush=True)
        out.mkdir()
        rsr = out / "model.rsr"
        extra = ["--zstd", options.zstd] if options.zstd else []
        taken = {}
        for threads in (1, 2):
            rsr.unlink(missing_ok=True)
            given = ["--threads", str(threads), *extra]
            seconds, processor, peak, report = run_compiler(source, rsr, given)
            taken[threads] = seconds
            rate = size / seconds / 1e9
            print(
                f"--threads {threads}: {seconds:.1f} s, {rate:.2f} GB/s, {processor:.1f} s of "
                f"processor time, {peak / 1e6:.0f} MB peak, {report['output_bytes'] / 1e9:.2f} GB",
                flush=True,
            )
        print(f"2 threads: {taken[1] / taken[2]:.2f} times as fast as 1")
        verify = [sys.executable, "-m", "rsrc", "verify", str(rsr), "--against", str(source)]
        subprocess.run(verify, check=True)
        rsr.unlink()
        print(
            f"interrupted: ended after {interrupt(source, rsr, taken[2] / 2):.2f} s, left nothing"
        )
        run_compiler(source, rsr, extra)
        print(f"started again: {rsr.stat().st_size / 1e9:.2f} GB")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
