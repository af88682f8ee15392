"""A mixture of experts that MLX has quantized runs as the floats and digits that it stands for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import rsrc
from rsr_testing.mlx import quantized, ternary
from rsr_testing.models import FAMILIES, Tensor

pytest.importorskip("tokenizers", reason="needs the extra llm")
pytest.importorskip("jinja2", reason="needs the extra llm")

from rsr_runtime import llm

FAMILY = FAMILIES["qwen3-moe"]
BITS = {".mlp.gate.weight": 8, "embed_tokens.weight": 4, "lm_head.weight": 8}
EXPERT = re.compile(r"(.*)\.mlp\.experts\.[0-9]+\.(.*)\.weight")


def save(folder: Path) -> None:
    """Write the family as mlx-lm converts it, and the same weights as transformers has them."""
    plain = FAMILY.tensors()
    made: dict[str, Tensor] = {}
    stacks: dict[str, list[Tensor]] = {}
    settings: dict[str, object] = {"group_size": 128, "bits": 2}
    for name, t in list(plain.items()):
        module = name.removesuffix(".weight")
        bits = next((bits for end, bits in BITS.items() if name.endswith(end)), 2)
        if t.values.ndim < 2:
            made[name] = t
            continue
        if bits == 2:
            parts = ternary(t.values, 128)
        else:
            parts, floats = quantized(t.values, bits, 128)
            plain[name] = Tensor("F16", floats)
            settings[module] = {"group_size": 128, "bits": bits}
        expert = EXPERT.fullmatch(name)
        for part, values in parts.items():
            if expert is None:
                made[f"{module}.{part}"] = values
            else:
                whole = f"{expert[1]}.mlp.switch_mlp.{expert[2]}.{part}"
                stacks.setdefault(whole, []).append(values)
    for name, tensors in stacks.items():
        made[name] = Tensor(tensors[0].dtype, np.stack([t.values for t in tensors]))
    FAMILY.save(folder / "plain", plain)
    FAMILY.save(folder / "mlx", made)
    config = {**FAMILY.settings, "quantization": settings, "quantization_config": settings}
    (folder / "mlx" / "config.json").write_text(json.dumps(config))


def test_router_embedding_and_head_of_more_bits(tmp_path: Path) -> None:
    save(tmp_path)
    found = []
    for name in ("plain", "mlx"):
        report = rsrc.compile(tmp_path / name, tmp_path / f"{name}.rsr")
        assert report.support is not None
        assert report.support.run_reasons == ()
        with llm.load(tmp_path / f"{name}.rsr") as model:
            found.append(model.logits(list(range(40))).copy())
    np.testing.assert_array_equal(found[0], found[1])
    dense = {t.name for t in report.tensors if "MLX" in str(t.reason)}
    assert {name.rpartition("layers.")[2] for name in dense} == {
        "model.embed_tokens.weight", "lm_head.weight", "0.mlp.gate.weight", "2.mlp.gate.weight",
    }  # fmt: skip
