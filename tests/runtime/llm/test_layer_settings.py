"""Windows and rotation of each layer, by config.json, as transformers' classes define them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from rsr_formats import architectures
from rsr_formats.architectures import Architecture
from rsr_runtime.llm import ModelError
from rsr_runtime.llm.config import Config, read_config

SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
S, F = "sliding_attention", "full_attention"


def read(name: str, **changes: Any) -> Config:
    config = {**SIZES, "architectures": [f"{name}ForCausalLM"], **changes}
    return read_config({"config.json": json.dumps(config).encode()})


def windows(name: str, **changes: Any) -> list[int | None]:
    c = read(name, **changes)
    return [c.layer(i).window for i in range(4)]


def rotates(name: str, **changes: Any) -> list[bool]:
    c = read(name, **changes)
    return [c.layer(i).rope is not None for i in range(4)]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("Mistral", {}, [4096] * 4),
        ("Mistral", {"sliding_window": None}, [None] * 4),
        ("Mistral", {"sliding_window": 9, "layer_types": [S] * 4}, [9] * 4),
        ("Mistral", {"sliding_window": None, "layer_types": [F] * 4}, [None] * 4),
        ("Phi3", {}, [None] * 4),
        ("Phi3", {"sliding_window": 9}, [9] * 4),
        ("Qwen3", {"sliding_window": 9, "max_window_layers": 2}, [None] * 4),
        ("Qwen3", {"use_sliding_window": True}, [None] * 4),
        ("Qwen3", {"use_sliding_window": True, "max_window_layers": 3}, [None] * 3 + [4096]),
        ("Qwen2", {"use_sliding_window": True, "max_window_layers": 0}, [4096] * 4),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": None}, [None] * 4),
        (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 9, "layer_types": [S, F, S, F]},
            [9, None, 9, None],
        ),
        ("Qwen2", {"layer_types": [S, F, S, F]}, [None] * 4),
        ("SmolLM3", {"sliding_window": 9}, [None] * 4),
        ("SmolLM3", {"use_sliding_window": True, "sliding_window": 9}, [None] * 3 + [9]),
        (
            "SmolLM3",
            {"use_sliding_window": True, "sliding_window": 9, "layer_types": [S, F, F, F]},
            [9, None, None, None],
        ),
        ("Llama", {}, [None] * 4),
    ],
)
def test_windows(name: str, changes: dict[str, Any], expected: list[int | None]) -> None:
    assert windows(name, **changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True, True, True, False]),
        ({"no_rope_layer_interval": 2}, [True, False, True, False]),
        ({"no_rope_layers": [0, 1, 1, 0, 1]}, [False, True, True, False]),
        ({"num_hidden_layers": 1 << 30}, [True, True, True, False]),
    ],
)
def test_layers_without_rotation(changes: dict[str, Any], expected: list[bool]) -> None:
    assert rotates("SmolLM3", **changes) == expected


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Mistral", {"sliding_window": 9, "layer_types": [F] * 4}, "all layers of MistralFor"),
        ("Mistral", {"layer_types": ["attention"] * 4}, "has 'attention', but all layers of"),
        ("Mistral", {"sliding_window": 0}, "found 0 under sliding_window, expected a positive"),
        ("Qwen3", {"use_sliding_window": 1}, "under use_sliding_window, expected true or false"),
        (
            "Qwen3",
            {"use_sliding_window": True, "max_window_layers": -1},
            "found -1 under max_window_layers, expected a whole number from 0",
        ),
        ("Qwen3", {"layer_types": [F] * 3}, "layer_types has 3 entries, expected one for each of"),
        ("Qwen3", {"layer_types": ["chunked"] * 4}, "layer_types .*'chunked'"),
        ("SmolLM3", {"no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries, expected 1 or 0"),
        ("SmolLM3", {"no_rope_layers": [1, 0, 2, 1]}, "no_rope_layers has 4 entries, expected 1"),
        ("SmolLM3", {"no_rope_layers": "all"}, "no_rope_layers has 'all', expected 1 or 0"),
        ("SmolLM3", {"no_rope_layer_interval": 0}, "under no_rope_layer_interval, expected a pos"),
    ],
)
def test_what_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(name, **changes)


# --- rotation of its own in layers with windows ---------------------------------------------------


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """A class whose layers with a window have a rotation of their own."""
    made = replace(
        architectures.ARCHITECTURES[0],
        name="LocalForCausalLM",
        own_keys={"sliding_window": 9, "sliding_window_pattern": 3, "rope_local_base_freq": 1e4},
        rope_theta=1e6,
    )
    monkeypatch.setattr(architectures, "ARCHITECTURES", (made,))
    return made


LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("changes", "full", "sliding"),
    [
        ({}, (1e6, "default"), (1e4, "default")),
        ({"rope_theta": 5e5, "rope_local_base_freq": 7e3}, (5e5, "default"), (7e3, "default")),
        ({"rope_scaling": LINEAR}, (1e6, "linear"), (1e4, "default")),
        (
            {"rope_parameters": {F: {**LINEAR, "rope_theta": 3e5}, S: {"rope_theta": 2e4}}},
            (3e5, "linear"),
            (2e4, "default"),
        ),
    ],
)
def test_a_rotation_for_each_kind_of_layer(
    local: Architecture,
    changes: dict[str, Any],
    full: tuple[float, str],
    sliding: tuple[float, str],
) -> None:
    c = read("Local", **changes)
    assert windows("Local", **changes) == [9, 9, None, 9]
    ropes = [c.layer(i).rope for i in range(4)]
    assert [(r.theta, r.kind) for r in ropes if r] == [sliding, sliding, full, sliding]
    assert ropes[2] is c.rope


def test_a_rotation_for_no_kind_of_layer_is_refused(local: Architecture) -> None:
    with pytest.raises(ModelError, match=r"rope_parameters\.rope_theta is 5, expected an object"):
        read("Local", rope_parameters={"rope_theta": 5})
    with pytest.raises(ModelError, match=r"rope_parameters\.full_attention\.spiral is 1, which is"):
        read("Local", rope_parameters={F: {"spiral": 1}})


@pytest.mark.parametrize("interval", [0, -1, 2.5, True, "4"])
def test_the_interval_of_full_attention_is_a_positive_number(interval: object) -> None:
    with pytest.raises(ModelError, match=r"under full_attention_interval, expected a positive"):
        read("Qwen3_5", full_attention_interval=interval)
