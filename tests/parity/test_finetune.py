"""The fine-tuning example: its stages equal what transformers computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rsrc
from rsr_testing.parity import judge
from rsr_testing.paths import ROOT

torch, transformers = judge.torch_and_transformers()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with judge.quiet():
        yield


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The training script would disable TorchDynamo for all tests that follow.
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    path = ROOT / "examples" / "finetune" / "finetune.py"
    spec = importlib.util.spec_from_file_location("finetune", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stages(
    finetune: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(finetune, "HELD_OUT_CHARACTERS", 600)
    monkeypatch.setattr(finetune, "LEARNING_RATE", 1e-2)  # so that few steps change weights
    with torch.enable_grad():
        finetune.run(tmp_path, steps=2, every=2)
        start, *steps = finetune.run(tmp_path, steps=4, every=2)  # continues
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(row["changed"] < 0.5 for row in steps)
    assert steps[-1]["changed"] > 0
    assert start["reused"]["tensors"] == 0
    for stage in (steps[1], steps[3]):
        assert stage["reused"]["tensors"] >= 3 * 7  # the matrices of three layers
        assert stage["perplexity"] != start["perplexity"]
    assert "step    4" in capsys.readouterr().out

    compiled = tmp_path / "model.rsr"
    rsrc.compile(tmp_path / "checkpoint", tmp_path / "again.rsr")
    assert compiled.read_bytes() == (tmp_path / "again.rsr").read_bytes()

    # transformers, of the same checkpoint.
    found = judge.load(tmp_path / "checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    ids = tokenizer(finetune.texts()[1], return_tensors="pt").input_ids
    window, total = finetune.CONTEXT, 0.0
    with torch.no_grad():
        for first in range(0, ids.shape[1] - 1, window):
            part = ids[:, first : first + window + 1]
            logits = found(part[:, :-1]).logits[0]
            total += torch.nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum").item()
    expected = torch.tensor(total / (ids.shape[1] - 1)).exp().item()
    assert steps[-1]["perplexity"] == pytest.approx(expected, rel=5e-3)  # ties: see judge


def test_starts_from_the_checkpoint(finetune: Any) -> None:
    """The weights made of digits and scales are rounded back to them."""
    model = finetune.load_model()
    stored = finetune.safetensors.torch.load_file(finetune.BASE / "model.safetensors")
    packed = finetune.tiny_lm.packed(model)
    assert packed.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(packed[name], tensor), name
