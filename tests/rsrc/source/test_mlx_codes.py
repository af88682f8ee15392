"""MLX's codes of 3 to 8 bits become floats: scale * code + bias."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_formats import RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.models import bfloat16
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.source import mlx_codes
from rsrc.source.open import open_checkpoint

Array = npt.NDArray[Any]

# mlx.core.quantize(w, group_size=32, bits) of w[r, c] = (37 (32 r + c) mod 64) / 16 - 2 in float16,
# by MLX 0.32.4: the words of row 1, its scale, and the first weights that quantized_matmul
# multiplies by; the bias is -1.9375.
BIAS = -1.9375
LITERAL = {
    3: ("b19df54c 89de343e 7d633bca", 0.484375, [0.0, -1.453125, 0.484375, -0.96875, 1.453125]),
    4: ("9f6d4b18 3a07e4b2 d3a18f5c 7e4b29f6", 0.2421875, [0.0, -1.6953125, 0.7265625, -0.96875]),
    5: (
        "d9a3d450 ee26e497 f5582cc0 ecd1ea27 6ed161c7",
        0.12109375,
        [0.0, -1.6953125, 0.60546875, -1.08984375],
    ),
    6: (
        "753aa120 2b478ff6 2a601ce1 437fb571 2f98d0da 6f746c1a",
        0.060546875,
        [0.0, -1.6953125, 0.60546875, -1.08984375],
    ),
    8: (
        "3bac1182 8fff65d6 e247b91d 2a9b0071 7eef54c5 d237a80d 198afc60 6dde43b4",
        0.01490020751953125,
        [-0.0004730224609375, -1.6841964721679688, 0.625335693359375],
    ),
}


def module(
    rows: int, columns: int, bits: int, dtype: str, kit: Kit, group: int = 32, name: str = "w"
) -> dict[str, Any]:
    """Return random words, and scales and biases that every float dtype has."""
    rng = np.random.default_rng(bits)
    words = rng.integers(0, 2**32, (rows, columns * bits // 32), np.uint32)
    scales, biases = rng.integers(-127, 128, (2, rows, columns // group)).astype(np.float32) / 64
    return {
        f"{name}.weight": words,
        f"{name}.scales": kit.cast(scales, dtype),
        f"{name}.biases": kit.cast(biases, dtype),
    }


def defined(parts: Iterable[Array], bits: int) -> Array:
    """Return scale * code + bias in float64, weight by weight, of words, scales and biases."""
    words, scales, biases = parts
    columns = 32 * words.shape[1] // bits
    group = columns // scales.shape[1]
    w = np.empty((len(words), columns))
    for r, row in enumerate(words):
        stream = sum(int(word) << 32 * i for i, word in enumerate(row))
        for c in range(columns):
            code = stream >> bits * c & (1 << bits) - 1
            w[r, c] = float(scales[r, c // group]) * code + float(biases[r, c // group])
    return w


def save(kit: Kit, folder: Path, tensors: dict[str, Any], quantization: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    anchor = {"anchor": np.array([[1, 0, -1]], np.int8)}
    kit.save(folder / "model.safetensors", {**anchor, **tensors})
    (folder / "config.json").write_text(json.dumps({"quantization": quantization}))
    return folder


def compiled(folder: Path) -> Path:
    rsrc.compile(folder, folder / "m.rsr", force=True)
    return folder / "m.rsr"


@pytest.mark.parametrize("bits", LITERAL)
def test_words_of_mlx(kit: Kit, tmp_path: Path, bits: int) -> None:
    text, scale, first = LITERAL[bits]
    words = np.array([[int(word, 16) for word in text.split()]], np.uint32)
    tensors = {
        "w.weight": words,
        "w.scales": np.array([[scale]], np.float32),
        "w.biases": np.array([[BIAS]], np.float32),
    }
    path = compiled(save(kit, tmp_path, tensors, {"group_size": 32, "bits": bits}))
    dense = rsr_runtime.load(path).dense("w.weight").to_float32()
    # What was quantized, within a step: MLX moves the largest onto a code
    original = ((32 + np.arange(32)) * 37 % 64) / 16 - 2
    assert np.abs(dense[0] - original).max() < scale
    np.testing.assert_allclose(dense[0, : len(first)], first, rtol=1e-6)
    assert dense.tolist() == defined(tensors.values(), bits).tolist()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bits", LITERAL)
def test_values(
    kit: Kit, tmp_path: Path, bits: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_codes, "_PANEL", 300)
    tensors = module(5, 128, bits, dtype, kit, group=64)
    source = save(kit, tmp_path, tensors, {"group_size": 64, "bits": bits, "mode": "affine"})
    report = rsrc.compile(source, tmp_path / "m.rsr")
    found = {t.name: t for t in report.tensors}
    assert found.keys() == {"anchor", "w.weight"}
    w = found["w.weight"]
    assert (w.kind, w.shape, w.source_dtype) == ("dense", (5, 128), dtype)
    assert str(w.reason).startswith(f"MLX {bits}-bit; ")
    assert f"MLX's codes of {bits} bits become {dtype}: 1 tensor (w)" in report.notes
    parts = module(5, 128, bits, "F32", kit, group=64)
    exact = defined(parts.values(), bits).astype(np.float32)  # at most 17 bits
    expected = bfloat16(exact) if dtype == "BF16" else exact.astype(kit.cast(exact, dtype).dtype)
    dense = rsr_runtime.load(tmp_path / "m.rsr").dense("w.weight")
    assert dense.data.view(expected.dtype).tobytes() == expected.tobytes()
    assert compare(tmp_path / "m.rsr", source) == 2


def test_modules_have_bits_of_their_own(kit: Kit, tmp_path: Path) -> None:
    """Of all modules, of one, and of one that config.json calls unquantized."""
    tensors = {
        **module(2, 64, 4, "F16", kit, name="head"),
        **module(2, 64, 8, "F16", kit, name="gate"),
        "plain.weight": np.ones((2, 64), np.float16),
    }
    settings = {"group_size": 32, "bits": 4, "gate": {"group_size": 32, "bits": 8}, "plain": False}
    source = save(kit, tmp_path / "model", tensors, settings)
    found = open_checkpoint(source).tensors
    assert {n: (t.dtype, t.shape, t.origin) for n, t in found.items() if n != "anchor"} == {
        "head.weight": ("F16", (2, 64), "MLX 4-bit"),
        "gate.weight": ("F16", (2, 64), "MLX 8-bit"),
        "plain.weight": ("F16", (2, 64), None),
    }
    rsrc.compile(source, tmp_path / "m.rsr")
    decompile(tmp_path / "m.rsr", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 4, "gate": False, "plain": False}
    back = kit.judge(tmp_path / "back" / "model.safetensors")
    assert {name: t.dtype for name, t in back.items()} == {
        "anchor": "I8", "head.weight": "F16", "gate.weight": "F16", "plain.weight": "F16",
    }  # fmt: skip
    assert compare(tmp_path / "m.rsr", tmp_path / "back") == 4


def test_experts_of_one_tensor(kit: Kit, tmp_path: Path) -> None:
    """The module of MLX, switch_mlp, has bits of its own; its tensors are no longer a stack."""
    layer = "model.layers.0.mlp."
    tensors: dict[str, Any] = {}
    for name, rows, columns in (("gate", 32, 64), ("up", 32, 64), ("down", 64, 32)):
        for part, values in module(3 * rows, columns, 8, "F32", kit, name="x").items():
            shaped = np.asarray(values).reshape(3, rows, -1)
            tensors[f"{layer}switch_mlp.{name}_proj.{part.removeprefix('x.')}"] = shaped
    source = save(
        kit,
        tmp_path,
        tensors,
        {
            "group_size": 32, "bits": 2,
            **{f"{layer}switch_mlp.{name}_proj": {"bits": 8} for name in ("gate", "up", "down")},
        },
    )  # fmt: skip
    config = json.loads((source / "config.json").read_text())
    config |= {
        "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 64, "moe_intermediate_size": 32,
        "num_experts": 3, "num_experts_per_tok": 2, "num_hidden_layers": 1,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    rsrc.compile(source, tmp_path / "m.rsr")
    header = RsrFile(tmp_path / "m.rsr").header
    assert header.stacks == ()
    shapes = {t.name: t.shape for t in header.tensors if t.name != "anchor"}
    assert len(shapes) == 9
    name = f"{layer}experts.2.down_proj.weight"
    assert shapes[name] == (64, 32)
    parts = [tensors[f"{layer}switch_mlp.down_proj.{p}"][2] for p in ("weight", "scales", "biases")]
    dense = rsr_runtime.load(tmp_path / "m.rsr").dense(name).to_float32()
    assert dense.tolist() == defined(parts, 8).tolist()


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({}, {"mode": "mxfp4"}),
        ({}, {"bits": 7}),
        ({}, {"bits": True}),
        ({}, {"bits": "4"}),
        ({"w.biases": None}, {}),
        ({"w.weight": np.zeros((2, 8, 1), np.uint32)}, {}),
    ],
)
def test_what_stays_as_it_is(
    kit: Kit, tmp_path: Path, change: dict[str, Any], settings: dict[str, Any]
) -> None:
    tensors = {**module(2, 64, 4, "F16", kit), **change}
    tensors = {name: t for name, t in tensors.items() if t is not None}
    source = save(kit, tmp_path, tensors, {"group_size": 32, "bits": 4, **settings})
    found = open_checkpoint(source).tensors
    assert found.keys() == {"anchor", *tensors}
    assert found["w.weight"].dtype == "U32"


@pytest.mark.parametrize(
    ("part", "values", "problem"),
    [
        ("scales", np.ones((2, 3), np.float32), r"w.scales is F32 \[2, 3\]"),
        ("scales", np.ones((2, 2), np.int32), r"w.scales is I32 \[2, 2\]"),
        ("biases", np.ones((2, 1), np.float32), r"w.biases is F32 \[2, 1\]"),
    ],
)
def test_scales_that_do_not_fit(
    kit: Kit, tmp_path: Path, part: str, values: Array, problem: str
) -> None:
    tensors = {**module(2, 64, 4, "F32", kit), f"w.{part}": values}
    source = save(kit, tmp_path, tensors, {"group_size": 32, "bits": 4})
    expected = rf"^w.weight: 4 bits .* config.json, but {problem}, .* \[2, 2\] or \[2, 1\]$"
    with pytest.raises(rsrc.SourceError, match=expected):
        open_checkpoint(source)


@pytest.mark.parametrize("part", ["scales", "biases"])
def test_numbers_that_are_not_finite(kit: Kit, tmp_path: Path, part: str) -> None:
    tensors = module(2, 64, 8, "F16", kit)
    tensors[f"w.{part}"][1, 1] = np.nan
    source = save(kit, tmp_path, tensors, {"group_size": 32, "bits": 8})
    with pytest.raises(rsrc.SourceError, match=r"^w\.weight: w\.scales or w\.biases has NaN"):
        rsrc.compile(source, tmp_path / "m.rsr")


def test_nothing_ternary(kit: Kit, tmp_path: Path) -> None:
    kit.save(tmp_path / "model.safetensors", module(2, 64, 4, "F16", kit))
    settings = {"quantization": {"group_size": 32, "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(rsrc.NothingToCompileError, match=r"MLX 4-bit; .* quantized from$"):
        rsrc.compile(tmp_path, tmp_path / "m.rsr")
