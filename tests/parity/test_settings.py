"""Every setting that transformers knows is in a table, and models whose settings it overrides."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_formats.keys import review
from rsr_formats.keys.config import CONFIG, QUANTIZATION, ROPE
from rsr_formats.keys.generation import GENERATION
from rsr_runtime import llm
from rsr_testing import models
from rsr_testing.models import Tensor
from rsr_testing.parity import compare as parity
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers

torch, transformers = torch_and_transformers()

CLASSES = (
    "LlamaConfig", "BitNetConfig", "Qwen2Config", "Qwen3Config", "MistralConfig", "Phi3Config",
    "SmolLM3Config", "Olmo2Config",
)  # fmt: skip

# Read by PreTrainedConfig.__post_init__ and its properties without being fields.
BASE = (
    "torch_dtype", "num_labels", "rope_scaling", "rope_theta", "partial_rotary_factor",
    "name_or_path", "_commit_hash", "output_attentions", "attn_implementation",
    "experts_implementation", "per_layer_config", "quantization_config", "auto_map",
    "_attn_implementation_internal", "_experts_implementation_internal",
)  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_a_config_class_is_in_a_table(name: str) -> None:
    made = getattr(transformers, name)
    fields = {field.name for field in dataclasses.fields(made)}
    assert len(fields) > 20
    known = CONFIG.keys() | GENERATION.keys()
    assert (fields | set(made().to_dict()) | set(BASE)) - known == set()


@pytest.mark.parametrize("name", CLASSES)
def test_a_config_as_transformers_saves_it_is_understood(name: str) -> None:
    made = getattr(transformers, name)(architectures=[name.replace("Config", "ForCausalLM")])
    found = review(made.to_dict(), {})
    assert (found.refused, found.not_understood) == ((), ())


def test_every_rotary_parameter_is_in_a_table() -> None:
    from transformers.modeling_rope_utils import RopeParameters

    assert len(RopeParameters.__annotations__) > 10
    assert set(RopeParameters.__annotations__) - ROPE.keys() == set()


def test_every_setting_of_bitnet_quantization_is_in_a_table() -> None:
    made = transformers.BitNetQuantConfig
    parameters = set(inspect.signature(made).parameters) - {"kwargs"}
    assert len(parameters) == 5
    assert (parameters | set(made().to_dict())) - QUANTIZATION.keys() == set()


# --- the same model whatever the settings say ----------------------------------------------------

TOKENS = list(range(40, 90))


def logits(
    name: str,
    folder: Path,
    config: dict[str, Any],
    rename: Callable[[str], str] = lambda name: name,
    tensors: Callable[[dict[str, Tensor]], None] | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Return the logits of a family's model with changes: transformers' and ours."""
    import rsrc

    family = models.FAMILIES[name]
    made = family.tensors()
    if tensors is not None:
        tensors(made)
    settings = {key: v for key, v in {**family.config, **config}.items() if v is not None}
    changed = dataclasses.replace(family, config=settings)
    changed.save(folder / "model", {rename(key): tensor for key, tensor in made.items()})
    rsrc.compile(folder / "model", folder / "model.rsr", **options)
    (wanted,) = judge.answer(judge.load(folder / "model"), [TOKENS])
    with llm.load(folder / "model.rsr", kv="float32") as model:
        return wanted.logits, model.logits(TOKENS)


def assert_same(wanted: Any, found: Any) -> None:
    assert np.abs(found - wanted).max() <= parity.TOLERANCE * np.abs(wanted).max()


def test_a_head_although_the_config_ties_it(tmp_path: Path) -> None:
    assert_same(*logits("bonsai-untied", tmp_path, {"tie_word_embeddings": True}))


def test_a_head_that_equals_the_embedding_it_is_tied_to(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

    assert_same(*logits("trilm", tmp_path, {"tie_word_embeddings": True}, tensors=change))


def test_a_tied_embedding_that_is_stored_as_the_head(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    assert_same(*logits("trilm", tmp_path, {"tie_word_embeddings": True}, tensors=change))


def test_names_of_a_base_model(tmp_path: Path) -> None:
    assert_same(*logits("trilm", tmp_path, {}, rename=lambda name: name.removeprefix("model.")))


def test_bitnet_without_quantization_config_takes_floats(tmp_path: Path) -> None:
    """Its matrices are ternary floats, as in the dequantized checkpoint of 2B-4T."""
    shards = models.shards(1, "BF16")

    def change(tensors: dict[str, Tensor]) -> None:
        random = models.Random(3)
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            rows, columns = tensors[name].values.shape
            del tensors[f"{name}_scale"]
            tensors.update(shards(random, name.removesuffix(".weight"), 4 * rows, columns))

    config = {"quantization_config": None}
    wanted, found = logits("bitnet-2b", tmp_path, config, tensors=change)
    assert_same(wanted, found)
