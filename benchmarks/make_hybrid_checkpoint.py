"""Write a random checkpoint in the shapes of Ternary-Bonsai 27B, shard by shard.

    python benchmarks/make_hybrid_checkpoint.py --output DIR [--layers 64]

The model is a Qwen3.6-27B: 64 layers, of which every fourth has gated attention and the others a
gated delta net; 26.9 billion ternary weights with those of embedding and head. The format is MLX's
2-bit quantization with scales and biases of groups of 128 columns. Codes are cut from one block of
uniform digits at random places, so that writing takes as long as the disk does, and memory does not
grow with the model.
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
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 5120, 17408, 24, 4, 256
KEY_HEADS, VALUE_HEADS, DELTA_DIM, TAPS = 16, 48, 128, 4
VALUES = VALUE_HEADS * DELTA_DIM
CHANNELS = 2 * KEY_HEADS * DELTA_DIM + VALUES
LAYERS_IN_SHARD = 8

MLP = {
    "mlp.gate_proj": (FFN, HIDDEN),
    "mlp.up_proj": (FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}
ATTENTION = {
    "self_attn.q_proj": (2 * HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
}
DELTA_NET = {
    "linear_attn.in_proj_qkv": (CHANNELS, HIDDEN),
    "linear_attn.in_proj_z": (VALUES, HIDDEN),
    "linear_attn.out_proj": (HIDDEN, VALUES),
}

Arrays = dict[str, npt.NDArray[Any]]


class Maker:
    """Makes random tensors."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._codes = random_codes(1 << 26, self._rng)

    def matrix(self, name: str, rows: int, columns: int) -> Arrays:
        """Return a ternary matrix that keeps the size of its input."""
        count, block = rows * columns // 4, len(self._codes)
        starts = 4 * self._rng.integers(0, block // 8, -(-count // (block // 2)))
        pieces = [self._codes[start : start + block // 2] for start in starts]
        codes = np.concatenate(pieces)[:count].view("<u4").reshape(rows, columns // 16)
        size = (2 / 3 * columns) ** -0.5
        scales = self._rng.uniform(0.8 * size, 1.2 * size, (rows, columns // GROUP))
        scales = scales.astype(np.float16)
        return {f"{name}.weight": codes, f"{name}.scales": scales, f"{name}.biases": -scales}

    def floats(self, name: str, *shape: int, scale: float = 0.1) -> Arrays:
        """Return a tensor of normal values."""
        return {name: (scale * self._rng.standard_normal(shape)).astype(np.float16)}

    def layer(self, name: str, has_attention: bool) -> Arrays:
        """Return the tensors of a layer."""
        found: Arrays = {}
        for module, shape in {**(ATTENTION if has_attention else DELTA_NET), **MLP}.items():
            found |= self.matrix(f"{name}.{module}", *shape)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found |= self.floats(f"{name}.{norm}.weight", HIDDEN)
        if has_attention:
            for norm in ("q_norm", "k_norm"):
                found |= self.floats(f"{name}.self_attn.{norm}.weight", HEAD_DIM)
            return found
        net = f"{name}.linear_attn"
        for gate in ("a", "b"):
            weight = f"{net}.in_proj_{gate}.weight"
            found |= self.floats(weight, VALUE_HEADS, HIDDEN, scale=HIDDEN**-0.5)
        found |= self.floats(f"{net}.conv1d.weight", CHANNELS, 1, TAPS, scale=1.0)
        found |= self.floats(f"{net}.dt_bias", VALUE_HEADS, scale=1.0)
        found |= self.floats(f"{net}.A_log", VALUE_HEADS, scale=1.0)
        found[f"{net}.norm.weight"] = np.ones(DELTA_DIM, np.float16)
        return found


def shards(layers: int, vocab: int, seed: int) -> Iterator[Arrays]:
    """Yield the tensors of one shard after the other."""
    maker = Maker(seed)
    yield maker.matrix("model.embed_tokens", vocab, HIDDEN)
    for first in range(0, layers, LAYERS_IN_SHARD):
        found: Arrays = {}
        for i in range(first, min(layers, first + LAYERS_IN_SHARD)):
            found |= maker.layer(f"model.layers.{i}", has_attention=i % 4 == 3)
        yield found
    norm = maker.floats("model.norm.weight", HIDDEN)
    yield norm | maker.matrix("lm_head", vocab, HIDDEN)


def config(layers: int, vocab: int) -> dict[str, object]:
    """Return the config.json of the model."""
    return {
        "architectures": ["Qwen3_5ForCausalLM"],
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "linear_conv_kernel_dim": TAPS,
        "linear_key_head_dim": DELTA_DIM,
        "linear_num_key_heads": KEY_HEADS,
        "linear_num_value_heads": VALUE_HEADS,
        "linear_value_head_dim": DELTA_DIM,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_5_text",
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
        "quantization": {"bits": 2, "group_size": GROUP},
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000,
            "partial_rotary_factor": 0.25,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": vocab,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", type=int, default=64, help="default 64")
    parser.add_argument("--vocab", type=int, default=248320, help="default 248320")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    start, folder = time.perf_counter(), options.output
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(config(options.layers, options.vocab), indent=2) + "\n"
    (folder / "config.json").write_text(settings)
    count, total = 2 + -(-options.layers // LAYERS_IN_SHARD), 0
    weight_map: dict[str, str] = {}
    for i, tensors in enumerate(shards(options.layers, options.vocab, options.seed)):
        name = f"model-{i + 1:05}-of-{count:05}.safetensors"
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(array.nbytes for array in tensors.values())
        del tensors
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    print(f"{folder}: {total / 1e9:.2f} GB, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
