"""The shared table of architectures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rsr_formats.architectures import (
    ARCHITECTURES,
    PROJECTIONS,
    DecoderNames,
    canonical,
    is_tied,
    of_config,
    of_gguf,
    other_prefix,
    takes_int8_activations,
)


def test_names_are_unique() -> None:
    names = Counter(a.name for a in ARCHITECTURES)
    gguf_names = Counter(name for a in ARCHITECTURES for name in a.gguf_names)
    assert set(names.values()) == {1}
    assert {name for name, count in gguf_names.items() if count > 1} == {"llama"}  # and Mistral


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"architectures": ["BitnetForCausalLM"], "model_type": "bitnet"}, "BitnetForCausalLM"),
        ({"architectures": ["BitNetForCausalLM", "LlamaForCausalLM"]}, "BitNetForCausalLM"),
        ({"architectures": ["Qwen3Model"]}, "Qwen3Model"),
        ({"model_type": "llama"}, "LlamaForCausalLM"),
        ({"architectures": [], "model_type": "qwen3"}, "Qwen3ForCausalLM"),
        ({"architectures": [None], "model_type": "qwen3"}, "Qwen3ForCausalLM"),
        ({"architectures": ["GemmaForCausalLM"], "model_type": "llama"}, None),
        ({"architectures": [["LlamaForCausalLM"]]}, None),
        ({"architectures": "LlamaForCausalLM"}, None),
        ({"model_type": ["llama"]}, None),
        ({}, None),
    ],
)
def test_of_config(config: dict[str, Any], name: str | None) -> None:
    found = of_config(config)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("gguf", "name"),
    [
        ("llama", "LlamaForCausalLM"),
        ("bitnet-25", "BitNetForCausalLM"),
        ("bitnet", "BitnetForCausalLM"),
        ("mamba", None),
        (["llama"], None),
        (None, None),
    ],
)
def test_of_gguf(gguf: object, name: str | None) -> None:
    found = of_gguf(gguf)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("LlamaForCausalLM", {}, False),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}, True),
        ("LlamaForCausalLM", {"share_embedding": True}, False),
        ("MiniCPMForCausalLM", {}, True),
        ("MiniCPMForCausalLM", {"tie_word_embeddings": False}, False),
        ("MobileLLMForCausalLM", {"tie_word_embeddings": False}, True),
        ("MobileLLMForCausalLM", {"tie_word_embeddings": True, "share_embedding": False}, False),
        ("Unknown", {"tie_word_embeddings": True}, True),
        ("Unknown", {"tie_word_embeddings": 1}, False),
    ],
)
def test_which_heads_are_tied(name: str, changes: dict[str, Any], expected: bool) -> None:
    assert is_tied({"architectures": [name], **changes}) is expected


def test_each_projection_leads_from_or_to_the_hidden_size() -> None:
    assert all(widths.count("hidden") == 1 for widths in PROJECTIONS.values())


@pytest.mark.parametrize(
    ("names", "prefix", "head"),
    [
        ([], "model.", "lm_head"),
        (["model.layers.0.x", "lm_head.weight"], "model.", "lm_head"),
        (["layers.0.x", "embed_tokens.weight", "lm_head.weight"], "", "lm_head"),
        (["model.language_model.layers.0.x", "lm_head.weight"], "model.language_model.", "lm_head"),
        (
            ["language_model.model.layers.0.x", "language_model.lm_head.weight"],
            "language_model.model.",
            "language_model.lm_head",
        ),
        # The decoder is where most of its tensors are.
        (["layers.0.x", "model.layers.0.x", "model.layers.1.x"], "model.", "lm_head"),
        (["layers.0.x", "model.layers.0.x"], "model.", "lm_head"),
        (["vision.layers.0.x", "audio.embed_tokens.weight"], "model.", "lm_head"),
    ],
)
def test_names_of_a_decoder(names: list[str], prefix: str, head: str) -> None:
    found = DecoderNames.find(names)
    assert found == DecoderNames(prefix, head)
    for module in (f"{prefix}layers.0.mlp.up_proj", f"{prefix}embed_tokens", head):
        usual = "lm_head" if module == head else f"model.{module.removeprefix(prefix)}"
        assert found.usual(module) == usual
        assert found.usual(f"{module}.weight") == f"{usual}.weight"


def test_other_prefixes_and_the_usual_one() -> None:
    assert other_prefix(["a.b.layers.0.mlp.up_proj.weight", "w"]) == "a.b."
    assert other_prefix(["a.b.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"]) is None
    assert other_prefix(["w", "lm_head.weight"]) is None
    assert canonical("layers.0.mlp.up_proj") == "model.layers.0.mlp.up_proj"
    assert canonical("language_model.model.layers.11.x") == "model.layers.11.x"
    assert canonical("lm_head") == "lm_head"
    assert canonical("vision.layers.0.x") == "vision.layers.0.x"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"architectures": ["BitNetForCausalLM"]}, False),
        ({"architectures": ["BitNetForCausalLM"], "input_bits": 8}, True),  # made from GGUF
        ({"architectures": ["LlamaForCausalLM"], "input_bits": 8}, False),
        ({"architectures": ["BitnetForCausalLM"]}, True),
        ({"architectures": ["LlamaForCausalLM"]}, False),
        ({"quantization_config": {"quant_method": "bitnet"}}, True),
        ({"quantization_config": {"quant_method": ["bitnet"]}}, False),
        ({"quantization_config": "bitnet"}, False),
    ],
)
def test_which_models_take_int8_activations(config: dict[str, Any], expected: bool) -> None:
    assert takes_int8_activations(config) == expected
