"""The runtime compared with transformers on new models, in each form that it saves them in.

The golden data hold one model per linear class. Other seeds and sizes take the same way here.
transformers needs accelerate to load a BitNet checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime
import rsrc
from rsr_testing.matrices import matrix_of
from rsr_testing.parity import golden_layers as golden
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers
from rsrc.inspection.compare import compare
from rsrc.source.quantization import Quantization

torch_and_transformers()


TOKENS = (3, 14, 15, 9, 26, 5, 35)
SHAPES = {
    "odd-widths": golden.Shape(60, 148, layers=1, heads=3, kv_heads=1, vocab=50, tied=False),
    "wide": golden.Shape(256, 688, layers=1, heads=4, kv_heads=2),
    "deep": golden.Shape(32, 96, layers=4, heads=2, kv_heads=2, vocab=40),
}


def _assert_layers_agree(folder: Path, compiled: Path, linear_class: str) -> None:
    """Compile ``folder`` and compare each layer with the model that transformers loads from it."""
    rsrc.compile(folder, compiled)
    reference = judge.load(folder)
    recording = golden.record(reference, TOKENS)
    with rsr_runtime.load(compiled) as model:
        for name, module in judge.bitnet_layers(reference).items():
            x, want = recording[f"{name}/input"], recording[f"{name}/output"]
            assert x.dtype == want.dtype == np.float32
            got = matrix_of(model, f"{name}.weight").linear(x, activations="int8")
            stored = module.weight_scale.item()
            multiplier = 1 / stored if linear_class == "bitlinear" else stored
            # The golden data were chosen without near ties; new models may have some.
            allowance = golden.tie_allowance(x, multiplier)
            assert (allowance > 0).mean() < 0.5, "too many near ties to compare anything"
            assert golden.row_error(got, want, allowance) <= golden.TOLERANCE[linear_class], name


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("linear_class", golden.LINEAR_CLASSES)
def test_linear_agrees(linear_class: str, shape: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    golden.save(golden.build(linear_class, shape, seed=101), folder)
    _assert_layers_agree(folder, tmp_path / "m.rsr", linear_class)


@pytest.mark.parametrize("linear_class", golden.LINEAR_CLASSES)
def test_linear_agrees_for_a_sharded_checkpoint(linear_class: str, tmp_path: Path) -> None:
    """Shards are so small that some weights and their scales are in different files."""
    folder = tmp_path / "model"
    golden.save(golden.build(linear_class, golden.Shape(), seed=7), folder, max_shard_size="2KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shards = index["weight_map"]
    scales = [name for name in shards if name.endswith("_scale")]
    assert any(shards[name] != shards[name.removesuffix("_scale")] for name in scales)
    _assert_layers_agree(folder, tmp_path / "m.rsr", linear_class)


def test_linear_agrees_for_an_offline_checkpoint_with_unpacked_weights(tmp_path: Path) -> None:
    """``save_pretrained`` writes an AutoBitLinear as -1, 0 and 1 in BF16, which both must read."""
    folder = tmp_path / "model"
    built = golden.build("autobitlinear", golden.Shape(), seed=8)
    golden.save(built, folder, pack=False)
    _assert_layers_agree(folder, tmp_path / "m.rsr", "autobitlinear")


@pytest.mark.parametrize("linear_class", golden.LINEAR_CLASSES)
def test_edge_rows_agree(linear_class: str, tmp_path: Path) -> None:
    folder, compiled = tmp_path / "model", tmp_path / "m.rsr"
    golden.save(golden.build(linear_class, golden.Shape(), seed=9), folder)
    rsrc.compile(folder, compiled)
    reference = judge.load(folder)
    names = tuple(judge.bitnet_layers(reference))
    recording = golden.record_edge_rows(reference, names)
    with rsr_runtime.load(compiled) as model:
        for name in names:
            x, want = recording[f"{name}/input"], recording[f"{name}/output"]
            got = matrix_of(model, f"{name}.weight").linear(x, activations="int8")
            assert golden.row_error(got, want) <= golden.TOLERANCE[linear_class], name


@pytest.mark.parametrize("linear_class", golden.LINEAR_CLASSES)
def test_unpacking_agrees(linear_class: str, tmp_path: Path) -> None:
    """The compiled ternary values are those of ``unpack_weights``."""
    folder, compiled = tmp_path / "model", tmp_path / "m.rsr"
    built = golden.build(linear_class, golden.Shape(60, 148, heads=3, kv_heads=1), seed=10)
    golden.save(built, folder)
    rsrc.compile(folder, compiled)
    with rsr_runtime.load(compiled) as model:
        assert built.packed
        for name, codes in built.packed.items():
            want = golden.unpack(codes)
            assert set(np.unique(want)) == {-1, 0, 1}
            got = matrix_of(model, name).to_dense(dtype=np.int8)
            assert got.dtype == np.int8
            np.testing.assert_array_equal(got, want, err_msg=name)


def _save_online(folder: Path, seed: int, **config: Any) -> None:
    """Write BF16 masters and a config.json that has transformers quantize them online."""
    with judge.quiet():
        import torch
        import transformers
        from transformers import BitNetConfig, BitNetQuantConfig

        auto: Any = transformers.AutoModelForCausalLM
        torch.manual_seed(seed)
        model = auto.from_config(
            BitNetConfig(
                hidden_size=60,
                intermediate_size=148,
                num_hidden_layers=2,
                num_attention_heads=3,
                num_key_value_heads=1,
                vocab_size=50,
                initializer_range=0.05,
                max_position_embeddings=64,
                bos_token_id=1,
                eos_token_id=2,
                tie_word_embeddings=config.pop("tied"),
            ),
            dtype=torch.bfloat16,
        )
        model.config.quantization_config = BitNetQuantConfig(
            linear_class="autobitlinear", quantization_mode="online", **config
        )
        model.save_pretrained(folder, max_shard_size="40KB")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "kept", [None, [], ["lm_head"], ["model.layers.1"], ["lm_head", "down_proj"]]
)
def test_online_masters_agree(kept: list[str] | None, tied: bool, tmp_path: Path) -> None:
    """Both quantize the same layers to the same values, and get the same products."""
    folder, compiled = tmp_path / "model", tmp_path / "m.rsr"
    _save_online(folder, seed=11, tied=tied, modules_to_not_convert=kept)
    assert len(list(folder.glob("*.safetensors"))) > 1  # shards
    report = rsrc.compile(folder, compiled)
    assert compare(compiled, folder) == len(report.tensors)
    reference = judge.load(folder)
    modules = judge.bitnet_layers(reference)
    recording = golden.record(reference, TOKENS)
    # A tied head has no tensor of its own, and the embedding is not quantized.
    stored = {name for name in modules if not (tied and name == "lm_head")}
    quantized = {t.name.removesuffix(".weight") for t in report.tensors if t.kind == "ternary"}
    assert quantized == stored
    assert {t.layout for t in report.tensors if t.kind == "ternary"} == {"absmean"}
    with rsr_runtime.load(compiled) as model:
        for name in sorted(stored):
            w = matrix_of(model, f"{name}.weight")
            with judge.quiet():
                from transformers.integrations.bitnet import WeightQuant

                quantize: Any = WeightQuant
                want = quantize.apply(modules[name].weight).numpy()
            np.testing.assert_array_equal(w.to_dense(np.int8), np.sign(want))
            np.testing.assert_allclose(w.to_dense(), want, rtol=3e-7)
            x, output = recording[f"{name}/input"], recording[f"{name}/output"]
            allowance = golden.tie_allowance(x, float(w.scale))
            assert (allowance > 0).mean() < 0.5, "too many near ties to compare anything"
            got = w.linear(x, activations="int8")
            assert golden.row_error(got, output, allowance) <= golden.TOLERANCE["autobitlinear"]


def test_modules_to_not_convert_agrees() -> None:
    """Keys match the modules that they match in transformers."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    modules = [
        "lm_head", "head", "model.layers.1", "model.layers.1.mlp.up_proj", "model.norm",
        "model.layers.11.mlp.up_proj", "model.layers.1.mlp.up_proj_2", "blocks.1.mlp", "a..b",
    ]  # fmt: skip
    keys = [
        "lm_head", "head", "model", "model.", "model.layers.1", "model.layers.1.", "layers.1",
        "blocks.1", "mlp", "up_proj", "model.layers.1.*", "model.*.up_proj", ".*mlp", ".*",
        "model.*", ".*.mlp", "model.layers.*.mlp.up", "_head", "x", "model.layers..*mlp", "a.",
        "a..*",
    ]  # fmt: skip
    for key in keys:
        config = {"quantization_config": {"modules_to_not_convert": [key]}}
        for module in modules:
            found = Quantization(config).converts(module)
            assert found == should_convert_module(module, [key]), (key, module)
