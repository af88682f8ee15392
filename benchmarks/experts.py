"""Time a mixture of experts beside a dense model that reads as many bytes for a token.

    python benchmarks/experts.py FOLDER

Both models are random, in the shapes of Qwen3-30B-A3B (128 experts of width 768, 8 of which a token
takes, hidden size 2048) with a few layers; the MLP of the dense one is as wide as the chosen
experts together. The files are kept in FOLDER (0.6 GB with 4 layers). Times are medians, the two
models taking turns. Weights are packed as BitNet's, so the trained activations are int8.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import rsrc
from make_2b_checkpoint import Tensor, write_file
from rsr_runtime import llm

HEAD, HEADS, KEY_HEADS = 128, 16, 4
VOCABULARY = 1024  # small, so that the output head does not count
WIDTHS = {"moe": "of an expert", "dense": "of the MLP"}


def tensors(options: argparse.Namespace, is_dense: bool) -> list[Tensor]:
    """List the tensors of a model."""
    hidden, width = options.hidden, options.width
    found: list[Tensor] = []

    def floats(name: str, fill: str, *shape: int) -> None:
        found.append(Tensor(f"{name}.weight", "BF16", shape, fill))

    def matrix(name: str, rows: int, columns: int) -> None:
        found.append(Tensor(f"{name}.weight", "U8", (rows // 4, columns), "packed"))
        found.append(Tensor(f"{name}.weight_scale", "BF16", (1,), "scale"))

    def mlp(name: str, wide: int) -> None:
        matrix(f"{name}.gate_proj", wide, hidden)
        matrix(f"{name}.up_proj", wide, hidden)
        matrix(f"{name}.down_proj", hidden, wide)

    floats("model.embed_tokens", "embedding", VOCABULARY, hidden)
    floats("model.norm", "norm", hidden)
    for i in range(options.layers):
        layer = f"model.layers.{i}"
        floats(f"{layer}.input_layernorm", "norm", hidden)
        floats(f"{layer}.post_attention_layernorm", "norm", hidden)
        for name, heads in (("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)):
            matrix(f"{layer}.self_attn.{name}_proj", heads * HEAD, hidden)
        matrix(f"{layer}.self_attn.o_proj", hidden, HEADS * HEAD)
        floats(f"{layer}.self_attn.q_norm", "norm", HEAD)
        floats(f"{layer}.self_attn.k_norm", "norm", HEAD)
        if is_dense:
            mlp(f"{layer}.mlp", options.chosen * width)
            continue
        floats(f"{layer}.mlp.gate", "master", options.experts, hidden)
        for number in range(options.experts):
            mlp(f"{layer}.mlp.experts.{number}", width)
    return sorted(found, key=lambda t: t.dtype == "U8")


def config(options: argparse.Namespace, is_dense: bool) -> dict[str, object]:
    """Return the config.json of a model."""
    return {
        "architectures": ["Qwen3ForCausalLM" if is_dense else "Qwen3MoeForCausalLM"],
        "hidden_size": options.hidden,
        "intermediate_size": options.chosen * options.width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_dim": HEAD,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"},
        **(
            {}
            if is_dense
            else {
                "num_experts": options.experts,
                "num_experts_per_tok": options.chosen,
                "moe_intermediate_size": options.width,
                "norm_topk_prob": True,
            }
        ),
    }


def made(options: argparse.Namespace, name: str) -> Path:
    """Write and compile a model, unless an earlier run with the same options did."""
    is_dense = name == "dense"
    sizes = (options.layers, options.experts, options.chosen, options.width, options.hidden)
    folder = options.folder / f"{name}-{'-'.join(map(str, sizes))}"
    compiled: Path = folder / "model.rsr"
    if compiled.exists():
        return compiled
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(options, is_dense)))
    source = folder / "model.safetensors"
    write_file(source, tensors(options, is_dense), np.random.default_rng(0))
    start = time.perf_counter()
    report = rsrc.compile(folder, compiled)
    print(f"{name}: {len(report.tensors)} tensors compiled in {time.perf_counter() - start:.1f} s")
    source.unlink()
    return compiled


def prompt_seconds(model: llm.LanguageModel, tokens: Sequence[int]) -> float:
    start = time.perf_counter()
    model.next_logits(tokens)
    return time.perf_counter() - start


def token_seconds(model: llm.LanguageModel, text: list[int], rng: np.random.Generator) -> float:
    """Return the time of one more token, a random one."""
    text.append(int(rng.integers(VOCABULARY)))
    return prompt_seconds(model, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, value in {
        "layers": 4, "experts": 128, "chosen": 8, "width": 768, "hidden": 2048, "prompt": 256,
        "tokens": 48,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--activations", default="trained")
    parser.add_argument("--memory", default="map")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    models = {}
    for name in ("moe", "dense"):
        path = made(options, name)
        start = time.perf_counter()
        models[name] = llm.load(
            path, context=2048, activations=options.activations, memory=options.memory
        )
        print(f"{name}: {path.stat().st_size / 1e6:,.0f} MB, loaded in "
              f"{time.perf_counter() - start:.2f} s")  # fmt: skip
    prompts: dict[str, list[float]] = {name: [] for name in models}
    decoded: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(4):
        for name, model in models.items():
            tokens = rng.integers(VOCABULARY, size=options.prompt).tolist()
            prompts[name].append(prompt_seconds(model, tokens))
    texts = {name: rng.integers(VOCABULARY, size=32).tolist() for name in models}
    for name, model in models.items():
        prompt_seconds(model, texts[name])
    for _ in range(options.tokens):
        for name, model in models.items():
            decoded[name].append(token_seconds(model, texts[name], rng))
    print(f"{options.layers} layers, prompt of {options.prompt} tokens, {options.activations}")
    for name, model in models.items():
        token = statistics.median(decoded[name])
        nbytes = model.bytes_per_token(64)
        print(
            f"{name:6} token {token * 1e3:6.2f} ms, {nbytes / 1e6:6.1f} MB, "
            f"{nbytes / token / 1e9:5.1f} GB/s; prompt "
            f"{options.prompt / statistics.median(prompts[name]):7.0f} tokens/s"
        )
        model.close()


if __name__ == "__main__":
    main()
