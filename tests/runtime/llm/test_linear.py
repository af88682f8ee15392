"""Linear layers that share an input, and the activations that they take."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_runtime import DenseTensor, Matrix, _native
from rsr_runtime.llm.config import read_config
from rsr_runtime.llm.linear import Linear, LinearGroup, Workspace
from rsr_runtime.llm.weights import collect
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader
from rsr_testing.matrices import Spec, Workshop

FloatArray = npt.NDArray[np.float32]
EPS = 1e-5


def layers_of(workshop: Workshop) -> list[Linear]:
    """Return layers of every form and encoding, two of them with norms of their own."""
    n = 390
    norm = np.linspace(0.5, 2, n, dtype=np.float32)
    kinds = [
        ("int8-group", Spec((70, n), scale="row", group=64)),
        ("float32", Spec((33, n), scale="row", group=64)),
        ("int8-group", Spec((65, n), scale="row", group=128, half=True)),
        ("int8", Spec((64, n), scale="row")),
        ("int8-group", Spec((20, n), scale="tensor")),
        ("int8-group", Spec((97, n), scale="row", group=64, half=True)),
        ("int8-group", Spec((45, n), scale="row", encoding="permuted", k=4)),
        ("int8", Spec((46, n), scale="row", encoding="permuted", k=4)),
    ]
    built = workshop.build([spec for _, spec in kinds])
    layers = [
        Linear(str(i), one.matrix, kind)
        for i, ((kind, _), one) in enumerate(zip(kinds, built, strict=True))
    ]
    return layers + [dataclasses.replace(one, norm=norm, norm_eps=EPS) for one in layers]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("chosen", [slice(None), slice(0, 1), slice(0, 6, 5), slice(8, 9)])
def test_each_layer_gets_what_linear_gives(
    rows: int, chosen: slice, workshop: Workshop, rng: np.random.Generator
) -> None:
    layers = layers_of(workshop)[chosen]
    group = LinearGroup(layers, Workspace())
    x = rng.standard_normal((rows, 390)).astype(np.float32)
    weight = rng.standard_normal(390).astype(np.float32)
    program = _native.Program()
    y = group.record(program, 0, rows)
    _native.normalize(x, None, weight, EPS, *group.inputs(rows))
    program.run(np.zeros(1))
    shared, normed = np.empty_like(x), np.empty_like(x)
    _native.normalize(x, None, weight, EPS, shared, None, None)
    for layer, found in zip(layers, y, strict=True):
        if layer.norm is not None:
            _native.normalize(shared, None, layer.norm, EPS, normed, None, None)
        given = shared if layer.norm is None else normed
        assert isinstance(layer.weight, Matrix)
        np.testing.assert_array_equal(found, layer.weight.linear(given, layer.activations))


def test_one_form_needs_no_floats(workshop: Workshop) -> None:
    """The norm before the layers writes q and steps itself."""
    layers = layers_of(workshop)
    for members in ((0, 5), (2, 4, 6), (3, 7)):
        x = LinearGroup([layers[i] for i in members], Workspace()).inputs(3)
        assert x.floats is None
        assert x.q is not None
    assert LinearGroup([layers[0], layers[2]], Workspace()).inputs(3).floats is not None


@pytest.mark.parametrize(
    ("name", "activations", "layers", "head"),
    [
        ("bonsai", "trained", "float32", "float32"),
        ("bonsai", "float32", "float32", "float32"),
        ("bonsai", "int8-group", "int8-group", "int8-group"),
        ("bonsai-untied", "int8-group", "int8-group", "int8-group"),
        ("trilm", "int8-group", "int8-group", "float32"),
        ("bitnet-2b", "trained", "int8", "float32"),
        ("bitnet-2b", "float32", "float32", "float32"),
        ("bitnet-2b", "int8-group", "int8", "float32"),
    ],
)
def test_what_layers_take(
    name: str, activations: str, layers: str, head: str, language_models: LanguageModels
) -> None:
    with rsr.load(language_models.path(name)) as model:
        weights = collect(model, read_config(model.files), activations)
        *linear, lm_head = weights.linear
        assert {layer.activations for layer in linear} == {layers}
        assert lm_head.activations == head
        assert isinstance(lm_head.weight, DenseTensor) == (head == "float32" and name != "bonsai")


TOKENS = np.random.default_rng(1).integers(3, 250, 40).tolist()


@pytest.mark.parametrize("name", ["bonsai", "trilm", "gguf-tq2_0"])
def test_logits_are_close_to_float32(name: str, loaded: Loader) -> None:
    exact = loaded(name, kv="float32").logits(TOKENS)
    rounded = loaded(name, kv="float32", activations="int8-group").logits(TOKENS)
    assert not np.array_equal(exact, rounded)
    assert np.linalg.norm(rounded - exact) < 0.03 * np.linalg.norm(exact)


def test_a_bitnet_keeps_its_activations(loaded: Loader) -> None:
    expected = loaded("bitnet-2b").logits(TOKENS)
    found = loaded("bitnet-2b", activations="int8-group").logits(TOKENS)
    np.testing.assert_array_equal(found, expected)


def test_a_bitnet_with_float_activations(loaded: Loader) -> None:
    """They are what its int8 activations round."""
    rounded = loaded("bitnet-2b", kv="float32").logits(TOKENS)
    exact = loaded("bitnet-2b", kv="float32", activations="float32").logits(TOKENS)
    assert not np.array_equal(exact, rounded)
    assert np.linalg.norm(rounded - exact) < 0.1 * np.linalg.norm(exact)
