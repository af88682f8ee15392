"""config.json and the tokenizer files of an exported model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats import RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import MATRICES, T, compile_matrices
from rsrc.export import FORMS
from rsrc.export.decompile import decompile


def test_the_source_is_restored(kit: Kit, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "bitnet"}, "b": [1]}
    rsr, out = compile_matrices(kit, tmp_path, MATRICES, config), tmp_path / "out"
    assert decompile(rsr, out) == decompile(rsr, tmp_path / "out.safetensors")
    names = sorted(p.name for p in out.iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    for name in names[0], names[2]:
        assert (out / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    single = (tmp_path / "out.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == single
    rsrc.compile(out, tmp_path / "again.rsr")
    assert (tmp_path / "again.rsr").read_bytes() == rsr.read_bytes()


@pytest.mark.parametrize("to", ["float", "int8"])
def test_settings_of_packed_weights(kit: Kit, tmp_path: Path, to: str) -> None:
    """They go with the packed weights. In int8, they still say that activations are int8."""
    packed = {"a.weight": kit.pack(T), "a.weight_scale": kit.bf16([3.0])}
    settings = {"quant_method": "bitnet"}
    rsr = compile_matrices(kit, tmp_path, [], {"b": 1, "quantization_config": settings}, **packed)
    decompile(rsr, tmp_path / "out", to=to)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == (
        {"b": 1, "torch_dtype": "float32"}
        if to == "float"
        else {"b": 1, "quantization_config": settings}
    )


@pytest.mark.parametrize("to", ["float", "int8"])
def test_other_settings_stay(kit: Kit, tmp_path: Path, to: str) -> None:
    config = {"quantization_config": {"quant_method": "other"}, "dtype": "bfloat16"}
    decompile(compile_matrices(kit, tmp_path, ["row"], config), tmp_path / "out", to=to)
    text = (tmp_path / "source" / "config.json").read_text()
    assert (tmp_path / "out" / "config.json").read_text() == text


def test_settings_of_mlx_go(kit: Kit, tmp_path: Path) -> None:
    """MLX has two settings for packed weights."""
    rsr = compile_matrices(kit, tmp_path, ["group"])

    def as_mlx(document: dict[str, Any]) -> None:
        for t in document["tensors"]:
            if t["name"] == "group":
                t["source"] |= {"layout": "mlx", "dtype": "U32", "shape": [8, 6]}

    data = bytearray(kit.tamper(rsr, as_mlx).read_bytes())
    data[10] = 2  # the minor version of the format that has layout mlx
    rsr.write_bytes(data)
    config = {"quantization": {"bits": 2}, "quantization_config": {"bits": 2}, "b": 1}
    export = FORMS["float"](RsrFile(rsr), config)
    assert export.config == {"b": 1}
    group = next(t for t in export.tensors if t.name == "group")
    assert (group.dtype, group.shape) == ("BF16", (8, 96))
    wide = np.concatenate(list(group.pieces())).view("<u2").astype(np.uint32) << 16
    assert (wide.view(np.float32).reshape(8, 96) == MATRICES["group"][0]).all()


def test_unknown_file_names_are_not_written(kit: Kit, tmp_path: Path) -> None:
    rsr = compile_matrices(kit, tmp_path, ["row"])

    def rename(document: dict[str, Any]) -> None:
        document["files"][0]["name"] = "model.safetensors"

    kit.tamper(rsr, rename)
    decompile(rsr, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert set(kit.judge(tmp_path / "out" / "model.safetensors")) == {"row", "norm"}


@pytest.mark.parametrize("text", ["[]", "{", "\udcff"])
def test_a_config_that_is_not_an_object(kit: Kit, tmp_path: Path, text: str) -> None:
    """The compiler refuses such a config.json, so another file gets its name."""
    folder = tmp_path / "source"
    folder.mkdir()
    kit.save(folder / "model.safetensors", {"w": T})
    (folder / "merges.txt").write_bytes(text.encode(errors="surrogateescape"))
    rsrc.compile(folder, tmp_path / "m.rsr")

    def rename(document: dict[str, Any]) -> None:
        document["files"][0]["name"] = "config.json"

    kit.tamper(tmp_path / "m.rsr", rename)
    decompile(tmp_path / "m.rsr", tmp_path / "as it is")
    for to in ("float", "int8", "bitnet", "gguf"):
        with pytest.raises(rsrc.SourceError, match=r"config\.json"):
            decompile(tmp_path / "m.rsr", tmp_path / "out", to=to)
