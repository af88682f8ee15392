"""Write a random checkpoint in the shapes of Ternary-Bonsai-1.7B: scales of groups of 128 columns.

    python benchmarks/make_bonsai_checkpoint.py --output DIR

The model is a Qwen3-1.7B: 28 layers, 1.72 billion ternary weights with those of the embedding,
which is the output head too. The format is MLX's 2-bit quantization: U32 words of 16 codes, F16
`scales` and `biases` for each row and group. Digits are uniform, the hardest case for any encoding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from make_2b_checkpoint import random_codes

GROUP = 128  # columns that share a scale
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 2048, 6144, 16, 8, 128
MATRICES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (FFN, HIDDEN),
    "mlp.up_proj": (FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}
NORMS = {
    "input_layernorm": HIDDEN,
    "post_attention_layernorm": HIDDEN,
    "self_attn.q_norm": HEAD_DIM,
    "self_attn.k_norm": HEAD_DIM,
}


def tensors(layers: int, vocab: int, seed: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield names and arrays."""
    rng = np.random.default_rng(seed)
    yield from _matrix("model.embed_tokens", (vocab, HIDDEN), rng)
    yield "model.norm.weight", _norm(HIDDEN, rng)
    for i in range(layers):
        for name, size in NORMS.items():
            yield f"model.layers.{i}.{name}.weight", _norm(size, rng)
        for name, shape in MATRICES.items():
            yield from _matrix(f"model.layers.{i}.{name}", shape, rng)


def _matrix(
    name: str, shape: tuple[int, int], rng: np.random.Generator
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    rows, columns = shape
    codes = random_codes(rows * columns // 4, rng).view("<u4")
    scales = rng.uniform(0.02, 0.06, (rows, columns // GROUP)).astype(np.float16)
    yield f"{name}.weight", codes.reshape(rows, columns // 16)
    yield f"{name}.scales", scales
    yield f"{name}.biases", -scales  # codes 0, 1, 2 stand for digits -1, 0, 1


def _norm(size: int, rng: np.random.Generator) -> npt.NDArray[np.float16]:
    return rng.uniform(0.8, 1.2, size).astype(np.float16)


def config(layers: int, vocab: int) -> dict[str, object]:
    """Return the config.json of the model."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "max_position_embeddings": 32768,
        "model_type": "qwen3",
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
        "quantization": {"bits": 2, "group_size": GROUP},
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": vocab,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", type=int, default=28, help="default 28")
    parser.add_argument("--vocab", type=int, default=151936, help="default 151936")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(config(options.layers, options.vocab), indent=2) + "\n"
    (options.output / "config.json").write_text(settings)
    path = options.output / "model.safetensors"
    save_file(dict(tensors(options.layers, options.vocab, options.seed)), path)
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
