"""Settings of mixtures of experts, read from an untrusted config.json."""

from __future__ import annotations

from typing import Any

import pytest

from rsr_formats.experts import Experts, experts_of

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


def test_settings() -> None:
    assert experts_of(CONFIG) == Experts(8, 2, 16)
    assert experts_of({"architectures": ["Qwen3MoeForCausalLM"]}) == Experts(128, 8, 768)
    assert experts_of({**CONFIG, "architectures": ["Qwen3ForCausalLM"]}) is None
    # transformers 5 writes the other name.
    renamed = {k: v for k, v in CONFIG.items() if k != "num_experts"} | {"num_local_experts": 4}
    assert experts_of(renamed) == Experts(4, 2, 16)


@pytest.mark.parametrize(
    ("settings", "sparse"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"decoder_sparse_step": 2}, [1, 3, 5]),
        ({"mlp_only_layers": [0, 3, 9, -1]}, [1, 2, 4, 5]),
        ({"decoder_sparse_step": 3, "mlp_only_layers": [2, 3]}, [5]),
    ],
)
def test_layers(settings: dict[str, Any], sparse: list[int]) -> None:
    """As `Qwen3MoeDecoderLayer` of transformers decides."""
    experts = experts_of({**CONFIG, **settings})
    assert experts is not None
    assert [n for n in range(6) if experts.are_in(n)] == sparse
    for count in range(7):
        assert experts.layers_among(count) == sum(n < count for n in sparse)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, but there are 8 experts"),
        ({"num_experts": 1 << 17}, "num_experts is 131072, expected at most 65536"),
        ({"num_experts": 0}, "num_experts is 0, expected a positive integer"),
        ({"num_experts": True}, "num_experts is True"),
        ({"num_experts_per_tok": -1}, "num_experts_per_tok is -1"),
        ({"moe_intermediate_size": 1.5}, "moe_intermediate_size is 1.5"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"norm_topk_prob": 1}, "norm_topk_prob is 1, expected true or false"),
        ({"mlp_only_layers": [0.5]}, "mlp_only_layers is not a list of integers"),
        ({"mlp_only_layers": 3}, "mlp_only_layers is not a list of integers"),
    ],
)
def test_invalid_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        experts_of({**CONFIG, **settings})
