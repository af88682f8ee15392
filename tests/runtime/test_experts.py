"""Native mixtures of experts, compared with NumPy and with the products of single matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats import records
from rsr_runtime import Matrix, _native
from rsr_testing.matrices import Build, Spec

Floats = npt.NDArray[np.float32]
Choice = tuple[npt.NDArray[np.int32], Floats]

HIDDEN, WIDTH, EXPERTS = 130, 96, 5
KINDS: dict[str, dict[str, Any]] = {
    "w16": {"scale": "row"},
    "n4s1": {"scale": "tensor", "packing": "n4s1"},
    "groups": {"scale": "row", "group": 32, "half": True},
}


def routed(logits: Floats, k: int, normalized: bool) -> Choice:
    chosen = np.full((len(logits), k), 99, np.int32)
    weights = np.full((len(logits), k), 12345, np.float32)
    _native.route(logits, normalized, chosen, weights)
    return chosen, weights


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("experts", "k"), [(1, 1), (5, 2), (8, 8), (128, 8), (300, 7)])
def test_route(normalized: bool, experts: int, k: int, rng: np.random.Generator) -> None:
    logits = (3 * rng.standard_normal((70, experts))).astype(np.float32)
    chosen, weights = routed(logits, k, normalized)
    exact = np.exp(logits - logits.max(1, keepdims=True).astype(np.float64))
    exact /= exact.sum(1, keepdims=True)
    best = np.sort(np.argsort(-exact, axis=1, kind="stable")[:, :k], axis=1)
    np.testing.assert_array_equal(chosen, best)
    expected = np.take_along_axis(exact, best, 1)
    if normalized:
        expected /= expected.sum(1, keepdims=True)
    # The argument of exp is rounded: its error is relative to the distance from the largest.
    far = 1 + np.take_along_axis(logits.max(1, keepdims=True) - logits, best, 1)
    assert (np.abs(weights - expected) <= (8 + far) * 2.0**-24 * expected).all()


def test_routes_of_ties_and_of_rows_that_are_not_finite() -> None:
    logits = np.array(
        [
            [1, 2, 2, 2],
            [0, 0, 0, 0],
            [np.nan, 1, 2, 3],
            [np.inf, 1, 2, 3],
            [-np.inf, 1, 2, -np.inf],
        ],
        np.float32,
    )
    chosen, weights = routed(logits, 2, True)
    assert chosen[:2].tolist() == [[1, 2], [0, 1]]  # the first of equal ones
    np.testing.assert_array_equal(weights[:2], 0.5)
    assert np.isnan(weights[2:4]).all()
    assert ((chosen >= 0) & (chosen < 4)).all()
    assert all(len(set(row)) == 2 for row in chosen.tolist())
    assert chosen[4].tolist() == [1, 2]


class Layer:
    """The experts of a layer."""

    def __init__(self, build: Build, kind: dict[str, Any], activations: str) -> None:
        shapes = [(WIDTH, HIDDEN)] * (2 * EXPERTS) + [(HIDDEN, WIDTH)] * EXPERTS
        specs = [Spec(shape, name=f"m{i}", **kind) for i, shape in enumerate(shapes)]
        matrices = [built.matrix for built in build(specs)]
        self.gate, self.up = matrices[:EXPERTS], matrices[EXPERTS : 2 * EXPERTS]
        self.down = matrices[2 * EXPERTS :]
        self.activations = activations
        self.down_rotation: rsr.Rotation | None = None
        gate, up, down = ([self.ranked(m) for m in r] for r in (self.gate, self.up, self.down))
        self.native = _native.Experts(gate, up, down, "silu", activations, activations)

    @staticmethod
    def ranked(m: Matrix) -> _native.Ranked:
        assert isinstance(m.index, _native.Ranked)
        return m.index

    def inputs(self, x: Floats) -> dict[str, Any]:
        """Return x in the form that the experts take."""
        found: dict[str, Any] = {"x": None, "q": None, "s": None}
        if self.activations == "float32":
            return found | {"x": x}
        q = np.empty(x.shape, np.int8)
        if self.activations == "int8":
            s = np.empty((len(x), 1), np.float32)
            _native.quantize_i8(x, q, s)
        else:
            columns = self.ranked(self.gate[0]).step_columns
            s = np.empty((len(x), -(-HIDDEN // columns)), np.float32)
            _native.quantize_groups_i8(x, columns, q, s)
        return found | {"q": q, "s": s}

    def __call__(self, x: Floats, choice: Choice, parts: int = 1) -> Floats:
        y = np.full(x.shape, 12345, np.float32)
        inputs = self.inputs(x)
        for share in range(parts):
            _native.multiply_experts(
                self.native, **inputs, chosen=choice[0], weights=choice[1], share=share,
                shares=parts, y=y,
            )  # fmt: skip
        return y

    def expected(self, x: Floats, choice: Choice) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the sum of the products of single matrices, and that of their magnitudes."""
        y, size = np.zeros(x.shape), np.zeros(x.shape)
        for i, (chosen, weights) in enumerate(zip(*choice, strict=True)):
            for e, weight in zip(chosen, weights, strict=True):
                row = x[i : i + 1]
                gate = self.gate[e].linear(row, self.activations).astype(np.float64)
                h = gate / (1 + np.exp(-gate)) * self.up[e].linear(row, self.activations)
                h = h.astype(np.float32)
                if self.down_rotation is not None:
                    h = self.down_rotation.apply(h)
                down = self.down[e].linear(h, self.activations)[0]
                y[i] += weight * down.astype(np.float64)
                size[i] += abs(weight) * np.abs(h).max() * WIDTH * np.abs(self.down[e].scale).max()
        return y, size


