"""Compile a checkpoint in the shapes of a ternary Llama-3-8B: time, memory, interruption.

    python benchmarks/large.py FOLDER [--layers N] [--shards N] [--zstd LEVEL]

Writes a sharded checkpoint to FOLDER, in the format in which Hugging Face publishes such models (U8
matrices [out / 4, in] with a BF16 `weight_scale`, BF16 embedding and head: 3.9 GB). Compiles it
with one and with two threads, each time in a process of its own, whose peak memory the system
reports; verifies the result against the source; interrupts a compilation halfway and starts it
again. Removes everything in the end.
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
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench_compile import run_compiler
from make_2b_checkpoint import Bytes, Tensor

HIDDEN, FFN, KV, VOCAB, LAYERS = 4096, 14336, 1024, 128256, 32
PIECE = 4 << 20  # keeps this process small: the peak of the compiler, its child, starts from it
MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FFN, HIDDEN),
    "mlp.up_proj": (FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    "quantization_config": {"linear_class": "bitlinear", "quant_method": "bitnet"},
}


def tensors(layers: int) -> Iterator[Tensor]:
    """List the tensors in the order in which the model uses them."""
    yield Tensor("model.embed_tokens.weight", "BF16", (VOCAB, HIDDEN), "embedding")
    for i in range(layers):
        layer = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield Tensor(f"{layer}.{norm}.weight", "BF16", (HIDDEN,), "norm")
        for name, (rows, columns) in MATRICES.items():
            yield Tensor(f"{layer}.{name}.weight", "U8", (rows // 4, columns), "packed")
            yield Tensor(f"{layer}.{name}.weight_scale", "BF16", (1,), "scale")
    yield Tensor("model.norm.weight", "BF16", (HIDDEN,), "norm")
    yield Tensor("lm_head.weight", "BF16", (VOCAB, HIDDEN), "embedding")


def write(folder: Path, layers: int, shards: int) -> int:
    """Write the checkpoint shard by shard; return its size."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    listed = list(tensors(layers))
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
        _write_shard(folder / name, group, rng)
        weight_map |= {t.name: name for t in group}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(t.nbytes for t in listed)


def _write_shard(path: Path, group: Sequence[Tensor], rng: np.random.Generator) -> None:
    header, end = {}, 0
    for t in group:
        header[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [end, end + t.nbytes]}
        end += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in group:
            for start in range(0, t.nbytes, PIECE):
                file.write(_random(t.fill, min(PIECE, t.nbytes - start), rng).data)


def _random(fill: str, size: int, rng: np.random.Generator) -> Bytes:
    """Return plausible bytes, mostly unprocessed random bits, for speed."""
    if fill in ("scale", "norm"):
        return np.full(size // 2, 0x3F80, "<u2").view(np.uint8)
    words = np.frombuffer(rng.bytes(-(-size // 8) * 8), "<u8")
    if fill == "packed":  # there is no code 3: it becomes 2
        high = words & 0xAAAA_AAAA_AAAA_AAAA
        codes: Bytes = (words & ~(high >> 1)).view(np.uint8)[:size]
        return codes
    floats: Bytes = (words & 0x83FF_83FF_83FF_83FF | 0x3C00_3C00_3C00_3C00).view(np.uint8)[:size]
    return floats


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
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--zstd", metavar="LEVEL", help="passed to the compiler")
    options = parser.parse_args(arguments)
    scratch = Path(tempfile.mkdtemp(prefix="large-", dir=options.folder))
    try:
        start = time.perf_counter()
        source, out = scratch / "checkpoint", scratch / "out"
        size = write(source, options.layers, options.shards)
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
