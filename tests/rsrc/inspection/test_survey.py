"""What `rsrc inspect` reports about a checkpoint, compared with what compiling does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.cli.main import main
from rsrc.inspection.survey import survey

CONFIG = {"quantization_config": {"quant_method": "bitnet"}}


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)), prog_name="rsrc")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(kit: Kit, tmp_path: Path) -> Path:
    """A model directory with a tensor of each outcome except `refused`."""
    t = np.array([[1, -1], [0, 1], [1, 1], [-1, 0]], np.int8)
    tensors: dict[str, Any] = {
        "a.weight": kit.pack(t),
        "a.weight_scale": kit.bf16([4.0]),
        "b": t,
        "signs": np.array([[-1, 1], [1, 1]], np.float32),
        "norm.weight": np.ones(3, np.float32),
        "master": np.array([[0.5, 0.25]], np.float32),
    }
    kit.save(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_reports_what_compiling_does(folder: Path, tmp_path: Path) -> None:
    result = survey(folder)
    report = rsrc.compile(folder, tmp_path / "x.rsr")
    found = {t["name"]: t for t in result["tensors"]}
    for t in report.tensors:
        assert found[t.name]["becomes"] == t.kind
        for key in ("layout", "scale", "encoding", "packing", "direction", "k", "reason"):
            assert found[t.name].get(key) == getattr(t, key), (t.name, key)
    assert found.keys() - {t.name for t in report.tensors} == {"a.weight_scale"}
    assert result["files"] == ["config.json"]
    assert result["refused"] == 0


def test_absorbed_tensors_name_what_holds_them(folder: Path) -> None:
    (t,) = survey(folder, "a.weight_scale")["tensors"]
    assert t == {
        "name": "a.weight_scale", "dtype": "BF16", "shape": [1], "bytes": 2,
        "becomes": "absorbed", "into": "a.weight",
    }  # fmt: skip


def test_every_refused_tensor_is_listed_with_its_reason(kit: Kit, folder: Path) -> None:
    """Compiling stops at the first of them."""
    tensors: dict[str, Any] = {
        name: value
        for i in range(3)
        for name, value in {
            f"{i}.weight": np.full((1, 2), 0xFF, np.uint8),  # code 3
            f"{i}.weight_scale": kit.bf16([1.0]),
        }.items()
    }
    kit.save(folder / "model.safetensors", tensors)
    result = survey(folder)
    refused = [t for t in result["tensors"] if t["becomes"] == "refused"]
    assert [t["name"] for t in refused] == ["0.weight", "1.weight", "2.weight"]
    assert all("code 3" in t["reason"] for t in refused)
    assert result["refused"] == 3
    assert (
        "this checkpoint cannot be compiled: see the refused tensors"
        in run("inspect", folder).stdout
    )


class TestCommand:
    def test_prints_a_table(self, folder: Path) -> None:
        text = run("inspect", folder).stdout
        for words in ("1x2", "absorbed into", "1-dimensional", "several magnitudes"):
            assert words in text
        for words in ("divide by weight_scale", "binary: ranked w16, k = 5; ", "config.json"):
            assert words in text

    def test_prints_json(self, folder: Path) -> None:
        result = run("inspect", folder, "--json")
        assert json.loads(result.stdout) == survey(folder)

    def test_one_tensor(self, folder: Path) -> None:
        found = json.loads(run("inspect", folder, "--tensor", "b", "--json").stdout)
        assert [t["name"] for t in found["tensors"]] == ["b"]
        error = run("inspect", folder, "--tensor", "c", code=1).stderr
        assert "no tensor 'c'; it has 'a.weight'" in error

    def test_blocks_are_of_rsr_files(self, folder: Path) -> None:
        error = run("inspect", folder, "--tensor", "b", "--block", "0", code=2).stderr
        assert "compile the checkpoint first" in error

    def test_nothing_to_compile_is_said(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "x.safetensors", {"norm": np.ones(3, np.float32)})
        assert "no tensor is ternary or binary" in run("inspect", source).stdout

    @pytest.mark.parametrize("name", ["x.safetensors", "pytorch_model.bin", "x.index.json"])
    def test_sources_that_cannot_be_opened(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"nothing")
        assert name in run("inspect", tmp_path / name, code=1).stderr


def test_pattern_lists(kit: Kit, tmp_path: Path) -> None:
    """3:4-sparse weights get a pattern list; with scales per group, it has w16 on every target."""
    w = np.ones((64, 128), np.float32)
    w[:, ::4], w[:, 1::4] = 0, -1
    w[:, 64:] *= np.arange(1, 65, dtype=np.float32)[:, None]
    source = kit.save(tmp_path / "s.safetensors", {"w": w})
    (t,) = rsrc.compile(source, tmp_path / "x.rsr").tensors
    (found,) = survey(source)["tensors"]
    assert (t.packing, t.k) == (found["packing"], found["k"]) == ("w16", 4)


def test_one_tensor_and_its_owner_are_read(folder: Path) -> None:
    looked: list[tuple[str, int, int]] = []
    survey(folder, "a.weight_scale", lambda *call: looked.append(call))
    assert [name for name, _, _ in looked] == ["a.weight", "a.weight_scale"]


def test_many_weights_without_scales_are_listed_once(kit: Kit, tmp_path: Path) -> None:
    code = np.zeros((1, 2), np.uint8)
    kit.save(tmp_path / "model.safetensors", {f"{i}.weight": code for i in range(2000)})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    start = time.perf_counter()
    result = survey(tmp_path)
    assert time.perf_counter() - start < 3
    assert result["refused"] == 2000
    assert "1980 more" in result["tensors"][0]["reason"]
    assert {t["reason"] for t in result["tensors"][1:]} == {"as 0.weight"}
