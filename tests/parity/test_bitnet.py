"""How the compiler reads a BitNet checkpoint, compared with transformers.

Layers of any number of rows, biases, shapes of whole models, modules_to_not_convert, and the advice
for pickles.
"""

from __future__ import annotations

import glob
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing.matrices import matrix_of
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers
from rsrc.inspection.compare import compare
from rsrc.source.quantization import Quantization
from rsrc.source.shapes import expected_shape, is_linear

torch, transformers = torch_and_transformers()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import safetensors.torch
    from transformers.integrations import bitnet
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

COLUMNS = 27
NAME = "model.layers.0.mlp.up_proj"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with judge.quiet():
        yield


def activations() -> npt.NDArray[np.float32]:
    """Return rows whose scale is 1, so that nothing but the sum is rounded."""
    x = np.random.default_rng(1).integers(-127, 128, (3, COLUMNS)).astype(np.float32)
    x[:, 5] = 127
    return x


def compile_layer(folder: Path, tensors: dict[str, Any], linear_class: str) -> rsr_runtime.Model:
    """Compile a layer of a model whose config gives it its true number of rows."""
    rows = len(tensors["bias"])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": COLUMNS,
        "intermediate_size": rows,
        "quantization_config": {"quant_method": "bitnet", "linear_class": linear_class},
    }
    (folder / "config.json").write_text(json.dumps(config))
    named = {f"{NAME}.{part}": tensor.contiguous() for part, tensor in tensors.items()}
    safetensors.torch.save_file(named, folder / "model.safetensors")
    rsrc.compile(folder, folder / "x.rsr")
    assert compare(folder / "x.rsr", folder) == 3
    return rsr_runtime.load(folder / "x.rsr", verify=True)


def assert_close(found: npt.NDArray[np.float32], wanted: Any, tolerance: float) -> None:
    wanted = wanted.numpy()
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    error = np.abs(found - wanted).max(axis=-1) / np.abs(wanted).max(axis=-1)
    assert (error < tolerance).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 9, 16, 33, 62])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bit_linear(tmp_path: Path, rows: int, dtype: Any) -> None:
    """``BitLinear`` also returns rows of padding; a bias is added to the scaled sums."""
    torch.manual_seed(rows)
    t = torch.randint(-1, 2, (rows, COLUMNS), dtype=torch.int8)
    layer: Any = bitnet.BitLinear(COLUMNS, rows, bias=rows % 4 == 0, dtype=torch.float32)
    layer.weight = bitnet.pack_weights(t.clone())
    layer.weight_scale = torch.tensor([37.5])
    bias = torch.randn(rows)
    if layer.bias is not None:
        layer.bias = bias.clone()
    tensors = {
        "weight": layer.weight,
        "weight_scale": layer.weight_scale.to(dtype),
        "bias": bias,
    }
    model = compile_layer(tmp_path, tensors, "bitlinear")
    matrix = matrix_of(model, f"{NAME}.weight")
    unpacked = bitnet.unpack_weights(layer.weight, dtype=torch.int8)
    np.testing.assert_array_equal(matrix.to_dense(np.int8), unpacked[:rows].numpy())
    assert (unpacked[rows:] == -1).all()

    wanted = layer(torch.from_numpy(activations()))[:, :rows]
    if layer.bias is None:  # the judge has no bias for a layer with padding
        wanted = wanted + bias
    kept = np.asarray(model[f"{NAME}.bias"])
    found = matrix.linear(activations(), activations="int8") + kept
    assert_close(found, wanted, 1e-6)


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 33])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_auto_bit_linear(tmp_path: Path, rows: int, stored: Any) -> None:
    """Weights before packing, of any number of rows; here the scale multiplies the bias too."""
    torch.manual_seed(rows)
    t = torch.randint(-1, 2, (rows, COLUMNS), dtype=torch.int8)
    layer: Any = bitnet.AutoBitLinear(COLUMNS, rows, bias=True, dtype=torch.float32)
    layer.weight.copy_(t)
    layer.weight_scale.copy_(torch.tensor([1.5625]))
    tensors = {
        "weight": t.to(stored),
        "weight_scale": layer.weight_scale.to(torch.bfloat16),
        "bias": layer.bias.detach().clone(),
    }
    model = compile_layer(tmp_path, tensors, "autobitlinear")
    matrix = matrix_of(model, f"{NAME}.weight")
    np.testing.assert_array_equal(matrix.to_dense(np.int8), t.numpy())
    assert matrix.scale == 1.5625
    kept = np.asarray(model[f"{NAME}.bias"]) * np.float32(1.5625)
    found = matrix.linear(activations(), activations="int8") + kept
    assert_close(found, layer(torch.from_numpy(activations())), 5e-6)


