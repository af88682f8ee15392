"""Groups of linear layers in different bases: each takes its own input, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_runtime import _native
from rsr_runtime.dense import DenseTensor
from rsr_runtime.llm.linear import Linear, LinearGroup, Workspace
from rsr_testing import models

Floats = npt.NDArray[np.float32]
UP, GATE = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> rsr.Model:
    folder: Path = tmp_path_factory.mktemp("rotated")
    return rsr.load(models.FAMILIES["bonsai-2"].build(folder))


def products(layers: Sequence[Linear], x: Floats) -> list[Floats]:
    group = LinearGroup(layers, Workspace())
    inputs = group.inputs(len(x))
    _native.normalize(x.copy(), None, None, 0.0, *inputs)
    program = _native.Program()
    outputs = group.record(program, 0, len(x))
    program.run(np.zeros(1))
    return [y.copy() for y in outputs]


@pytest.mark.parametrize("rows", [1, 5])
def test_each_layer_takes_the_input_in_its_basis(model: rsr.Model, rows: int) -> None:
    up, gate = model.matrix(UP), model.matrix(GATE)
    assert up.rotation is not None
    plain = np.random.default_rng(1).standard_normal((9, up.shape[1])).astype(np.float32)
    norm = np.linspace(0.5, 1.5, up.shape[1], dtype=np.float32)
    layers = [
        Linear("float", up),
        Linear("groups", gate, "int8-group"),
        Linear("int8", up, "int8"),
        Linear("plain", DenseTensor("plain", "F32", plain.shape, plain)),
        Linear("normed", gate, norm=norm, norm_eps=1e-6),
    ]
    x = np.random.default_rng(0).standard_normal((rows, up.shape[1])).astype(np.float32)
    found = products(layers, x)
    rotated = up.rotation.apply(x)
    normed = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-6) * norm
    expected = [
        up.linear(rotated),
        gate.linear(rotated, "int8-group"),
        up.linear(rotated, "int8"),
        x @ plain.T,
        gate.linear(up.rotation.apply(normed.astype(np.float32))),
    ]
    for y, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(y, wanted, 1e-5, 1e-5)
    alone = products([replace(layers[1], name="alone")], x)
    np.testing.assert_array_equal(alone[0], found[1])