def rows_and_choice(count: int, k: int, rng: np.random.Generator) -> tuple[Floats, Choice]:
    x = rng.standard_normal((count, HIDDEN)).astype(np.float32)
    logits = (3 * rng.standard_normal((count, EXPERTS))).astype(np.float32)
    return x, routed(logits, k, normalized=True)


@pytest.mark.parametrize("activations", ["float32", "int8", "int8-group"])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_single_matrices(
    isa: str, kind: str, activations: str, shared_build: Build, rng: np.random.Generator
) -> None:
    layer = Layer(shared_build, KINDS[kind], activations)
    for count, k in ((1, 1), (1, 3), (2, 5), (7, 2), (40, 2)):
        x, choice = rows_and_choice(count, k, rng)
        y, size = layer.expected(x, choice)
        # h may be rounded to a neighboring integer, as its last bits differ here.
        steps = 1e-5 if activations == "float32" else 2 / 127
        assert (np.abs(layer(x, choice) - y) <= steps * size).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_others_nor_on_parts(
    isa: str, kind: str, shared_build: Build, rng: np.random.Generator, restore: None
) -> None:
    """With int8, to the bit: on any number of threads, alone, among others, in any parts."""
    layer = Layer(shared_build, KINDS[kind], "int8")
    x, choice = rows_and_choice(45, 3, rng)
    together = layer(x, choice)
    for parts in (2, 7, 45 * 3, 500):
        np.testing.assert_array_equal(layer(x, choice, parts), together)
    rsr.set_num_threads(3)
    np.testing.assert_array_equal(layer(x, choice), together)
    for rows in (slice(0, 1), slice(5, 6), slice(44, 45), slice(3, 20)):
        alone = layer(x[rows], (choice[0][rows], choice[1][rows]))
        np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("activations", ["float32", "int8", "int8-group"])
