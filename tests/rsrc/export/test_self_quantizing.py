"""Models that quantize their own weights: exports keep their scales, or a note says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import MASTERS, T, compile_matrices, to_dense
from rsrc.export.decompile import decompile

SELF_QUANTIZING: dict[str, tuple[Any, dict[str, Any]]] = {
    "online": ({"quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"}},
               {}),
    "1bitLLM": ({"architectures": ["BitnetForCausalLM"], "weight_bits": 1}, {}),
    "paretoq": ({"w_bits": 0}, {"l.weight_clip_val": np.full((8, 1), 0.75, np.float32)}),
    "norm": (None, {"l.norm.weight": np.ones(96, np.float32)}),
}  # fmt: skip

ACTIVATIONS = (
    "activations are no longer quantized to int8, unlike those of the source: logits differ "
    "slightly"
)


@pytest.mark.parametrize("kind", SELF_QUANTIZING)
@pytest.mark.parametrize("to", ["source", "float"])
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_scales_survive_or_a_note_warns(
    kit: Kit, tmp_path: Path, kind: str, to: str, name: str
) -> None:
    config, more = SELF_QUANTIZING[kind]
    rsr = compile_matrices(kit, tmp_path, [], config, **{"l.weight": MASTERS, "a": T}, **more)
    want = to_dense(rsr)["l.weight"]
    notes = decompile(rsr, tmp_path / name, to=to).notes
    if kind == "paretoq" and (to, name) == ("source", "out"):
        assert notes == []  # it quantizes them again, and gets the same
        rsrc.compile(tmp_path / "out", tmp_path / "again.rsr")
        assert (to_dense(tmp_path / "again.rsr")["l.weight"] == want).all()
        return
    if kind == "paretoq" and name != "out":
        assert notes == []
        return
    if (to, name) == ("float", "out") and kind != "norm":
        assert notes == ([ACTIVATIONS] if kind == "online" else [])
        rsrc.compile(tmp_path / "out", tmp_path / "again.rsr")
        assert (to_dense(tmp_path / "again.rsr")["l.weight"] == want).all()
        found = json.loads((tmp_path / "out" / "config.json").read_text())
        assert found.pop("torch_dtype") == ("bfloat16" if kind == "paretoq" else "float32")
        assert found == ({"architectures": ["BitnetForCausalLM"]} if kind == "1bitLLM" else {})
        return
    (note,) = notes
    assert "again and get smaller scales ('l.weight'): keep the original" in note
    assert "--to bitnet" in note
    assert ("--to float into a directory" in note) == (kind != "norm")


@pytest.mark.parametrize("kind", ["online", "1bitLLM", "norm"])
def test_bitnet_keeps_the_scales(kit: Kit, tmp_path: Path, kind: str) -> None:
    config, more = SELF_QUANTIZING[kind]
    rsr = compile_matrices(kit, tmp_path, [], config, **{"l.weight": MASTERS}, **more)
    decompile(rsr, tmp_path / "out", to="bitnet")
    rsrc.compile(tmp_path / "out", tmp_path / "again.rsr")
    want = to_dense(rsr)["l.weight"]
    np.testing.assert_allclose(to_dense(tmp_path / "again.rsr")["l.weight"], want, rtol=1e-6)


def test_post_training_quantization_makes_no_such_model(kit: Kit, tmp_path: Path) -> None:
    source = kit.save(tmp_path / "s.safetensors", {"l.weight": MASTERS})
    rsrc.compile(source, tmp_path / "x.rsr", quantize="absmean")
    for to in ("source", "float"):
        assert decompile(tmp_path / "x.rsr", tmp_path / to, to=to).notes == []
