"""What transformers makes of the checkpoints of ``models.py``: the judge of `rsr_runtime.llm`.

It loads the folders themselves, insists that no tensor was missing or left over, and computes in
float32. It has no class for 1bitLLM's models; they are its BitNet with another activation, under
other names, and so they are built from its own parts (:func:`_load_1bitllm`).

**Ties.** Layers of BitNet round their inputs to integers, 127 for the largest of a row. Two right
implementations differ in the last bits of those inputs, as sums depend on their order, and where an
input lies next to the middle between two integers they may take different ones. That moves a logit
by some 1e-3 or 1e-2 of the largest: ten thousand times as much as the rounding that caused it, and
no error of anyone. So that a comparison can be strict, ``make_golden_llm.py`` looks for texts with
which no input that transformers rounds lies within :data:`CLEARANCE` of such a middle, and for
prompts with which, besides, the best two logits of no position of the continuation lie within
:data:`MARGIN`. Both are properties of what transformers computed; nothing else takes part in the
choice.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

NEW_TOKENS = 64  # of a continuation
DIFFERENT_TOKENS = 10  # at least, in a continuation: it is no loop of a few

# How far the inputs of right implementations may be apart, as a share of the input and a usual one
# of its row, which is 40 where the largest is 127: attention's outputs differ by 2e-7 to 5e-7 from
# those of exact arithmetic, transformers' as well as ours.
CLEARANCE = 7e-7
USUAL = 40
MARGIN = 1e-3  # of the largest logit: five times what a difference may be


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Make transformers quiet and its arithmetic the plain one, on one thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        logging: Any = transformers.utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(1)
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            yield


def load(folder: Path) -> Any:
    """Return the model of a folder in float32, everything in the folder being used."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with quiet():
        if config["architectures"] == ["BitnetForCausalLM"]:
            return _load_1bitllm(folder, config)
        import torch
        import transformers

        auto: Any = transformers.AutoModelForCausalLM
        model, info = auto.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            output_loading_info=True,
        )
        problems = {key: value for key, value in info.items() if value}
        if problems:
            raise RuntimeError(f"{folder} was not loaded in full: {problems}")
        # A quantized checkpoint keeps its stored dtypes, and PreTrainedModel.float() is blocked; so
        # float() of the base class, which widens BF16 and leaves the packed codes alone.
        torch.nn.Module.float(model)
        return model.eval()


def _load_1bitllm(folder: Path, config: dict[str, Any]) -> Any:
    """Build 1bitLLM's model of transformers' BitNet, which differs in names and activation."""
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
    """What a model says of one sequence of tokens."""

    logits: FloatArray  # (tokens, vocabulary)
    clearance: float  # least distance of an input that is rounded from the middle of two integers,
    # as a share of the input and a usual one; 1 where nothing is rounded


@dataclass(frozen=True)
class Continuation:
    """The most probable tokens after a prompt."""

    tokens: list[int]  # NEW_TOKENS, or fewer where they end with EOS
    clearance: float  # as above, of prompt and tokens
    margin: float  # least distance of the best two logits, in largest logits of their position

    @property
    def is_decided(self) -> bool:
        """Whether no token hangs on the order of sums, and there is something to see."""
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
    """Return exp of the mean negative logarithm of what each token but the first is given."""
    import torch

    scores = torch.from_numpy(logits[:-1]).double()
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(tokens[1:]))
    return float(loss.exp())


@contextlib.contextmanager
def _watched(model: Any) -> Iterator[list[npt.NDArray[np.float64]]]:
    """Collect, for each call of a BitNet layer, how near each row's inputs come to a tie."""
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear

    found: list[npt.NDArray[np.float64]] = []

    def hook(module: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if module.rms_norm is None else module.rms_norm(inputs[0])
        x = x.double()
        scaled = (x * (127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5))).abs()
        distance = (scaled - scaled.floor() - 0.5).abs() / (scaled + USUAL)
        found.append(distance.amin(dim=-1).numpy())

    kinds = (AutoBitLinear, BitLinear)
    handles = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, kinds)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
