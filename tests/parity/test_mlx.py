"""Models in MLX's 1-bit codes: transformers runs their dequantized floats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_runtime import llm
from rsr_testing import models
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers

torch, _ = torch_and_transformers()
safetensors = pytest.importorskip("safetensors.numpy")

GROUP = 128


def one_bit(rng: Any, shape: tuple[int, int]) -> tuple[dict[str, Any], Any]:
    """Return weight, scales and biases of random codes, and the floats that they mean."""
    rows, columns = shape
    codes = rng.integers(0, 2, shape, np.uint8)
    scales = rng.uniform(0.02, 0.08, (rows, columns // GROUP)).astype(np.float16)
    biases = -scales / np.float16(2)
    words = np.packbits(codes, axis=1, bitorder="little").view("<u4")
    wide = [np.repeat(t.astype(np.float32), GROUP, axis=1) for t in (scales, biases)]
    parts = {"weight": words, "scales": scales, "biases": biases}
    return parts, wide[0] * codes + wide[1]


@pytest.mark.parametrize("tied", [True, False])
def test_logits(tied: bool, tmp_path: Path) -> None:
    """Embedding, layers and head are binary, as in the published Bonsai models."""
    family = models.FAMILIES["bonsai"]
    family.save(tmp_path / "mlx", family.tensors())
    path = tmp_path / "mlx" / "model.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        made = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
    made.pop("lm_head.weight", None)
    if not tied:
        made["lm_head.weight"] = made["model.embed_tokens.weight"]
    rng = np.random.default_rng(7)
    packed: dict[str, Any] = {}
    floats: dict[str, Any] = {}
    for name, tensor in made.items():
        if tensor.ndim == 2:
            parts, floats[name] = one_bit(rng, tensor.shape)
            packed |= {name.removesuffix("weight") + part: t for part, t in parts.items()}
        else:
            packed[name] = floats[name] = np.ascontiguousarray(tensor)
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    config |= {"tie_word_embeddings": tied, "dtype": "float32"}
    (tmp_path / "floats").mkdir()
    (tmp_path / "floats" / "config.json").write_text(json.dumps(config))
    safetensors.save_file(floats, tmp_path / "floats" / "model.safetensors", {"format": "pt"})
    quantization = {"group_size": GROUP, "bits": 1, "mode": "affine"}
    config |= {"quantization": quantization, "quantization_config": quantization}
    (tmp_path / "mlx" / "config.json").write_text(json.dumps(config))
    safetensors.save_file(packed, path, {"format": "mlx"})

    report = rsrc.compile(tmp_path / "mlx", tmp_path / "m.rsr")
    assert {t.kind for t in report.tensors if len(t.shape) == 2} == {"binary"}
    tokens = rng.integers(0, config["vocab_size"], 40).tolist()
    with judge.quiet():
        expected = judge.load(tmp_path / "floats")(torch.tensor([tokens])).logits[0].numpy()
    with llm.load(tmp_path / "m.rsr", kv="float32") as model:
        found = model.logits(tokens)
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
