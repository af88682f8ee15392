"""Write a random checkpoint in the shapes of bitnet-b1.58-2B-4T: 2.08 billion ternary weights.

    python benchmarks/make_2b_checkpoint.py --output DIR

The format is the one in which Hugging Face publishes that model: U8 matrices [out / 4, in] with
four 2-bit codes (0, 1, 2) per byte, a BF16 `weight_scale` for each, BF16 norms and embedding.
Weights are uniform, the hardest case for any encoding. The file has 1.18 GB and is written in
pieces, with few megabytes in memory. --layers and the other sizes make smaller models of the same
structure. --weights ternary stores the matrices as BF16 -s, 0, s instead; --weights master stores
normally distributed weights that are not ternary yet.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

PIECE = 4 << 20  # bytes written at a time
ITEM = {"U8": 1, "BF16": 2}
HEAD = 128  # head_dim, unless the sizes are not multiples of it
WEIGHTS = ("packed", "ternary", "master")


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a model; the defaults are those of bitnet-b1.58-2B-4T."""

    layers: int = 30
    hidden: int = 2560
    ffn: int = 6912
    kv: int = 640  # out_features of k_proj and v_proj
    vocab: int = 128256

    def check(self) -> None:
        """Reject sizes that the format cannot store: four rows share a byte."""
        for name in ("hidden", "ffn", "kv"):
            value = getattr(self, name)
            if value < 4 or value % 4:
                raise SystemExit(f"--{name}: found {value}, expected a multiple of 4")
        if self.layers < 1 or self.vocab < 1:
            raise SystemExit("--layers and --vocab: expected at least 1")


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `fill` is one of `WEIGHTS`, "scale", "norm" or "embedding"."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    fill: str

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return ITEM[self.dtype] * math.prod(self.shape)


def tensors(sizes: Sizes, weights: str = "packed") -> list[Tensor]:
    """List the tensors, two-byte dtypes first, so that all are aligned."""
    found = [_bf16("model.embed_tokens.weight", "embedding", sizes.vocab, sizes.hidden)]
    found.append(_bf16("model.norm.weight", "norm", sizes.hidden))
    for i in range(sizes.layers):
        found += _layer(f"model.layers.{i}", sizes, weights)
    return sorted(found, key=lambda t: -ITEM[t.dtype])


def _layer(layer: str, s: Sizes, weights: str) -> list[Tensor]:
    matrices = {
        "self_attn.q_proj": (s.hidden, s.hidden),
        "self_attn.k_proj": (s.kv, s.hidden),
        "self_attn.v_proj": (s.kv, s.hidden),
        "self_attn.o_proj": (s.hidden, s.hidden),
        "mlp.gate_proj": (s.ffn, s.hidden),
        "mlp.up_proj": (s.ffn, s.hidden),
        "mlp.down_proj": (s.hidden, s.ffn),
    }
    norms = {
        "input_layernorm": s.hidden,
        "post_attention_layernorm": s.hidden,
        "self_attn.attn_sub_norm": s.hidden,
        "mlp.ffn_sub_norm": s.ffn,
    }
    found = [_bf16(f"{layer}.{name}.weight", "norm", size) for name, size in norms.items()]
    for name, (rows, columns) in matrices.items():
        if weights == "packed":
            found.append(Tensor(f"{layer}.{name}.weight", "U8", (rows // 4, columns), weights))
            found.append(_bf16(f"{layer}.{name}.weight_scale", "scale", 1))
        else:
            found.append(_bf16(f"{layer}.{name}.weight", weights, rows, columns))
    return found


def _bf16(name: str, fill: str, *shape: int) -> Tensor:
    return Tensor(name, "BF16", shape, fill)


def ternary_weights(sizes: Sizes) -> int:
    """Return the number of ternary weights of a checkpoint."""
    return sum(4 * math.prod(t.shape) for t in tensors(sizes) if t.fill == "packed")


def config(sizes: Sizes, weights: str = "packed") -> dict[str, object]:
    """Return the config.json of the model; it is empty for matrices of floats."""
    if weights != "packed":
        return {}
    head = math.gcd(HEAD, sizes.hidden, sizes.kv)
    return {
        "architectures": ["BitNetForCausalLM"],
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "hidden_act": "relu2",
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "intermediate_size": sizes.ffn,
        "max_position_embeddings": 4096,
        "model_type": "bitnet",
        "num_attention_heads": sizes.hidden // head,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv // head,
        "quantization_config": {
            "linear_class": "autobitlinear",
            "quant_method": "bitnet",
            "quantization_mode": "offline",
        },
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": sizes.vocab,
    }


def write(folder: Path, sizes: Sizes, weights: str = "packed", seed: int = 0) -> Path:
    """Write config.json and model.safetensors; return the path of the latter."""
    sizes.check()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(sizes, weights), indent=2) + "\n")
    path = folder / "model.safetensors"
    write_file(path, tensors(sizes, weights), np.random.default_rng(seed))
    return path


def write_file(path: Path, listed: Sequence[Tensor], rng: np.random.Generator) -> None:
    """Write a .safetensors file, piece by piece."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for t in listed:
        start, end = end, end + t.nbytes
        header[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": (start, end)}
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        for t in listed:
            for piece in _pieces(t, rng):
                file.write(piece.data)


def _pieces(t: Tensor, rng: np.random.Generator) -> Iterator[Bytes]:
    for start in range(0, t.nbytes, PIECE):
        size = min(PIECE, t.nbytes - start)
        yield random_codes(size, rng) if t.fill == "packed" else _bf16_bytes(t.fill, size // 2, rng)


def random_codes(size: int, rng: np.random.Generator) -> Bytes:
    """Return bytes of four uniform codes 0, 1, 2: each is one of 81 possible bytes."""
    digits = np.arange(81)[:, None] // [1, 3, 9, 27] % 3
    table = (digits << [0, 2, 4, 6]).sum(axis=1).astype(np.uint8)
    codes: Bytes = table[rng.integers(0, 81, size, np.uint8)]
    return codes


def _bf16_bytes(fill: str, count: int, rng: np.random.Generator) -> Bytes:
    """Return plausible values; those of the embedding are random bits, for speed."""
    if fill == "embedding":  # random signs and mantissas, magnitudes 2^-7 to 2
        bits = rng.integers(0, 1 << 16, count, np.uint16) & 0x83FF | 0x3C00
        return bits.astype("<u2").view(np.uint8)
    if fill == "ternary":  # -0.75, 0, 0.75
        values = np.array([[0x40, 0xBF], [0, 0], [0x40, 0x3F]], np.uint8)
        chosen: Bytes = values[rng.integers(0, 3, count, np.uint8)].reshape(-1)
        return chosen
    if fill == "master":
        bits32 = (rng.standard_normal(count, np.float32) / 50).view("<u4")
        return (bits32 >> 16).astype("<u2").view(np.uint8)
    low, high = (0.5, 2.0) if fill == "scale" else (0.8, 1.2)
    bits32 = rng.uniform(low, high, count).astype("<f4").view("<u4")
    return (bits32 >> 16).astype("<u2").view(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    for name, value in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--weights", choices=WEIGHTS, default="packed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sizes = Sizes(**{name: getattr(options, name) for name in vars(Sizes())})
    start = time.perf_counter()
    path = write(options.output, sizes, options.weights, options.seed)
    print(
        f"{path}: {path.stat().st_size / 1e9:.2f} GB, {ternary_weights(sizes):,} ternary weights, "
        f"{time.perf_counter() - start:.1f} s"
    )


if __name__ == "__main__":
    main()
