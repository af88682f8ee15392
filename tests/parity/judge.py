"""What transformers makes of the checkpoints of ``models.py``: the judge of `rsr_runtime.llm`.

It loads the folders themselves, insists that no tensor was missing or left over, and computes in
float32. It has no class for 1bitLLM's models; they are its BitNet with another activation, under
other names, and so they are built from its own parts (:func:`_load_1bitllm`).

**Ties.** Layers of BitNet round their inputs to integers, 127 for the largest of a row. Two right
implementations differ in the last bits of those inputs, as sums depend on their order, and where an
input lies next to the middle between two integers they may take different ones. That moves a logit
by some 1e-3 of the largest: ten thousand times as much as the rounding that caused it, and no error
of anyone. So that a comparison can be strict, the seeds of ``models.py`` are those with which no
input that transformers rounds lies within :data:`CLEARANCE` of such a middle, and the best two
logits of no position of the continuation within :data:`MARGIN` of the largest
(:func:`Findings.decided`). Both are properties of what transformers computed; nothing else takes
part in the choice.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

POSITIONS = 64  # of the text whose logits are compared
NEW_TOKENS = 64  # of the greedy continuation
PROMPT_TOKENS = 12  # of the text that it continues

DIFFERENT_TOKENS = 10  # at least, in the continuation: it is no loop of a few

# In units of the integers, of which 127 is the largest input of a row: 24 bits of it are 8e-6.
CLEARANCE = 2e-5
MARGIN = 1e-3  # of the largest logit: five times what a difference may be


def sibling(name: str) -> ModuleType:
    """Import a file of this folder by path: in pytest's importlib mode it has no name."""
    full = f"rsr_tests_parity_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module  # before it runs: its dataclasses look themselves up there
        spec.loader.exec_module(module)
    return sys.modules[full]


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
        # A quantised checkpoint keeps its stored dtypes, and PreTrainedModel.float() is blocked; so
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
class Findings:
    """What transformers says of a model."""

    tokens: list[int]  # of the text
    logits: FloatArray  # (POSITIONS, vocabulary): of the text's first tokens
    prompt: list[int]
    continuation: list[int]  # NEW_TOKENS, the most probable ones
    perplexity: float  # of the whole text
    clearance: float  # least distance of a rounded input from the middle of two integers
    margin: float  # least distance of the two best logits, in largest logits of their position
    eos: int

    @property
    def decided(self) -> bool:
        """Whether no rounding hangs on the order of sums, and the text is one."""
        return (
            self.clearance >= CLEARANCE
            and self.margin >= MARGIN
            and len(set(self.continuation)) >= DIFFERENT_TOKENS
            and self.eos not in self.continuation
        )


def examine(folder: Path, tokens: list[int]) -> Findings:
    """Ask transformers for everything.

    Args:
        folder: the model directory.
        tokens: of a text, BOS first, more than POSITIONS.
    """
    model = load(folder)
    prompt = tokens[:PROMPT_TOKENS]
    continuation = greedy(model, prompt)
    with _watched(model) as found:
        logits = forward(model, tokens[:POSITIONS])
        decided = forward(model, prompt + continuation)[PROMPT_TOKENS - 1 : -1]
    best = np.sort(decided, axis=-1)[:, -2:]
    return Findings(
        tokens=tokens,
        logits=logits,
        prompt=prompt,
        continuation=continuation,
        perplexity=_perplexity(forward(model, tokens), tokens),
        clearance=min(found, default=0.5),
        margin=float(((best[:, 1] - best[:, 0]) / np.abs(decided).max(axis=-1)).min()),
        eos=model.config.eos_token_id,
    )


def clearance(folder: Path, tokens: list[int]) -> float:
    """Return that of the text alone: all there is to know of most seeds."""
    model = load(folder)
    with _watched(model) as found:
        forward(model, tokens[:POSITIONS])
    return min(found, default=0.5)


def forward(model: Any, tokens: list[int]) -> FloatArray:
    """Return the logits (len(tokens), vocabulary)."""
    with quiet():
        import torch

        found: FloatArray = model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
        assert found.dtype == np.float32
        return found


def greedy(model: Any, prompt: list[int]) -> list[int]:
    """Return the NEW_TOKENS most probable tokens, or fewer if they end with EOS."""
    with quiet():
        import torch

        answer = model.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
        return [int(token) for token in answer[0, len(prompt) :]]


def _perplexity(logits: FloatArray, tokens: list[int]) -> float:
    """Return exp of the mean negative logarithm of what each token but the first is given."""
    import torch

    scores = torch.from_numpy(logits[:-1]).double()
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(tokens[1:]))
    return float(loss.exp())


@contextlib.contextmanager
def _watched(model: Any) -> Iterator[list[float]]:
    """Collect, for each call of a BitNet layer, how near its inputs come to a tie."""
    with quiet():
        from transformers.integrations.bitnet import AutoBitLinear, BitLinear

    found: list[float] = []

    def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].double()
        scaled = (x * (127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5))).abs()
        found.append(float((scaled - scaled.floor() - 0.5).abs().min()))

    kinds = (AutoBitLinear, BitLinear)
    handles = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, kinds)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
