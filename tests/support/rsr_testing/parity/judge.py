"""transformers as the judge: how it is imported, loads a checkpoint and computes.

It loads the folders themselves, must use every tensor in them, and computes in float32. It has no
class for 1bitLLM's models. They are its BitNet with another activation, under other names, and are
built from its own parts (:func:`_load_1bitllm`). Nor does it know rotated bases: weights that
hadamard.json says are in one are multiplied by it, by its definition (:func:`_in_its_basis`).

**Ties.** A BitNet layer rounds its inputs to integers, with 127 for the largest of a row. The
inputs of two correct implementations differ in their last bits, because sums depend on their order.
Where an input lies next to the middle between two integers, they may round it differently. That
moves a logit by 1e-3 to 1e-2 of the largest, ten thousand times the difference that caused it, and
nobody is wrong. So that a comparison can be strict, ``golden_llm.py`` looks for texts in which no
input that transformers rounds lies within :data:`CLEARANCE` of such a middle, and for prompts in
whose continuation, besides, the two best logits of every position are further apart than
:data:`MARGIN`. Both are properties of what transformers computes; nothing else influences the
choice.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ..rotation import unrotated

FloatArray = npt.NDArray[np.float32]

NEW_TOKENS = 64  # of a continuation
DIFFERENT_TOKENS = 10  # at least, in a continuation: it is no loop of a few

# How far inputs of correct implementations may be apart, as a share of the sum of the input and a
# typical one of its row. Outputs of attention, transformers' as well as ours, differ by 2e-7 to
# 5e-7 from exact arithmetic.
CLEARANCE = 7e-7
TYPICAL = 40  # where the largest input of a row is 127
MARGIN = 1e-3  # of the largest logit: five times the tolerance


def torch_and_transformers() -> tuple[Any, Any]:
    """Return the two modules; skip the test module that calls this where they are not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both warn about themselves while they are imported
        return (
            pytest.importorskip("torch", reason="needs torch and transformers"),
            pytest.importorskip("transformers", reason="needs torch and transformers"),
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers, and have it compute plainly on one thread, without gradients.

    ``force_eager`` runs functions marked ``@torch.compile`` as they are written. They need no C++
    compiler then, and no fused multiply-add slips in. One thread, as sums depend on how they are
    split.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        logging: Any = transformers.utils.logging  # untyped, as AutoModelForCausalLM below
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(1)
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            yield


def load(folder: Path, dtype: str = "float32", **options: Any) -> Any:
    """Return the model of a folder, every tensor of which must be used.

    Args:
        folder: of config.json and model.safetensors.
        dtype: A float dtype by its name in torch.
        options: of ``from_pretrained``.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (folder / "hadamard.json").is_file():
        with tempfile.TemporaryDirectory() as other:
            _in_its_basis(folder, Path(other))
            return load(Path(other), dtype, **options)
    with quiet():
        if config["architectures"] == ["BitnetForCausalLM"]:
            return _load_1bitllm(folder, config)
        import torch
        import transformers

        auto: Any = transformers.AutoModelForCausalLM
        model, info = auto.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
        problems = {key: value for key, value in info.items() if value}
        if problems:
            raise RuntimeError(f"{folder} was not loaded in full: {problems}")
        if dtype == "float32":
            # Only modules that the quantizer makes follow `dtype`; the others keep their stored
            # dtypes, and PreTrainedModel.float() is blocked. float() of the base class widens the
            # BF16 values and leaves the packed codes alone.
            torch.nn.Module.float(model)
        return model.eval()


def _in_its_basis(folder: Path, other: Path) -> None:
    """Write a model directory with the weights in the basis of the model."""
    from safetensors.numpy import load_file, save_file

    declared = json.loads((folder / "hadamard.json").read_text(encoding="utf-8"))
    tensors = unrotated(load_file(folder / "model.safetensors"), declared)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(folder / "config.json", other)
    shutil.copy(folder / "generation_config.json", other)


def bitnet_layers(model: Any) -> dict[str, Any]:
    """Return the BitNet linear layers of a model by module name."""
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear

    kinds = (BitLinear, AutoBitLinear)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _load_1bitllm(folder: Path, config: dict[str, Any]) -> Any:
    """Build 1bitLLM's model from transformers' BitNet, which differs in names and activation."""
    import transformers
    from safetensors.torch import load_file
    from transformers.integrations.bitnet import replace_with_bitnet_linear

    same = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "hidden_act", "max_position_embeddings",
        "rms_norm_eps", "rope_theta", "tie_word_embeddings", "bos_token_id", "eos_token_id",
    )  # fmt: skip
    known: Any = transformers.BitNetConfig(**{key: config[key] for key in same})
    known._attn_implementation = "eager"
    model: Any = transformers.BitNetForCausalLM(known)
    online = transformers.BitNetQuantConfig(
        linear_class="autobitlinear", quantization_mode="online"
    )
    replace_with_bitnet_linear(model, ["lm_head"], online)
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(known)
    tensors = {
        name.replace("inner_attn_ln", "attn_sub_norm").replace("ffn_layernorm", "ffn_sub_norm"): t
        for name, t in load_file(folder / "model.safetensors").items()
    }
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, strict=True)
    return model.eval()


@dataclass(frozen=True)
class Answer:
    """The logits of one sequence of tokens."""

    logits: FloatArray  # (tokens, vocabulary)
    clearance: float  # least distance of a rounded input from the middle between two integers, as
    # a share of the sum of the input and a typical one; 1 where nothing is rounded


@dataclass(frozen=True)
class Continuation:
    """The most probable tokens after a prompt."""

    tokens: list[int]  # NEW_TOKENS, or fewer where they end with EOS
    clearance: float  # as above, of prompt and tokens
    margin: float  # least distance of the two best logits, as a share of their position's largest

    @property
    def is_decided(self) -> bool:
        """Whether no token depends on the order of sums, and the text is long and varied enough."""
        return (
            self.clearance >= CLEARANCE
            and self.margin >= MARGIN
            and len(self.tokens) == NEW_TOKENS
            and len(set(self.tokens)) >= DIFFERENT_TOKENS
        )


def answer(model: Any, sequences: Sequence[list[int]]) -> list[Answer]:
    """Run sequences of tokens through a model, side by side."""
    with quiet():
        import torch

        longest = max(map(len, sequences))
        ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in sequences])
        with _watched(model) as distances:
            logits = model(ids, use_cache=False).logits.numpy()
        assert logits.dtype == np.float32
        nearest = np.ones(ids.shape)
        for distance in distances:
            np.minimum(nearest, distance, out=nearest)
        return [
            Answer(logits[i, : len(tokens)], float(nearest[i, : len(tokens)].min()))
            for i, tokens in enumerate(sequences)
        ]


def continuations(model: Any, prompts: Sequence[list[int]]) -> list[Continuation]:
    """Continue prompts of one length by the most probable tokens, side by side."""
    with quiet():
        import torch

        ids, eos = torch.tensor(prompts), model.config.eos_token_id
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=eos,
        ).tolist()
    first = len(prompts[0])
    new = [tokens[first:] for tokens in made]
    new = [tokens[: tokens.index(eos) + 1] if eos in tokens else tokens for tokens in new]
    found = []
    both = [prompt + tokens for prompt, tokens in zip(prompts, new, strict=True)]
    for tokens, said in zip(new, answer(model, both), strict=True):
        logits = said.logits[first - 1 : -1]
        best = np.sort(logits, axis=-1)[:, -2:]
        margin = (best[:, 1] - best[:, 0]) / np.abs(logits).max(axis=-1)
        found.append(Continuation(tokens, said.clearance, float(margin.min())))
    return found


def perplexity(logits: FloatArray, tokens: list[int]) -> float:
    """Return exp of the mean cross entropy of all tokens but the first."""
    import torch

    scores = torch.from_numpy(logits[:-1]).double()
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(tokens[1:]))
    return float(loss.exp())


@contextlib.contextmanager
def _watched(model: Any) -> Iterator[list[npt.NDArray[np.float64]]]:
    """Collect, for each call of a BitNet layer, how near each row's inputs come to a tie."""
    found: list[npt.NDArray[np.float64]] = []

    def hook(module: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if module.rms_norm is None else module.rms_norm(inputs[0])
        x = x.double()
        scaled = (x * (127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5))).abs()
        distance = (scaled - scaled.floor() - 0.5).abs() / (scaled + TYPICAL)
        found.append(distance.amin(dim=-1).numpy())

    handles = [m.register_forward_pre_hook(hook) for m in bitnet_layers(model).values()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
