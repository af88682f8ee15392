"""How `rsrc inspect` lists tensors: identical layers together, in the width of the terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.cli.listing import Listed, print_tensors
from rsrc.inspection.file import inspect_file
from rsrc.inspection.survey import survey

LAYERS = 30


def listing(tensors: list[Listed], width: int = 80) -> list[str]:
    out = io.StringIO()
    print_tensors(Console(file=out, width=width), tensors)
    return out.getvalue().splitlines()


def listed(*names: str, heading: str = "dense F32", shape: int = 8) -> list[Listed]:
    return [Listed(name, heading, [shape], 32) for name in names]


def test_layers_are_one_line() -> None:
    lines = listing(listed(*(f"model.layers.{i}.norm.weight" for i in range(12)), "model.norm"))
    assert [line.split() for line in lines[2:]] == [
        ["model.layers.0-11.norm.weight", "12", "8", "384", "B"],
        ["model.norm", "1", "8", "32", "B"],
    ]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([(0, 0), (0, 1), (1, 0), (1, 1)], ["a.0-1.b.0-1.c"]),
        ([(0, 0), (0, 1), (1, 0)], ["a.0-1.b.0.c", "a.0.b.1.c"]),
        ([(0, 0), (2, 0), (3, 0), (7, 0)], ["a.0,2-3,7.b.0.c"]),
    ],
)
def test_a_range_names_no_tensor_that_is_not_there(
    numbers: list[tuple[int, int]], expected: list[str]
) -> None:
    lines = listing(listed(*(f"a.{i}.b.{j}.c" for i, j in numbers)))
    assert [line.split()[0] for line in lines[2:]] == expected


def test_other_shapes_and_headings_stay_apart() -> None:
    tensors = [
        *listed("a.0.b", "a.1.b"),
        *listed("a.2.b", shape=9),
        *listed("a.3.b", heading="x"),
    ]
    lines = listing(tensors)
    assert [line.split()[0] for line in lines[1:]] == ["dense", "a.0-1.b", "a.2.b", "x", "a.3.b"]


def test_a_long_name_is_broken_after_dots() -> None:
    name = ".".join(["model", *["long_name"] * 8, "weight"])
    lines = listing(listed(name), 60)
    assert all(len(line) <= 60 for line in lines)
    assert "".join(line.split()[0] for line in lines[2:]) == name


def test_unprintable_names_are_escaped() -> None:
    assert "a\\x1b[2Jb" in listing(listed("a\x1b[2Jb"))[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 30 layers in the layout of microsoft/bitnet-b1.58-2B-4T."""
    kit, folder = Kit(), tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(1)
    sizes = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8)}
    sizes |= {"self_attn.o_proj": (8, 8), "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8)}
    sizes |= {"mlp.down_proj": (8, 12)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["self_attn.attn_sub_norm", "mlp.ffn_sub_norm"]
    tensors: dict[str, Any] = {}
    tensors["model.embed_tokens.weight"] = rng.standard_normal((16, 8)).astype(np.float32)
    tensors["model.norm.weight"] = np.ones(8, np.float32)
    for i in range(LAYERS):
        for module, shape in sizes.items():
            name = f"model.layers.{i}.{module}.weight"
            tensors[name] = kit.pack(rng.integers(-1, 2, shape))
            tensors[f"{name}_scale"] = np.full(1, 0.5, np.float32)
        for norm in norms:
            size = 12 if norm == "mlp.ffn_sub_norm" else 8
            tensors[f"model.layers.{i}.{norm}.weight"] = np.ones(size, np.float32)
    kit.save(folder / "model.safetensors", tensors)
    config = {"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}}
    (folder / "config.json").write_text(json.dumps(config))
    rsrc.compile(folder, folder / "model.rsr", target="generic")
    return folder


@pytest.mark.parametrize("compiled", [False, True])
def test_thirty_layers_fit_a_terminal(
    model: Path, compiled: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 40 lines of 80 columns, no word cut, and every tensor of --json is counted."""
    from rsrc.cli import inspect_tables as tables

    monkeypatch.setattr(tables, "console", lambda: Console(width=80, markup=False, emoji=False))
    result = inspect_file(model / "model.rsr") if compiled else survey(model)
    (tables.print_inspection if compiled else tables.print_survey)(result)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert all(len(line.rstrip()) <= 80 for line in lines)
    text = " ".join(" ".join(lines).split())
    for name in ("model.layers.0-29.self_attn.q_proj.weight", "model.layers.0-29.mlp.ffn_sub_norm"):
        assert name in text
    counts = [re.search(r" +(\d+)  [0-9x]+ .* k?B *$", line) for line in lines]
    assert sum(int(found[1]) for found in counts if found) == len(result["tensors"])
