"""What `decompile` writes runs in transformers, whatever dtype it is loaded in.

The judge of a form with other arithmetic than the source's is the source in transformers with the
same arithmetic: without the quantization of activations, or with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open

import rsrc
from rsr_testing import models
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers
from rsrc.export.decompile import decompile

torch, transformers = torch_and_transformers()

Array = npt.NDArray[np.float32]

TOKENS = list(range(3, 35))
LOST = "activations are no longer quantized to int8"
GAINED = "activations are now quantized to int8"
# Of rounding every activation to a dtype, as a share of the largest logit.
NOISE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}


def load(folder: Path, dtype: Any) -> Any:
    """Return the model of a folder; every tensor must be used, and none be missing."""
    with judge.quiet():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        assert not any(info.values()), info
        return model.eval()


def logits_of(model: Any, tokens: list[list[int]]) -> Array:
    """Return the logits, of any dtype, as float32 (sequences, tokens, vocabulary)."""
    with judge.quiet():
        found: Array = model(torch.tensor(tokens)).logits.float().numpy()
        return found


@contextlib.contextmanager
def float_activations() -> Iterator[None]:
    """Have the layers of BitNet take their inputs as they are."""
    with judge.quiet():
        from transformers.integrations import bitnet

    def plain(self: Any, x: Any) -> Any:
        x = x if self.rms_norm is None else self.rms_norm(x)
        y = torch.nn.functional.linear(x, bitnet.unpack_weights(self.weight, dtype=x.dtype))
        y = y / self.weight_scale
        return y if self.bias is None else y + self.bias

    with (
        mock.patch.object(bitnet.BitLinear, "forward", plain),
        mock.patch.object(bitnet.ActQuant, "apply", lambda x: x),
    ):
        yield


def stored_dtypes(folder: Path) -> set[str]:
    """Return the dtypes of all tensors of floats."""
    with safe_open(folder / "model.safetensors", "np") as file:
        found = {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    return found - {"U8"}


def build(name: str, folder: Path) -> Path:
    """Compile a checkpoint of a family; one named qwen2 is a Qwen2 with the layers of TriLM."""
    if name != "qwen2":
        return models.FAMILIES[name].build(folder)
    family = models.FAMILIES["trilm"]
    names = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    family = dataclasses.replace(family, config={**family.config, **names})
    tensors = family.tensors()
    random = models.Random(9)
    for i in range(int(family.config["num_hidden_layers"])):
        for module in ("q_proj", "k_proj", "v_proj"):
            bias = f"model.layers.{i}.self_attn.{module}.bias"
            tensors[bias] = models.Tensor.of(random.bell(family.config["hidden_size"]), "F16")
    family.save(folder / "model", tensors)
    rsrc.compile(folder / "model", folder / "model.rsr")
    return folder / "model.rsr"


@pytest.mark.parametrize(
    "name",
    [
        "bitnet-2b", "bitnet-2b-online", "llama3-1.58", "llama-bias", "llama-auto-bias",
        "llama-kept", "trilm", "qwen2", "bonsai", "bonsai-untied", "gguf-tq2_0", "gguf-bitnet",
    ],
)  # fmt: skip
def test_floats_run_in_every_dtype(name: str, tmp_path: Path) -> None:
    rsr = build(name, tmp_path)
    with float_activations():
        want = logits_of(judge.load(tmp_path / "model"), [TOKENS])
    notes = decompile(rsr, tmp_path / "float", to="float").notes
    is_int8 = "quantization_config" in json.loads((tmp_path / "model/config.json").read_text())
    assert is_int8 == any(LOST in note for note in notes)
    check(tmp_path / "float", [TOKENS], want)


@pytest.mark.parametrize("name", ["gguf-tq2_0", "gguf-bitnet", "bitnet-2b-online", "llama3-1.58"])
def test_packed_layers_run_in_every_dtype(name: str, tmp_path: Path) -> None:
    rsr = build(name, tmp_path)
    notes = decompile(rsr, tmp_path / "bitnet", to="bitnet").notes
    assert (name == "gguf-tq2_0") == any(GAINED in note for note in notes)
    tokens = decided(load(tmp_path / "bitnet", torch.float32))
    model = judge.load(tmp_path / "model")
    if name == "gguf-tq2_0":  # floats: the judge of packed layers is ActQuant before each of them
        quantize_inputs(model)
    check(tmp_path / "bitnet", tokens, logits_of(model, tokens))


def decided(model: Any) -> list[list[int]]:
    """Return a sequence in which no rounded input lies next to a tie (`judge`)."""
    random = (models.Random(4).uniform(30, 8) * model.config.vocab_size).astype(int).tolist()
    answers = judge.answer(model, random)
    best = max(range(len(random)), key=lambda i: answers[i].clearance)
    assert answers[best].clearance >= judge.CLEARANCE
    return [random[best]]


def quantize_inputs(model: Any) -> None:
    """Have the linear layers of a float model quantize their inputs to int8."""
    with judge.quiet():
        from transformers.integrations.bitnet import ActQuant

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(lambda _, x: (ActQuant.apply(x[0]),))


def check(folder: Path, tokens: list[list[int]], want: Array) -> None:
    """Check the logits in three dtypes, and that config.json names that of the tensors."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = {config[key] for key in ("dtype", "torch_dtype") if key in config}
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    assert named == {names[dtype] for dtype in stored_dtypes(folder)}
    for dtype in ("auto", torch.float32, torch.bfloat16):
        model = load(folder, dtype)
        its = str(model.dtype).removeprefix("torch.")
        if dtype == "auto":
            assert {its} == named
        error = np.abs(logits_of(model, tokens) - want).max()
        assert error <= NOISE[its] * np.abs(want).max(), (dtype, its)
