"""The shared table of architectures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rsr_formats.architectures import ARCHITECTURES, PROJECTIONS, of_config, of_gguf


def test_names_are_unique() -> None:
    names = Counter(a.name for a in ARCHITECTURES)
    gguf_names = Counter(name for a in ARCHITECTURES for name in a.gguf_names)
    assert set((names | gguf_names).values()) == {1}


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


def test_each_projection_leads_from_or_to_the_hidden_size() -> None:
    assert all(widths.count("hidden") == 1 for widths in PROJECTIONS.values())
