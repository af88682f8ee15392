"""Logits with LoRA adapters compared with PEFT on transformers, which writes the adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_runtime import llm
from rsr_testing import models
from rsr_testing.parity import compare as parity
from rsr_testing.parity import judge
from rsr_testing.parity.judge import quiet, torch_and_transformers

torch_and_transformers()
peft = pytest.importorskip("peft", reason="needs peft")

ATTENTION = ["q_proj", "v_proj"]
EVERY = {
    "r": 4,
    "target_modules": "all-linear",
    "use_rslora": True,
    "rank_pattern": {"layers.0.self_attn.o_proj": 7, r"^model\.layers\.1\..*down_proj": 2},
    "alpha_pattern": {r"(q|up)_proj": 3},
}
REGEX = {"r": 3, "target_modules": r".*layers\.1\..*(k|o|gate|qkv)_proj", "lora_alpha": 5}
ATTENTION_OF_EXPERTS = {"target_modules": [*ATTENTION, "k_proj", "o_proj"], "use_rslora": True}
CASES = [
    ("bitnet-2b", {"target_modules": ATTENTION}),
    ("bitnet-2b", EVERY),
    ("llama-auto-bias", EVERY),  # int8 activations, and biases
    ("trilm", REGEX),  # a Llama
    ("bonsai", EVERY),  # a Qwen3
    ("bonsai-2", EVERY),  # in a rotated basis
    ("phi3", REGEX),  # fused projections
    ("qwen3-moe", ATTENTION_OF_EXPERTS),
    ("qwen3.5", EVERY),  # a hybrid
]
SEQUENCES, TOKENS = 24, 12


class Case:
    """A family's model in transformers, the file compiled from it, and adapters of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.family = models.FAMILIES[name]
        self.file = self.family.build(folder)
        self._model = judge.load(folder / "model")

    def adapted(self, *settings: dict[str, Any]) -> tuple[Any, list[Path]]:
        """Return the model with random adapters, all of them active, and their directories."""
        import torch

        with quiet():
            torch.manual_seed(5)
            wrapped: Any = self._model
            for i, given in enumerate(settings):
                config = peft.LoraConfig(**{"r": 8, "lora_alpha": 16, **given})
                if i:
                    wrapped.add_adapter(f"a{i}", config)
                else:
                    wrapped = peft.get_peft_model(wrapped, config, adapter_name="a0")
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.05)
            names = [f"a{i}" for i in range(len(settings))]
            wrapped.base_model.set_adapter(names)
            wrapped.save_pretrained(self.folder)
        return wrapped.eval(), [self.folder / name for name in names]

    def difference(self, wrapped: Any, model: llm.LanguageModel, names: list[str]) -> float:
        """Return the largest difference of logits, as a share of the largest.

        Of random sequences of tokens the one is taken whose roundings are the most certain.
        """
        rng = np.random.default_rng(3)
        vocabulary = self.family.settings["vocab_size"]
        sequences = rng.integers(3, vocabulary, (SEQUENCES, TOKENS)).tolist()
        answers = judge.answer(wrapped, sequences)
        best = max(range(SEQUENCES), key=lambda i: answers[i].clearance)
        assert answers[best].clearance >= judge.CLEARANCE
        want, tokens = answers[best].logits, sequences[best]
        largest = np.abs(want).max()
        # The adapters matter, and do not outlast their request.
        assert np.abs(model.logits(tokens) - want).max() > 0.01 * largest
        found = model.logits(tokens, adapter=names)
        steps = [model.next_logits(tokens[: i + 1], adapter=names) for i in range(TOKENS)]
        return float(max(np.abs(found - want).max(), np.abs(steps - want).max()) / largest)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.param, tmp_path)


@pytest.mark.parametrize(("case", "given"), CASES, indirect=["case"])
def test_an_adapter(case: Case, given: dict[str, Any]) -> None:
    wrapped, (path,) = case.adapted(given)
    with llm.load(case.file, kv="float32", adapters=[path]) as model:
        assert model.adapters == ("a0",)
        assert case.difference(wrapped, model, ["a0"]) <= parity.TOLERANCE


@pytest.mark.parametrize("case", ["trilm"], indirect=True)
def test_a_sum_of_adapters(case: Case) -> None:
    wrapped, paths = case.adapted({"target_modules": ATTENTION}, EVERY)
    with llm.load(case.file, kv="float32", adapters=paths) as model:
        assert case.difference(wrapped, model, ["a1", "a0"]) <= parity.TOLERANCE


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    """Kinds of adapters, as PEFT writes them."""
    case = Case("trilm", tmp_path)
    kinds = [
        (peft.LoraConfig(target_modules=ATTENTION, use_dora=True), "use_dora"),
        (peft.LoraConfig(target_modules=ATTENTION, bias="lora_only"), "bias"),
        (peft.LoraConfig(target_modules=ATTENTION, modules_to_save=["norm"]), "modules_to_save"),
        (peft.LoraConfig(target_modules=ATTENTION, init_lora_weights="pissa"), "pissa"),
        (peft.LoraConfig(target_modules=ATTENTION, trainable_token_indices=[1]), "trainable_token"),
        (peft.LoraConfig(target_modules=["lm_head"]), "lm_head"),
        (peft.LoraConfig(target_modules=["embed_tokens"]), "embed_tokens"),
        (peft.LoHaConfig(target_modules=ATTENTION), "LOHA"),
    ]
    for config, named in kinds:
        with quiet():
            wrapped = peft.get_peft_model(judge.load(case.folder / "model"), config)
            wrapped.save_pretrained(tmp_path / "adapter")
        with pytest.raises(llm.AdapterError, match=named):
            llm.load(case.file, adapters=[tmp_path / "adapter"])
