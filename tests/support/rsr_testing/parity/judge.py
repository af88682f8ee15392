"""transformers as the judge: how it is imported, loads a checkpoint and computes.

It loads the folders themselves, must use every tensor in them, and computes in float32. It has no
class for 1bitLLM's models. They are its BitNet with another activation, under other names, and are
built from its own parts (:func:`_load_1bitllm`). It has none for MiniCPM and MobileLLM either, nor
reads MLX's codes: their published formulas are folded into the weights of a class that it has
(:func:`_load_folded`). Weights that hadamard.json says are in a rotated basis are multiplied by it,
by its definition (:func:`_in_its_basis`).

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
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        if (fold := _FOLDED.get(config["architectures"][0])) is not None:
            return _load_folded(folder, config, fold)
        if config.get("quantization", {}).get("bits") == 1:
            return _load_folded(folder, config, _one_bit)
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
            round_embedding_scale(model, config)
        return model.eval()


def round_embedding_scale(model: Any, config: Mapping[str, Any]) -> None:
    """Round Gemma's factor of embeddings to the dtype of config.json, as transformers does there.

    transformers rounds to the dtype in which the model is loaded, here float32.
    """
    import torch

    dtype = getattr(torch, config.get("torch_dtype", "float32"))
    for module in model.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale).to(dtype).float()


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


Tensors = dict[str, Any]
Fold = Callable[[dict[str, Any], Tensors], tuple[dict[str, Any], Tensors]]


def _load_folded(folder: Path, config: dict[str, Any], fold: Fold) -> Any:
    """Load a checkpoint that transformers has no class for, as one that computes the same.

    Args:
        folder: of model.safetensors.
        config: its config.json.
        fold: makes the other model's config.json and tensors, in float32.
    """
    import torch
    import transformers
    from safetensors.torch import load_file

    stored = {
        name: t.float() if t.is_floating_point() else t
        for name, t in load_file(folder / "model.safetensors").items()
    }
    config, tensors = fold(config, stored)
    known: Any = transformers.AutoConfig.for_model(
        **{key: value for key, value in config.items() if key != "torch_dtype"}
    )
    known._attn_implementation = "eager"
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_config(known, dtype=torch.float32)
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def _minicpm(config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """A Llama whose weights hold MiniCPM's factors (OpenBMB's modeling_minicpm.py).

    Embeddings are multiplied by scale_emb, outputs of sublayers by scale_depth / sqrt(layers);
    hidden states are divided by hidden_size / dim_model_base before the head.
    """
    depth = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
    folded = dict(tensors)
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    folded["lm_head.weight"] = head * (config["dim_model_base"] / config["hidden_size"])
    folded["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] * config["scale_emb"]
    for name in tensors:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            folded[name] = tensors[name] * depth
    return {**config, **_AS_LLAMA}, folded


def _mobilellm(config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """A Llama that has each of MobileLLM's layers twice, with weights that ParetoQ makes ternary.

    W' = round_half_even(clip(W / alpha, -0.99, 0.99) * 1.5) / 1.5 * alpha, alpha per row.
    """
    import torch

    folded = {}
    for name, t in tensors.items():
        if name.endswith("weight_clip_val"):
            continue
        clip = tensors.get(f"{name}_clip_val")
        if clip is not None:
            alpha = torch.clamp(clip, min=1e-5)
            t = torch.round(torch.clamp(t / alpha, -0.99, 0.99) * 1.5) / 1.5 * alpha
        layer = re.fullmatch(r"model\.layers\.([0-9]+)\.(.*)", name)
        if layer is None:
            folded[name] = t
            continue
        for again in range(2):
            folded[f"model.layers.{2 * int(layer[1]) + again}.{layer[2]}"] = t
    folded["lm_head.weight"] = folded["model.embed_tokens.weight"]
    return {**config, **_AS_LLAMA, "num_hidden_layers": 2 * config["num_hidden_layers"]}, folded


def _one_bit(config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """The same class, with MLX's 1-bit codes as floats: scale * code + bias."""
    import torch

    folded = {}
    for name, t in tensors.items():
        if name.endswith((".scales", ".biases")):
            continue
        stem = name.removesuffix("weight")
        if f"{stem}scales" in tensors:
            words = t.view(torch.int32)
            codes = (words[:, :, None] >> torch.arange(32)) & 1
            width = config["quantization"]["group_size"]
            wide = [
                tensors[f"{stem}{part}"].repeat_interleave(width, dim=1)
                for part in ("scales", "biases")
            ]
            t = wide[0] * codes.reshape(len(t), -1) + wide[1]
        folded[name] = t
    folded.setdefault("lm_head.weight", folded["model.embed_tokens.weight"])
    return {key: value for key, value in config.items() if key != "quantization"}, folded


_AS_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": False,
}
_FOLDED: dict[str, Fold] = {"MiniCPMForCausalLM": _minicpm, "MobileLLMForCausalLM": _mobilellm}


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
        with watched(model) as distances:
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
def watched(model: Any) -> Iterator[list[npt.NDArray[np.float64]]]:
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
