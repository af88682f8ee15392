"""The "bitnet" form: packed layers, and a config.json that says what their scales mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_testing.checkpoints import Kit, Raw
from rsr_testing.exports import MASTERS, MATRICES, PER_TENSOR, T, compile_matrices, dense, to_dense
from rsrc.export.decompile import decompile

Array = npt.NDArray[Any]

BITNET: Mapping[str, Any] = {"quant_method": "bitnet", "linear_class": "autobitlinear"}


def test_every_matrix_of_one_scale(kit: Kit, tmp_path: Path) -> None:
    rsr, out = compile_matrices(kit, tmp_path, PER_TENSOR), tmp_path / "out"
    notes = decompile(rsr, out, to="bitnet").notes
    assert "multiplies" in notes[0]
    assert json.loads((out / "config.json").read_text()) == {
        "quantization_config": {**BITNET, "quantization_mode": "offline"}
    }
    assert (out / "tokenizer.json").read_text() == '{"a tokenizer": 1}'
    found = kit.judge(out / "model.safetensors")
    for name in PER_TENSOR:
        values = MATRICES[name][0]
        scale = dense(found[f"{name}_scale"])
        assert scale.shape == (1,)
        assert scale > 0
        digits = np.sign(values).astype(np.int8)
        if len(values) % 4:
            assert found[name].dtype == "BF16"
            assert dense(found[name]).tolist() == digits.tolist()
        else:
            assert found[name] == kit.raw(kit.pack(digits)), name
        assert (digits * scale).tolist() == values.tolist(), name
    assert found["norm"] == kit.judge(tmp_path / "source" / "model.safetensors")["norm"]
    rsrc.compile(out, tmp_path / "again.rsr")
    again = to_dense(tmp_path / "again.rsr")
    for name, want in to_dense(rsr).items():
        assert (again[name] == want).all(), name


def test_scales_take_the_smallest_float(kit: Kit, tmp_path: Path) -> None:
    names = ("tensor", "tensor16", "tensor32", "ternary")
    decompile(compile_matrices(kit, tmp_path, names), tmp_path / "out", to="bitnet")
    found = kit.judge(tmp_path / "out" / "model.safetensors")
    assert [found[f"{name}_scale"].dtype for name in names] == ["BF16", "F16", "F32", "BF16"]


def test_several_scales(all_matrices: Path, tmp_path: Path) -> None:
    with pytest.raises(rsrc.ExportError, match=r"several for 'row', 'group': .*--to int8"):
        decompile(all_matrices, tmp_path / "out", to="bitnet")
    assert not (tmp_path / "out").exists()


def test_a_single_file_needs_bitnet_settings_in_the_config(kit: Kit, tmp_path: Path) -> None:
    rsr = compile_matrices(kit, tmp_path, ["tensor"], {"model_type": "bitnet"})
    with pytest.raises(rsrc.ExportError, match="write a directory"):
        decompile(rsr, tmp_path / "out.safetensors", to="bitnet")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear", None])
def test_offline_settings_stay(kit: Kit, tmp_path: Path, linear_class: str | None) -> None:
    """Packed tensors are restored byte for byte, in a file or a directory."""
    settings = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    if linear_class:
        settings["linear_class"] = linear_class
    packed = {"a.weight": kit.pack(T), "a.weight_scale": kit.bf16([3.0])}
    config = {"model_type": "llama", "quantization_config": settings}
    rsr = compile_matrices(kit, tmp_path, [], config, **packed)
    for out in ("out.safetensors", "out"):
        notes = decompile(rsr, tmp_path / out, to="bitnet").notes
        assert len(notes) == (linear_class == "autobitlinear")
        assert all("only in the dtype that config.json names" in note for note in notes)
    source = kit.judge(tmp_path / "source" / "model.safetensors")
    assert kit.judge(tmp_path / "out.safetensors") == source
    assert kit.judge(tmp_path / "out" / "model.safetensors") == source
    text = (tmp_path / "source" / "config.json").read_text()
    assert (tmp_path / "out" / "config.json").read_text() == text


def test_online_masters_become_offline(kit: Kit, tmp_path: Path) -> None:
    config = {"quantization_config": {**BITNET, "quantization_mode": "online", "a": 1}}
    rsr = compile_matrices(kit, tmp_path, ["tensor"], config)
    decompile(rsr, tmp_path / "out", to="bitnet")
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    settings = {"linear_class": "bitlinear", "quantization_mode": "offline"}
    assert found["quantization_config"] == {**BITNET, **settings, "a": 1}


def test_rows_that_bitlinear_cannot_pack_become_autobitlinear(kit: Kit, tmp_path: Path) -> None:
    rsr = compile_matrices(kit, tmp_path, ["odd", "tensor"], {})
    decompile(rsr, tmp_path / "out", to="bitnet")
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found["quantization_config"]["linear_class"] == "autobitlinear"


def test_biases_are_not_scaled(kit: Kit, tmp_path: Path) -> None:
    """autobitlinear would scale them; bitlinear divides before it adds the bias."""
    weight = (T * 0.125).astype(np.float32)
    more = {"a.weight": weight, "a.bias": kit.bf16(np.ones(8))}
    decompile(compile_matrices(kit, tmp_path, [], {}, **more), tmp_path / "out", to="bitnet")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["linear_class"] == "bitlinear"
    found = kit.judge(tmp_path / "out" / "model.safetensors")
    assert dense(found["a.weight_scale"]) == [8.0]
    rsrc.compile(tmp_path / "out", tmp_path / "again.rsr")
    assert (to_dense(tmp_path / "again.rsr")["a.weight"] == weight).all()


def test_reciprocals(kit: Kit, tmp_path: Path) -> None:
    """A scale that is the reciprocal of a float32 is found; any other is rounded to one."""
    scales = np.random.default_rng(5).uniform(0.01, 3, 400).astype(np.float32)
    given = np.float32(1) / scales  # each is the reciprocal of a float32, such as `scales`
    config = {"quantization_config": {"quant_method": "bitnet"}}
    more: dict[str, Array] = {
        f"a{i}.weight": np.array([[s], [-s], [0], [s]], np.float32) for i, s in enumerate(given)
    }
    rsr = compile_matrices(kit, tmp_path, [], config, **more)
    assert not any("reciprocal" in n for n in decompile(rsr, tmp_path / "out", to="bitnet").notes)
    found = kit.judge(tmp_path / "out" / "model.safetensors")
    for i, s in enumerate(given):
        assert np.float32(1) / np.float32(dense(found[f"a{i}.weight_scale"])[0]) == s
    # Just below 2, reciprocals of float32 are twice as far apart as float32 values.
    near = np.float32(2) - np.arange(1, 9, dtype=np.float32) * np.float32(2**-23)
    around = np.float32(0.5) + np.arange(0, 64, dtype=np.float32) * np.float32(2**-24)
    missing = next(s for s in near if not (np.float32(1) / around == s).any())
    weight = np.array([[missing], [-missing], [0], [missing]], np.float32)
    source = kit.save(tmp_path / "source" / "model.safetensors", {"a.weight": weight})
    rsrc.compile(source.parent, rsr, force=True)
    notes = decompile(rsr, tmp_path / "out2", to="bitnet").notes
    assert "for 1 of 1 scales, the nearest reciprocal is off by up to 1.2e-07" in notes[0]
    (stored,) = dense(kit.judge(tmp_path / "out2" / "model.safetensors")["a.weight_scale"])
    error = np.abs(np.float32(1) / around - np.float64(missing))
    assert np.float32(stored) == around[np.argmin(error)]


def test_scales_beyond_all_reciprocals(kit: Kit, tmp_path: Path) -> None:
    weight = (T * np.float32(1e-39)).astype(np.float32)
    rsr = compile_matrices(kit, tmp_path, [], {}, **{"a.weight": weight})
    with pytest.raises(rsrc.ExportError, match="no float32 has a reciprocal near the scale of 'a"):
        decompile(rsr, tmp_path / "out", to="bitnet")


def test_bitlinear_rows(kit: Kit, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "bitnet"}}
    rsr = compile_matrices(kit, tmp_path, ["odd", "tensor"], config)
    with pytest.raises(rsrc.ExportError, match=r"a multiple of 4 rows, .*: 'odd'"):
        decompile(rsr, tmp_path / "out", to="bitnet")


def test_embeddings_and_heads_are_not_packed(kit: Kit, tmp_path: Path) -> None:
    names = ("model.embed_tokens.weight", "lm_head.weight")
    wide = kit.bf16(np.arange(12).reshape(4, 3))
    more: dict[str, Any] = {name: (T * 0.5).astype(np.float32) for name in names}
    more |= {"model.layers.0.q.weight": T, "model.layers.1.q.weight": wide}
    config = {"quantization_config": {"bits": 2}, "quantization": {"bits": 2}, "x": 1}
    rsr = compile_matrices(kit, tmp_path, [], config, **more)
    notes = decompile(rsr, tmp_path / "out", to="bitnet").notes
    assert (
        "floats, because they are not linear layers: 'model.embed_tokens.weight', 'lm_head"
        in notes[0]
    )
    found = kit.judge(tmp_path / "out" / "model.safetensors")
    assert {found[name].dtype for name in names} == {"BF16"}
    assert found["model.layers.0.q.weight"].dtype == "U8"
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        "x": 1,
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "bitlinear",
            "quantization_mode": "offline",
            "modules_to_not_convert": ["lm_head", "model.layers.1.q"],
        },
        "torch_dtype": "bfloat16",
    }


def test_heads_stay_floats(kit: Kit, tmp_path: Path) -> None:
    """transformers keeps heads as they are by default; a new list must not change that."""
    half = (T * 0.5).astype(np.float32)
    more: dict[str, Any] = {"score.weight": half, "a.q.weight": half, "a.classifier.weight": T}
    more["a.k.weight"] = np.arange(12, dtype=np.float32).reshape(4, 3)
    rsr = compile_matrices(kit, tmp_path, [], {}, **more)
    decompile(rsr, tmp_path / "out", to="bitnet")
    found = kit.judge(tmp_path / "out" / "model.safetensors")
    assert {name: t.dtype for name, t in found.items() if t.dtype == "U8"} == {"a.q.weight": "U8"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    modules = config["quantization_config"]["modules_to_not_convert"]
    assert sorted(modules) == ["a.classifier", "a.k", "lm_head", "score"]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_modules_to_not_convert_decides_about_heads(kit: Kit, tmp_path: Path, mode: str) -> None:
    half = (T * 0.5).astype(np.float32)
    dtype = "BF16" if mode == "offline" else "F32"  # as BF16 does not hold the masters' scale
    settings: dict[str, Any] = {"quant_method": "bitnet", "quantization_mode": mode}
    for i, (modules, packed) in enumerate([([], True), (["x"], True), (["lm_head"], False)]):
        folder = tmp_path / str(i)
        folder.mkdir()
        config = {"quantization_config": {**settings, "modules_to_not_convert": modules}}
        more = {"lm_head.weight": half, "a.weight": half}
        rsr = compile_matrices(kit, folder, [], config, **more)
        decompile(rsr, folder / "out", to="bitnet")
        found = kit.judge(folder / "out" / "model.safetensors")
        assert found["lm_head.weight"].dtype == ("U8" if packed else dtype)
        text = (folder / "out" / "config.json").read_text()
        assert json.loads(text)["quantization_config"]["modules_to_not_convert"] == modules


def test_floats_are_added_to_modules_to_not_convert(kit: Kit, tmp_path: Path) -> None:
    """Ternary or not. An empty list does not get the default, lm_head."""
    half = (T * 0.5).astype(np.float32)
    wide = np.arange(12, dtype=np.float32).reshape(4, 3)
    more: dict[str, Any] = {"embed.in.weight": half, "a.weight": half, "lm_head.weight": wide}
    settings: dict[str, Any] = {"quant_method": "bitnet", "modules_to_not_convert": []}
    rsr = compile_matrices(kit, tmp_path, [], {"quantization_config": settings}, **more)
    decompile(rsr, tmp_path / "out", to="bitnet")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    modules = config["quantization_config"]["modules_to_not_convert"]
    assert sorted(modules) == ["embed.in", "lm_head"]


@pytest.mark.parametrize("to", ["bitnet", "int8"])
def test_clip_values_stay_floats(kit: Kit, tmp_path: Path, to: str) -> None:
    """Equal in all rows, they look like a ternary matrix of one column."""
    clip = np.full((8, 1), 1 / 3, np.float32)  # which takes 32 bits
    more: dict[str, Array | Raw]
    more = {"a.weight": MASTERS, "a.weight_clip_val": clip, "b.weight": T}
    rsr = compile_matrices(kit, tmp_path, [], {"w_bits": 0}, **more)
    if to == "bitnet":  # ParetoQ has a scale per row
        more["a.weight"] = (T * 0.5).astype(np.float32)
        kit.save(tmp_path / "source" / "model.safetensors", more)
        (tmp_path / "source" / "config.json").write_text("{}")
        rsrc.compile(tmp_path / "source", rsr, force=True)
    decompile(rsr, tmp_path / "out", to=to)
    found = kit.judge(tmp_path / "out" / "model.safetensors")
    assert found["a.weight_clip_val"] == kit.raw(clip)


def test_nothing_to_pack(kit: Kit, tmp_path: Path) -> None:
    rsr = compile_matrices(kit, tmp_path, [], None, **{"embed.weight": T})
    with pytest.raises(rsrc.ExportError, match="has no ternary linear layer"):
        decompile(rsr, tmp_path / "out", to="bitnet")


def test_digits_of_magnitude_2(kit: Kit, tmp_path: Path) -> None:
    source = kit.save(
        tmp_path / "s.safetensors", {"a.weight": np.array([[2, 0, -1, 1]] * 4, np.int8)}
    )
    rsrc.compile(source, tmp_path / "x.rsr")
    with pytest.raises(rsrc.ExportError, match=r"digits of magnitude 2: 'a.weight': .*--to int8"):
        decompile(tmp_path / "x.rsr", tmp_path / "out", to="bitnet")


def test_a_taken_name(kit: Kit, tmp_path: Path) -> None:
    more = {"w": T.astype(np.float32), "w_scale": np.ones(3, np.float32)}
    rsr = compile_matrices(kit, tmp_path, [], None, **more)
    with pytest.raises(rsrc.ExportError, match="two tensors would be named 'w_scale'"):
        decompile(rsr, tmp_path / "out", to="bitnet")
    assert not (tmp_path / "out").exists()


def test_an_unknown_linear_class(kit: Kit, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "bitnet", "linear_class": "x"}}
    rsr = compile_matrices(kit, tmp_path, ["tensor"], config)
    with pytest.raises(rsrc.SourceError, match="linear_class is 'x', expected 'bitlinear'"):
        decompile(rsr, tmp_path / "out", to="bitnet")


def test_experts(kit: Kit, tmp_path: Path) -> None:
    rsr = compile_matrices(kit, tmp_path, [], None, **{"layers.0.mlp.experts.1.up_proj.weight": T})
    with pytest.raises(rsrc.ExportError, match=r"no BitNet layers for experts: .*--to int8"):
        decompile(rsr, tmp_path / "out", to="bitnet")
