"""Ternary weights in float checkpoints, saved and run by transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime
import rsrc
from rsr_testing.matrices import matrix_of
from rsr_testing.parity.judge import torch_and_transformers
from rsrc.inspection.compare import compare

torch, transformers = torch_and_transformers()

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320}


def by_shards(weight: Any, name: str) -> Any:
    """One scale for each sixth of the rows, or of the columns of layers cut along their inputs."""
    if "embed" in name or "lm_head" in name:
        return weight
    across = 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
    return torch.cat([ternary(part) for part in weight.chunk(6, dim=across)], dim=across)


def by_groups(weight: Any, name: str) -> Any:
    """One scale for each row and 128 columns."""
    groups = weight.reshape(-1, 128)
    return torch.stack([ternary(group) for group in groups]).reshape(weight.shape)


def ternary(weight: Any) -> Any:
    scale = weight.abs().mean()
    return (weight / scale).round().clamp(-1, 1) * scale.to(torch.bfloat16)


def trilm() -> Any:
    config = transformers.LlamaConfig(hidden_size=192, intermediate_size=480, **SIZES)
    return transformers.LlamaForCausalLM(config)


def bonsai() -> Any:
    config = transformers.Qwen3Config(
        hidden_size=256, intermediate_size=384, head_dim=32, num_key_value_heads=2, **SIZES
    )
    return transformers.Qwen3ForCausalLM(config)


@pytest.mark.parametrize("shard", ["1GB", "200KB"])
@pytest.mark.parametrize(
    ("make", "rule", "dtype", "embedded"),
    [(trilm, by_shards, "float16", False), (bonsai, by_groups, "bfloat16", True)],
)
def test_layers_agree(
    make: Callable[[], Any],
    rule: Callable[[Any, str], Any],
    dtype: str,
    embedded: bool,
    shard: str,
    tmp_path: Path,
) -> None:
    torch.manual_seed(3)
    model = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(rule(parameter, name))
    folder = tmp_path / "model"
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard != "1GB")
    report = rsrc.compile(folder, tmp_path / "m.rsr")
    assert compare(tmp_path / "m.rsr", folder) == len(report.tensors)

    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    seen: dict[str, tuple[Any, Any]] = {}
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda module, x, y, name=name: seen.update({name: (x[0][0].numpy(), y[0].numpy())})
            )
    with torch.no_grad():
        reference(torch.tensor([[3, 14, 15, 92, 65, 35]]))
    compiled = rsr_runtime.load(tmp_path / "m.rsr", verify=True)
    assert len(seen) == 15
    for name, (x, want) in seen.items():
        if name == "lm_head" and not embedded:
            assert not compiled.is_indexed(f"{name}.weight")
            continue
        matrix = matrix_of(compiled, f"{name}.weight")
        weight = reference.get_submodule(name).weight.detach().numpy()
        np.testing.assert_array_equal(matrix.to_dense(), weight)
        allowed = x.shape[1] * 2.0**-23 * (np.abs(x) @ np.abs(weight.T))
        assert (np.abs(matrix.linear(x) - want) <= allowed).all(), name
    assert compiled.is_indexed("model.embed_tokens.weight") == embedded
