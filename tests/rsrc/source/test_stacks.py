"""Mixtures of experts in checkpoints: one tensor for all experts of a layer, or many matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats import IndexedTensor, RsrFile, Stack
from rsr_formats.records import Rotation
from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsr_testing.rotation import PREFIX, declaration
from rsrc import SourceError
from rsrc.common.errors import MismatchError
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.source.open import open_checkpoint

EXPERTS, HIDDEN, WIDTH = 3, 12, 8
LAYER = "model.layers.0.mlp."
GATE_UP, DOWN = f"{LAYER}experts.gate_up_proj", f"{LAYER}experts.down_proj"
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": HIDDEN,
    "moe_intermediate_size": WIDTH,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 1,
}


def tensors(rng: np.random.Generator) -> dict[str, Any]:
    """Experts with scales of their own, of which the last down_proj is not ternary."""
    scales = np.array([0.5, 0.25, 2.0], np.float16)[:, None, None]
    gate_up = rng.integers(-1, 2, (EXPERTS, 2 * WIDTH, HIDDEN)) * scales
    gate_up[:, WIDTH:] *= np.float16(4)  # up has another scale than gate
    down = rng.integers(-1, 2, (EXPERTS, HIDDEN, WIDTH)) * scales
    down[2] += rng.standard_normal((HIDDEN, WIDTH)).astype(np.float16)
    return {GATE_UP: gate_up.astype(np.float16), DOWN: down.astype(np.float16)}


def save(kit: Kit, folder: Path, found: dict[str, Any], config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    kit.save(folder / "model.safetensors", found)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_a_tensor_of_all_experts_is_cut_and_restored(
    kit: Kit, tmp_path: Path, rng: np.random.Generator
) -> None:
    found = tensors(rng)
    source = save(kit, tmp_path / "model", found)
    output = tmp_path / "model.rsr"
    rsrc.compile(source, output)
    file = RsrFile(output)
    records = {t.name: t for t in file.header.tensors}
    parts = [f"{LAYER}experts.{e}.{p}_proj.weight" for e in range(3) for p in ("gate", "up")]
    downs = [f"{LAYER}experts.{e}.down_proj.weight" for e in range(3)]
    assert set(records) == {*parts, *downs}
    for e in range(EXPERTS):
        for i, name in enumerate(("gate", "up")):
            t = records[f"{LAYER}experts.{e}.{name}_proj.weight"]
            assert isinstance(t, IndexedTensor)
            assert t.shape == (WIDTH, HIDDEN)
            assert t.scales == 1  # each expert has its own
            window = slice(i * WIDTH, (i + 1) * WIDTH)
            dense = rsrc_load(output, t.name)
            np.testing.assert_array_equal(dense, found[GATE_UP][e, window].astype(np.float32))
    assert [isinstance(records[name], IndexedTensor) for name in downs] == [True, True, False]
    assert file.version == (1, 5)
    assert file.header.stacks == (
        Stack(GATE_UP, (3, 16, 12), f"{LAYER}experts.", (".gate_proj.weight", ".up_proj.weight")),
        Stack(DOWN, (3, 12, 8), f"{LAYER}experts.", (".down_proj.weight",)),
    )
    assert compare(output, source) == 9
    decompile(output, tmp_path / "again.safetensors")
    again = kit.judge(tmp_path / "again.safetensors")
    assert again == {name: kit.raw(t) for name, t in found.items()}  # byte for byte


def rsrc_load(path: Path, name: str) -> Any:
    import rsr_runtime

    return rsr_runtime.load(path).matrix(name).to_dense()


def test_the_form_of_the_source_is_compared(
    kit: Kit, tmp_path: Path, rng: np.random.Generator
) -> None:
    found = tensors(rng)
    whole = save(kit, tmp_path / "whole", found)
    parts = {}
    for e in range(EXPERTS):
        parts[f"{LAYER}experts.{e}.gate_proj.weight"] = found[GATE_UP][e, :WIDTH]
        parts[f"{LAYER}experts.{e}.up_proj.weight"] = found[GATE_UP][e, WIDTH:]
        parts[f"{LAYER}experts.{e}.down_proj.weight"] = found[DOWN][e]
    many = save(kit, tmp_path / "many", parts)
    for source, other in ((whole, many), (many, whole)):
        rsrc.compile(source, tmp_path / "model.rsr", force=True)
        assert compare(tmp_path / "model.rsr", source) == 9
        with pytest.raises(MismatchError, match=r"gate_up_proj: not one tensor"):
            compare(tmp_path / "model.rsr", other)
    assert RsrFile(tmp_path / "model.rsr").version == (1, 0)  # of many: nothing new


def test_mlx_stacks(kit: Kit, tmp_path: Path, rng: np.random.Generator) -> None:
    found: dict[str, Any] = {}
    for name, rows, columns in (("gate", 32, 128), ("up", 32, 128), ("down", 128, 32)):
        base = f"{LAYER}switch_mlp.{name}_proj."
        words = rng.integers(0, 3, (EXPERTS, rows, columns // 16, 16)) << 2 * np.arange(16)
        found[f"{base}weight"] = words.sum(-1).astype(np.uint32)
        scales = rng.uniform(0.5, 1, (EXPERTS, rows, columns // 32)).astype(np.float16)
        found[f"{base}scales"], found[f"{base}biases"] = scales, -scales
    config = {**CONFIG, "hidden_size": 128, "moe_intermediate_size": 32}
    config |= {"quantization": {"group_size": 32, "bits": 2}}
    source = save(kit, tmp_path / "model", found, config)
    output = tmp_path / "model.rsr"
    rsrc.compile(source, output)
    file = RsrFile(output)
    assert len(file.header.tensors) == 9
    assert all(isinstance(t, IndexedTensor) for t in file.header.tensors)
    assert len(file.header.stacks) == 9  # weights, scales and biases of gate, up and down
    decompile(output, tmp_path / "again.safetensors")
    again = kit.judge(tmp_path / "again.safetensors")
    assert again == {name: kit.raw(t) for name, t in found.items()}


def test_what_is_no_stack_stays_whole(kit: Kit, tmp_path: Path, rng: np.random.Generator) -> None:
    found = tensors(rng)
    other = {**CONFIG, "architectures": ["GptOssForCausalLM"]}  # whose gate and up alternate
    source = save(kit, tmp_path / "other", found, other)
    assert set(open_checkpoint(source).tensors) == set(found)
    odd = {GATE_UP: np.zeros((2, 3, 4), np.float16), "model.experts": found[DOWN]}
    source = save(kit, tmp_path / "odd", odd)
    assert set(open_checkpoint(source).tensors) == set(odd)


def test_an_expert_that_is_there_twice(kit: Kit, tmp_path: Path, rng: np.random.Generator) -> None:
    found = tensors(rng)
    found[f"{LAYER}experts.1.down_proj.weight"] = found[DOWN][1]
    source = save(kit, tmp_path / "model", found)
    with pytest.raises(SourceError, match=r"'.*experts\.1\.down_proj\.weight' is there twice"):
        open_checkpoint(source)


@pytest.mark.parametrize("lost", [0, 2])
def test_missing_experts_are_named(
    kit: Kit, tmp_path: Path, rng: np.random.Generator, lost: int
) -> None:
    found = tensors(rng)
    downs = found.pop(DOWN)
    for e in range(EXPERTS):
        if e != lost:
            found[f"{LAYER}experts.{e}.down_proj.weight"] = downs[e]
    source = save(kit, tmp_path / "model", found)
    with pytest.raises(SourceError, match=rf"missing .*: {LAYER}experts.{lost}.down_proj.weight$"):
        open_checkpoint(source)


def test_shapes_of_experts_are_checked(kit: Kit, tmp_path: Path, rng: np.random.Generator) -> None:
    source = save(kit, tmp_path / "model", tensors(rng), {**CONFIG, "moe_intermediate_size": 10})
    with pytest.raises(SourceError, match=r"config.json implies \[10, 12\] \(moe_intermediate"):
        rsrc.compile(source, tmp_path / "model.rsr")


def test_experts_of_gguf_files_in_a_rotated_basis(tmp_path: Path) -> None:
    """The declaration names the tensor of all experts: each of its matrices is rotated."""
    names = [f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up")]
    w = np.eye(WIDTH, 16, dtype="<f4")[None].repeat(EXPERTS, axis=0)
    metadata = {
        "general.architecture": "qwen3moe",
        **declaration(names[:1], [], [16], 16, seed=1),
        PREFIX + "sign_values": [-1.0] + [1.0] * 15,
    }
    tensors = {name: (w.shape, 0, w.tobytes()) for name in names}
    source = GgufKit().save(tmp_path / "m.gguf", metadata, tensors)
    rsrc.compile(source, tmp_path / "m.rsr")
    header = RsrFile(tmp_path / "m.rsr").header
    assert header.rotations == (Rotation(16, b"\1\0"),)
    assert {t.name: t.rotation for t in header.tensors} == {
        f"{LAYER}experts.{e}.{part}_proj.weight": 0 if part == "gate" else None
        for e in range(EXPERTS)
        for part in ("gate", "up")
    }
    assert compare(tmp_path / "m.rsr", source) == 2 * EXPERTS