SIZES = {
    "hidden_size": 48,
    "intermediate_size": 52,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "num_hidden_layers": 1,
    "vocab_size": 40,
    "head_dim": 10,  # not hidden_size / num_attention_heads
}
ABSENT: list[tuple[str, ...]] = [
    (), ("head_dim",), ("num_key_value_heads",), ("head_dim", "num_key_value_heads"),
]  # fmt: skip


@pytest.mark.parametrize("absent", ABSENT, ids=str)
@pytest.mark.parametrize("model_type", ["llama", "bitnet", "qwen3"])
@pytest.mark.parametrize("by_class", [True, False])
def test_shapes(model_type: str, absent: tuple[str, ...], by_class: bool) -> None:
    """The config determines every linear layer's shape, whichever optional keys it leaves out."""
    config: dict[str, Any] = {k: v for k, v in SIZES.items() if k not in absent}
    known = transformers.AutoConfig.for_model(model_type, **config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(known)
    config |= {"architectures": [type(model).__name__]} if by_class else {"model_type": model_type}
    linear = {n: tuple(p.shape) for n, p in model.named_parameters() if is_linear(n)}
    assert len(linear) == 9
    for name, shape in linear.items():
        found = expected_shape(config, name)
        assert found is not None
        assert found.shape == shape, name


@pytest.mark.parametrize(
    "skipped",
    [
        None, [], ["lm_head"], ["up_proj"], ["mlp.up_proj"], ["mlp.up"], ["model.layers.1"],
        ["model.layers.1.mlp."], ["layers.1"], ["model.layers.10"], ["model"], ["_proj"],
        ["q_proj", "x"],
    ],
    ids=str,
)  # fmt: skip
def test_modules_that_are_not_converted(skipped: list[str] | None) -> None:
    config = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": 11})
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    patterns = HfQuantizer.get_modules_to_not_convert(model, skipped)
    found = Quantization({"quantization_config": {"modules_to_not_convert": skipped}})
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert found.converts(f"{name}.weight") == should_convert_module(name, patterns), name


@pytest.mark.parametrize("files", [["pytorch_model.bin"], ["consolidated.pth"], ["1.pt", "2.pt"]])
@pytest.mark.parametrize("sharded", [False, True])
def test_pickles_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], sharded: bool
) -> None:
    """The message contains Python that converts pickles, tied and transposed tensors included."""
    if sharded:
        files = [f"pytorch_model-{i}-of-2.bin" for i in (1, 2)]
        torch.save(object, tmp_path / "training_args.bin")
    w = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]], dtype=torch.bfloat16)
    tensors = {"a.weight": w, "b.weight": w, "c.weight": w.t()}
    shards: list[dict[str, Any]] = [{} for _ in files]
    for i, (name, tensor) in enumerate(tensors.items()):
        shards[i % len(files)][name] = tensor
    for file, shard in zip(files, shards, strict=True):
        torch.save(shard, tmp_path / file)
    with pytest.raises(rsrc.SourceError) as caught:
        rsrc.compile(tmp_path, tmp_path / "x.rsr")
    lines = re.findall("`([^`]*)`", str(caught.value))
    assert len(lines) == 2
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {"glob": glob, "torch": torch, "safetensors": safetensors})
    report = rsrc.compile(tmp_path, tmp_path / "x.rsr")
    assert {t.name: t.shape for t in report.tensors} == {
        "a.weight": (2, 3), "b.weight": (2, 3), "c.weight": (3, 2),
    }  # fmt: skip
    assert {t.kind for t in report.tensors} == {"ternary"}
