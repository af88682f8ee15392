"""Time transformers' own path, the same model after `accelerate`, and `rsr_runtime.llm`.

    python benchmarks/torch_models.py FOLDER [--dtype float32] [--threads 2] [--new 8]

FOLDER has a checkpoint of a language model, and `model.rsr` compiled from it. For random weights in
the shapes of bitnet-b1.58-2B-4T:

    python benchmarks/make_2b_checkpoint.py --output FOLDER
    rsrc compile FOLDER -o FOLDER/model.rsr

Each of the three reads one prompt of random tokens and generates greedily, twice; the faster run
counts. The largest difference of a swapped layer's products from those of the old layer is printed,
too, for the inputs that the prompt gives it. Logits do not show how well a BitNet's layers agree:
one activation that is rounded to another integer moves them by per cents (docs/parity.md). The time
of a token after `accelerate` is split: the swapped layers, the output head, and the rest.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import rsr_runtime as rsr
from reporting import Lines, Row, report
from rsr_runtime import llm
from rsr_runtime.torch import RsrLinear, accelerate

Generate = Callable[[list[int], int], list[float]]  # (prompt, new tokens) -> when each was there


class Clock(transformers.StoppingCriteria):  # type: ignore[misc]
    """Notes the time after each token, and never stops."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, ids: Any, scores: Any, **options: Any) -> Any:
        """Note the time."""
        self.times.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool)


def by_transformers(model: Any) -> Generate:
    def generate(prompt: list[int], new: int) -> list[float]:
        clock, ids = Clock(), torch.tensor([prompt])
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new,
                min_new_tokens=new, pad_token_id=0, stopping_criteria=[clock],
            )  # fmt: skip
        return clock.times

    return generate


def by_runtime(model: llm.LanguageModel) -> Generate:
    def generate(prompt: list[int], new: int) -> list[float]:
        session, tokens, times = model.new_session(), list(prompt), []
        for _ in range(new):
            tokens.append(int(session.follow(tokens).argmax()))
            times.append(time.perf_counter())
        return times

    return generate


def measure(name: str, generate: Generate, prompt: list[int], new: int) -> Row:
    """Return tokens per second of the prompt and after it."""
    best: Row = {"name": name, "prefill": 0.0, "decode": 0.0}
    for _ in range(2):
        start = time.perf_counter()
        times = generate(prompt, new)
        best["prefill"] = max(best["prefill"], len(prompt) / (times[0] - start))
        best["decode"] = max(best["decode"], (new - 1) / (times[-1] - times[0]))
    return best


def split_of_a_token(model: Any, generate: Generate, prompt: list[int], new: int) -> Row:
    """Return the milliseconds of a token by what takes them: "layers", "head" and "rest"."""
    kinds = {m: "layers" for m in model.modules() if isinstance(m, RsrLinear)}
    kinds[model.get_output_embeddings()] = "head"
    seconds: dict[str, list[float]] = {"layers": [], "head": []}
    started: list[float] = []

    def before(module: Any, inputs: Any) -> None:
        started.append(time.perf_counter())

    def after(module: Any, inputs: Any, output: Any) -> None:
        if inputs[0].shape[1] == 1:  # no prompt
            seconds[kinds[module]].append(time.perf_counter() - started[-1])

    hooks = [m.register_forward_pre_hook(before) for m in kinds]
    hooks += [m.register_forward_hook(after) for m in kinds]
    times = generate(prompt, new)
    for hook in hooks:
        hook.remove()
    layers = 1000 * sum(seconds["layers"]) / (new - 1)
    head = 1000 * sum(seconds["head"]) / len(seconds["head"])
    whole = 1000 * (times[-1] - times[0]) / (new - 1)
    return {"layers": layers, "head": head, "rest": whole - layers - head}


def products_of(model: Any, layers: list[str], prompt: list[int]) -> list[tuple[Any, Any]]:
    """Return input and output of each layer in a pass over a prompt."""
    found: list[tuple[Any, Any]] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, inputs, output: found.append((inputs[0], output))
        )
        for name in layers
    ]
    with torch.inference_mode():
        model(torch.tensor([prompt]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def largest_difference(model: Any, layers: list[str], products: list[tuple[Any, Any]]) -> float:
    """Return how far outputs for the same inputs are apart, as a share of a layer's largest."""
    largest = 0.0
    for name, (x, wanted) in zip(layers, products, strict=True):
        with torch.inference_mode():
            error = (model.get_submodule(name)(x) - wanted).abs().max() / wanted.abs().max()
        largest = max(largest, float(error))
    return largest


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128, help="tokens (128)")
    parser.add_argument("--new", type=int, default=8, help="tokens (8)")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
    random = torch.Generator().manual_seed(0)
    prompt = torch.randint(config["vocab_size"], (options.prompt,), generator=random).tolist()
    auto: Any = transformers.AutoModelForCausalLM
    # BitNet layers run as transformers' code writes them: compiling them takes minutes.
    with torch.compiler.set_stance("force_eager"):
        model = auto.from_pretrained(
            options.folder, dtype=getattr(torch, options.dtype), local_files_only=True
        ).eval()
        if options.dtype == "float32":  # tensors that from_pretrained leaves in their stored dtype
            torch.nn.Module.float(model)
        generate = by_transformers(model)
        layers = [name for name, _ in model.named_modules() if name.endswith("_proj")]
        products = products_of(model, layers, prompt[:4])
        rows = [measure("transformers", generate, prompt, options.new)]
    start = time.perf_counter()
    accelerate(model, options.folder / "model.rsr")
    seconds = time.perf_counter() - start
    difference = largest_difference(model, layers, products)
    rows.append(measure("accelerate", generate, prompt, options.new))
    split = split_of_a_token(model, generate, prompt, options.new)
    del model, generate, products
    rsr.set_num_threads(options.threads)
    with llm.load(options.folder / "model.rsr", context=options.prompt + options.new) as runtime:
        rows.append(measure("rsr_runtime.llm", by_runtime(runtime), prompt, options.new))
    lines: Lines = [["", "prefill, tokens/s", "decode, tokens/s"]]
    lines += [[row["name"], f"{row['prefill']:.1f}", f"{row['decode']:.2f}"] for row in rows]
    title = (
        f"{options.dtype}, {options.threads} threads, {options.prompt} and {options.new} tokens; "
        f"accelerate: {seconds:.1f} s, products within {difference:.1e} of the largest; a token: "
        f"{split['layers']:.1f} ms layers, {split['head']:.1f} ms head, {split['rest']:.1f} ms rest"
    )
    rows[1] |= {"seconds": seconds, "difference": difference, "split": split}
    report(options, rows, [(title, lines)])


if __name__ == "__main__":
    main()