def test_downs_in_a_rotated_basis(
    isa: str, activations: str, shared_build: Build, rng: np.random.Generator
) -> None:
    """Their inputs are rotated before they are quantized."""
    layer = Layer(shared_build, KINDS["groups"], activations)
    rotation = rsr.Rotation(records.Rotation(32, rng.bytes(WIDTH // 8)))
    gate, up, down = ([layer.ranked(m) for m in r] for r in (layer.gate, layer.up, layer.down))

    def made(factors: Floats, block: int) -> _native.Experts:
        return _native.Experts(gate, up, down, "silu", activations, activations, factors, block)

    layer.native, layer.down_rotation = made(rotation.factors, rotation.block), rotation
    for count, k in ((1, 3), (7, 2)):
        x, choice = rows_and_choice(count, k, rng)
        y, size = layer.expected(x, choice)
        steps = 2e-5 if activations == "float32" else 2 / 127
        assert (np.abs(layer(x, choice) - y) <= steps * size).all()
    with pytest.raises(ValueError, match="factors must have an entry for each column"):
        made(rotation.factors[:32].copy(), 32)
    with pytest.raises(ValueError, match="block must be a power of two from 16 on"):
        made(rotation.factors, 64)


def test_dense_experts_and_indices_that_differ(
    shared_build: Build, rng: np.random.Generator
) -> None:
    """A layer may have experts that are not ternary, and indices that share no tables."""
    layer = Layer(shared_build, KINDS["w16"], "float32")
    other = Layer(shared_build, KINDS["n4s1"], "float32")
    half = layer.gate[1].to_dense().astype(np.float16)
    bfloat = layer.down[2].to_dense().view(np.uint32) >> 16
    dense = [
        _native.Dense(half.view(np.uint16), False),
        _native.Dense(bfloat.astype(np.uint16), True),
        _native.Dense(layer.up[3].to_dense()),
    ]
    gate, up, down = ([layer.ranked(m) for m in r] for r in (layer.gate, layer.up, layer.down))
    mixed: list[list[Any]] = [[*gate], [*up], [*down]]
    mixed[0][1], mixed[2][2], mixed[1][3] = dense
    mixed[0][4] = layer.ranked(other.gate[4])
    x, choice = rows_and_choice(9, 4, rng)
    layer.gate[4] = other.gate[4]
    y, size = layer.expected(x, choice)
    layer.native = _native.Experts(mixed[0], mixed[1], mixed[2], "silu", "float32", "float32")
    tolerance = np.where((choice[0] == 2).any(1) | (choice[0] == 1).any(1), 2.0**-7, 1e-5)
    assert (np.abs(layer(x, choice) - y) <= tolerance[:, None] * size).all()
    one = layer(x[:1], (choice[0][:1], choice[1][:1]))
    assert (np.abs(one - y[:1]) <= 2.0**-7 * size[:1]).all()


def test_what_is_refused(shared_build: Build, rng: np.random.Generator) -> None:
    layer = Layer(shared_build, KINDS["w16"], "int8")
    x, choice = rows_and_choice(2, 2, rng)
    for wrong in (-1, EXPERTS):
        choice[0][1, 1] = wrong
        with pytest.raises(ValueError, match="an expert was chosen that does not exist"):
            layer(x, choice)
    with pytest.raises(ValueError, match="the experts take int8"):
        _native.multiply_experts(layer.native, x, None, None, choice[0], choice[1], 0, 1, x.copy())
    q, s = layer.inputs(x)["q"], layer.inputs(x)["s"]
    with pytest.raises(ValueError, match="share must be below shares"):
        _native.multiply_experts(layer.native, None, q, s, choice[0], choice[1], 1, 1, x.copy())
    with pytest.raises(ValueError, match="too many shares"):
        layer(x, choice, 2**62 + 1)  # 4 pairs: their product does not fit
    with pytest.raises(ValueError, match="no more than there are"):
        routed(np.zeros((1, 2), np.float32), 3, False)
    gate: list[_native.Ranked | _native.Dense] = [layer.ranked(m) for m in layer.gate]
    with pytest.raises(ValueError, match="a matrix for each expert"):
        _native.Experts(gate, gate[:1], gate, "silu", "int8", "int8")
    with pytest.raises(ValueError, match="downs its reverse"):
        _native.Experts(gate, gate, gate, "silu", "int8", "int8")
    dense: list[_native.Ranked | _native.Dense] = [_native.Dense(np.ones((8, 8), np.float32))]
    for forms in (("int8-group", "float32"), ("float32", "int8-group")):
        with pytest.raises(ValueError, match="at least one matrix must be a Ranked"):
            _native.Experts(dense, dense, dense, "silu", *forms)
