"""A model of matrices of different kinds: ternary ones, and some with weights of +2 or -2."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import rsrc
from rsr_runtime import llm
from rsr_testing.models import FAMILIES, Tensor

# Of q, k and v and of gate and up, which are multiplied together, only some.
WIDE = {
    "model.embed_tokens.weight": (2,),
    "model.layers.0.self_attn.q_proj.weight": (2,),
    "model.layers.0.mlp.up_proj.weight": (-2, 2),
    "model.layers.1.self_attn.k_proj.weight": (-2,),
    "model.layers.1.mlp.down_proj.weight": (2,),
}


@pytest.mark.parametrize("activations", ["float32", "int8-group"])
def test_a_mixed_model_equals_the_one_with_dense_matrices(
    tmp_path: Path, activations: Literal["float32", "int8-group"], rng: np.random.Generator
) -> None:
    family = FAMILIES["bonsai"]
    tensors = family.tensors()
    for name, digits in WIDE.items():
        values = tensors[name].values.copy()
        for digit in digits:
            chosen = (np.sign(values) == np.sign(digit)) & (rng.random(values.shape) < 0.1)
            values[chosen] *= 2
        tensors[name] = Tensor.of(values, "F16")
    family.save(tmp_path / "model", tensors)
    report = rsrc.compile(tmp_path / "model", tmp_path / "mixed.rsr")
    kinds = {t.name: t.kind for t in report.tensors}
    assert {name for name, kind in kinds.items() if kind in ("quaternary", "quinary")} == set(WIDE)
    assert kinds["model.layers.0.self_attn.k_proj.weight"] == "ternary"
    rsrc.compile(tmp_path / "model", tmp_path / "dense.rsr", exclude=list(WIDE))
    prompt = rng.integers(3, 250, 24).tolist()
    with (
        llm.load(tmp_path / "mixed.rsr", activations=activations, kv="float32") as mixed,
        llm.load(tmp_path / "dense.rsr", kv="float32") as dense,
    ):
        found, expected = mixed.logits(prompt), dense.logits(prompt)
        one_by_one = mixed.next_logits(prompt)
    most = np.abs(expected).max()
    error = 1e-4 if activations == "float32" else 0.1  # activations in 8 bits
    np.testing.assert_allclose(found, expected, atol=error * most)
    np.testing.assert_allclose(one_by_one, found[-1], atol=1e-4 * most)
