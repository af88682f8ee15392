"""adapter_config.json: ranks and scales by module, and what is refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from rsr_runtime.llm import AdapterError
from rsr_runtime.llm.adapters.settings import LoraSettings, read_settings

MODULE = "model.layers.1.self_attn.q_proj"


def settings(**given: Any) -> LoraSettings:
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"], **given}
    return read_settings("FILE", json.dumps(config).encode())


@pytest.mark.parametrize(
    ("given", "rank", "scale"),
    [
        ({}, 16, 2.0),
        ({"use_rslora": True}, 16, 8.0),
        ({"rank_pattern": {"q_proj": 4}}, 4, 8.0),
        ({"rank_pattern": {"proj": 4, "self_attn.q_proj": 8}}, 8, 4.0),  # the first that matches
        ({"rank_pattern": {r"^model\.layers\.1\.self_attn\.q_proj": 2}}, 2, 16.0),
        ({"rank_pattern": {"layers.[0-9].*(k|q)_proj": 2}, "use_rslora": True}, 2, 32 / 2**0.5),
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 2}}, 16, 2.0),
        ({"alpha_pattern": {"q_proj": 8}, "rank_pattern": {"q_proj": 2}}, 2, 4.0),
        ({"lora_alpha": 0.5}, 16, 1 / 32),
    ],
)
def test_rank_and_scale(given: dict[str, Any], rank: int, scale: float) -> None:
    found = settings(**given)
    assert found.rank_of(MODULE) == rank
    assert math.isclose(found.scale_of(MODULE, rank), scale)


@pytest.mark.parametrize(
    ("given", "is_target"),
    [
        ({}, True),
        ({"target_modules": ["k_proj", "self_attn.q_proj"]}, True),
        ({"target_modules": [MODULE]}, True),
        ({"target_modules": ["proj"]}, False),  # no part of a name
        ({"exclude_modules": ["layers.1.self_attn.q_proj"]}, False),
        ({"layers_to_transform": [0, 2]}, False),
        ({"layers_to_transform": 1}, True),
    ],
)
def test_targets(given: dict[str, Any], is_target: bool) -> None:
    assert settings(**given).is_target(MODULE) is is_target


@pytest.mark.parametrize("given", [{"target_modules": "all-linear"}, {"exclude_modules": "(a+)+b"}])
def test_patterns_of_modules_are_not_matched(given: dict[str, Any]) -> None:
    assert settings(**given).targets is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"peft_type": "LOHA"}, "kind 'LOHA', expected LORA"),
        ({"use_dora": True}, "use_dora': true is not supported: DoRA"),
        ({"bias": "all"}, "found bias = 'all', expected"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save': a list .* compile a checkpoint"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices': .* rows of the embedding"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"new_kind": {"a": 1}}, "new_kind': an object .* expected a LoRA adapter without it"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"r": 0}, "r: found 0, expected a rank"),
        ({"r": True}, "r: found true, expected a rank"),
        ({"use_rslora": 1}, "use_rslora: found 1, expected true or false"),  # true, for PEFT
        ({"lora_alpha": "8"}, "lora_alpha: found .*, expected a number"),
        ({"lora_alpha": 10**400}, "lora_alpha: found .*, expected a number"),
        ({"lora_alpha": math.nan}, "lora_alpha: found .*, expected a number"),
        ({"target_modules": [1]}, "target_modules: found .*, expected names"),
        ({"target_modules": None}, "target_modules: found null, expected names"),
        ({"layers_to_transform": "1"}, "layers_to_transform"),
        ({"rank_pattern": [1]}, "rank_pattern: expected a map"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern: found 0"),
        ({"alpha_pattern": {"q": None}}, "alpha_pattern: found null"),
        ({"rank_pattern": {"(": 1}}, "is not a regular expression"),
        ({"rank_pattern": {"(a+)+b": 1}}, "too long to match"),
        ({"rank_pattern": {"(?x)(a+) +b": 1}}, "too long to match"),
        ({"rank_pattern": {".*.*.*x": 1}}, "too long to match"),
        (
            {"rank_pattern": {f".*.*{i}": 1 for i in range(17)}},
            "too long to match.* at most 32 in all",
        ),
    ],
)
def test_what_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdapterError, match=f"FILE: .*{sentence}|FILE: {sentence}"):
        settings(**given)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (1 << 21)])
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(AdapterError, match=re.escape("FILE")):
        read_settings("FILE", data)
