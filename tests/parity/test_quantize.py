"""The rules that quantize master weights, compared with the same formulas in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import rsr_runtime
import rsrc
from rsr_testing.matrices import matrix_of
from rsr_testing.parity.judge import torch_and_transformers

torch, _ = torch_and_transformers()

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("seed", range(4))
def test_values_agree(seed: int, tmp_path: Path) -> None:
    """Weights around every threshold; clip values down to below the floor."""
    torch.manual_seed(seed)
    clip = torch.rand(300, 1) * torch.tensor([1.0, 1e-5, 1e3]).repeat(100).reshape(300, 1)
    third = torch.maximum(clip, torch.tensor(1e-5)) / 3
    beside = third * (1 + torch.randint(-4, 5, (300, 64)) * 2.0**-24)
    w = torch.cat([beside * torch.randn(300, 64).sign(), torch.randn(300, 200) * clip], dim=1)

    least = torch.tensor(1e-5)
    alpha = torch.where(clip > least, clip, least)
    levels = 1.5
    scaled = (w / alpha).clamp(-(1 - 1e-2), 1 - 1e-2)
    want = (torch.round(scaled * levels) / levels * alpha).numpy()

    (tmp_path / "config.json").write_text(json.dumps({"w_bits": 0}))
    source = tmp_path / "model.safetensors"
    save_file({NAME: w.numpy(), f"{NAME}_clip_val": clip.numpy()}, source)
    report = rsrc.compile(source, tmp_path / "m.rsr")
    assert {t.name: t.layout for t in report.tensors}[NAME] == "paretoq"
    with rsr_runtime.load(tmp_path / "m.rsr") as model:
        matrix = matrix_of(model, NAME)
        np.testing.assert_array_equal(matrix.to_dense(), want)
    near = np.sign(np.abs(want[:, :64]))
    assert 0.2 < near.mean() < 0.8  # weights on both sides of the threshold


@pytest.mark.parametrize("rule", ["absmean", "absmedian"])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_rules_of_quantize_agree(rule: str, per: str, tmp_path: Path) -> None:
    """torch.median, too, takes the lower of two values in the middle."""
    torch.manual_seed(5)
    w = torch.randn(60, 90)
    magnitudes = w.abs() if per == "row" else w.abs().reshape(1, -1)
    typical = magnitudes.mean(1) if rule == "absmean" else magnitudes.median(1).values
    s = 1.0 / typical.clamp(min=1e-5).reshape(-1, 1)
    want = (w * s).round().clamp(-1, 1) / s
    save_file({NAME: w.numpy()}, tmp_path / "model.safetensors")
    rsrc.compile(tmp_path / "model.safetensors", tmp_path / "m.rsr", quantize=rule, per=per)
    with rsr_runtime.load(tmp_path / "m.rsr") as model:
        matrix = matrix_of(model, NAME)
        np.testing.assert_array_equal(matrix.to_dense(np.int8), want.sign().numpy())
        np.testing.assert_allclose(matrix.to_dense(), want.numpy(), rtol=3e-7)
