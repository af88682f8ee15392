"""Fine-tune the small BitNet of `examples/tiny-lm`, and run every stage of it as a `.rsr` file.

The model learns to write the documentation of this repository, `docs/llm.md` excepted, which is
held out. Only the last layers are trained; the others, the embedding and the norms stay as they
are. Every few steps the checkpoint is saved in Hugging Face's packed format and compiled, and
`rsrc.compile(reuse=...)` copies what did not change from the `.rsr` file before. The runtime then
measures the perplexity of the held-out text.

    pip install '.[llm]' torch==2.13.0 'transformers>=5.23,<6' matplotlib
    python examples/finetune/finetune.py --work /tmp/finetune --plot finetune.png
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import tokenizers
import torch
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import unpack_weights

import rsrc
from rsr_runtime import llm

ROOT = Path(__file__).parents[2]
BASE = ROOT / "examples" / "tiny-lm"
HELD_OUT = ROOT / "docs" / "llm.md"
HELD_OUT_CHARACTERS = 8000
TRAINED_LAYERS = 3  # the last ones, of six
CONTEXT = 128
BATCH = 4
LEARNING_RATE = 1e-3

Row = dict[str, Any]


def load_training_script() -> Any:
    """Return the script that trained the model: it builds the layers and packs the weights."""
    spec = importlib.util.spec_from_file_location("tiny_lm", BASE / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_lm = load_training_script()


def load_model() -> BitNetForCausalLM:
    """Return the model with weights that can be trained.

    The checkpoint has digits d and scales s, and not the weights that they were rounded from. In a
    forward pass, the scale of a matrix is the mean magnitude of its weights. So the weights
    d * s / (share of digits that are not 0) have the digits d and the scale s.
    """
    model = tiny_lm.build(BitNetConfig(**tiny_lm.CONFIG))
    tensors = safetensors.torch.load_file(BASE / "model.safetensors")
    state = {}
    for name, value in tensors.items():
        if name.endswith("weight_scale"):
            continue
        if value.dtype == torch.uint8:
            digits = unpack_weights(value, torch.float32)
            value = digits * tensors[f"{name}_scale"].float() / digits.abs().mean()
        state[name] = value.float()
    model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    return model


def trained(model: BitNetForCausalLM) -> dict[str, torch.nn.Parameter]:
    """Return the matrices that are trained, by name; all other weights are frozen."""
    first = model.config.num_hidden_layers - TRAINED_LAYERS
    chosen = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        is_late = parts[:2] == ["model", "layers"] and int(parts[2]) >= first
        parameter.requires_grad = is_late and parameter.ndim == 2
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def digits_of(weight: torch.Tensor) -> torch.Tensor:
    """Return the ternary digits of a matrix, int8, as AutoBitLinear rounds it."""
    scale = weight.detach().abs().mean().clamp_(min=1e-5)
    return (weight.detach() / scale).round().clamp(-1, 1).to(torch.int8)


def texts() -> tuple[str, str]:
    """Return the text to learn, and the one that is held out."""
    files = sorted((ROOT / "docs").glob("*.md"))
    learned = [path.read_text("utf-8") for path in files if path != HELD_OUT]
    return "\n".join(learned), HELD_OUT.read_text("utf-8")[:HELD_OUT_CHARACTERS]


class Stages:
    """Compiles and measures the stages of a training run, in a folder.

    Attributes:
        folder: a checkpoint that transformers can load.
        file: the `.rsr` file of the last stage.
    """

    def __init__(self, folder: Path, held_out: str) -> None:
        self.folder = folder / "checkpoint"
        self.file = folder / "model.rsr"
        self._held_out = held_out
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in BASE.glob("*.json"):
            shutil.copy(path, self.folder)

    def add(self, model: BitNetForCausalLM) -> Row:
        """Compile the model as it is, and measure it."""
        tensors = tiny_lm.packed(model)
        path = self.folder / "model.safetensors"
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
        report = rsrc.compile(
            self.folder, self.file, reuse=self.file if self.file.exists() else None, force=True
        )
        with llm.load(self.file) as compiled:
            measured = compiled.perplexity(self._held_out, window=CONTEXT)
        return {"perplexity": measured.value, "reused": report.reused}


class Training:
    """Trains the last layers of a model."""

    def __init__(self, model: BitNetForCausalLM, learned: str) -> None:
        tokenizer = tokenizers.Tokenizer.from_file(str(BASE / "tokenizer.json"))
        self._tokens = np.array(tokenizer.encode(learned).ids)
        self._model = model
        self._matrices = trained(model)
        self._optimizer = torch.optim.AdamW(
            self._matrices.values(), lr=LEARNING_RATE, betas=(0.9, 0.95)
        )
        model.train()

    def step(self, number: int) -> Row:
        """Take a step; return its loss and the share of the trained weights that it changed."""
        last = len(self._tokens) - CONTEXT - 1
        starts = np.random.default_rng(number).integers(0, last, BATCH)
        ids = torch.from_numpy(np.stack([self._tokens[s : s + CONTEXT + 1] for s in starts]))
        before = [digits_of(weight) for weight in self._matrices.values()]
        logits = self._model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        after = [digits_of(weight) for weight in self._matrices.values()]
        changed = sum(int((a != b).sum()) for a, b in zip(after, before, strict=True))
        return {"loss": loss.item(), "changed": changed / sum(a.numel() for a in after)}

    def save(self, path: Path, rows: Sequence[Row]) -> None:
        """Save the weights, the state of the optimizer and the rows so far."""
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save({**state, "rows": list(rows)}, path)

    def load(self, path: Path) -> list[Row]:
        """Continue from there; return the rows so far."""
        state = torch.load(path)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        rows: list[Row] = state["rows"]
        return rows


def run(work: Path, steps: int, every: int) -> list[Row]:
    """Fine-tune the model; return a row for the start and one for each step.

    Rows of the stages that were compiled, every `every` steps, have "perplexity" and "reused".
    After an interruption it continues from the last stage in the folder `work`.
    """
    torch.manual_seed(0)
    torch.compiler.set_stance("force_eager")  # AutoBitLinear's torch.compile needs a compiler
    learned, held_out = texts()
    model = load_model()
    stages, training, saved = Stages(work, held_out), Training(model, learned), work / "state.pt"
    rows = training.load(saved) if saved.exists() else [{"step": 0, **stages.add(model)}]
    print(f"step {rows[-1]['step']:4}  perplexity {rows[-1]['perplexity']:.1f}", flush=True)
    for step in range(len(rows), steps + 1):
        rows.append({"step": step, **training.step(step)})
        if step % every:
            continue
        rows[-1] |= stages.add(model)
        training.save(saved, rows)
        reused = rows[-1]["reused"]
        print(
            f"step {step:4}  loss {rows[-1]['loss']:.2f}  changed {rows[-1]['changed']:.3%}  "
            f"perplexity {rows[-1]['perplexity']:.1f}  reused {reused['tensors']} tensors, "
            f"{reused['bytes']:,} bytes",
            flush=True,
        )
    return rows


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the perplexity of the stages, and the share of weights that each step changed."""
    from matplotlib.figure import Figure

    figure = Figure((9, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    stages = [row for row in rows if "perplexity" in row]
    upper.plot(
        [row["step"] for row in stages], [row["perplexity"] for row in stages],
        color="#12558c", marker="o", markersize=4,
    )  # fmt: skip
    upper.set_title("Perplexity of the held-out text, by the runtime", loc="left", fontsize=10)
    steps = rows[1:]
    lower.plot(
        [row["step"] for row in steps], [100 * row["changed"] for row in steps], color="#e0955a"
    )
    title = "Trained ternary weights that a step changed, in percent"
    lower.set_title(title, loc="left", fontsize=10)
    lower.set_xlabel("step", fontsize=9)
    for axes in (upper, lower):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the files it writes")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=25, help="steps between two stages (25)")
    parser.add_argument("--plot", type=Path, help="picture to draw: a .png, .svg or .pdf file")
    options = parser.parse_args(arguments)
    rows = run(options.work, options.steps, options.every)
    (options.work / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
