"""The gated delta net of the native module, compared with the reference in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_runtime import _native
from rsr_runtime.reference import delta_net, quantize_int8

Floats = npt.NDArray[np.float32]

LANES = 16
EPS = 1e-6


@dataclass
class Net:
    """Weights of a net, and the states of one sequence: the native one, and the reference's."""

    key_heads: int
    values: int
    dk: int
    dv: int
    taps: int
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.channels = 2 * self.key_heads * self.dk + self.values * self.dv
        self.convolution = self.draw(self.taps, self.channels)
        self.decay = -np.exp(self.draw(self.values))
        self.dt_bias = self.draw(self.values)
        self.clear()

    def draw(self, *shape: int) -> Floats:
        return self.rng.standard_normal(shape).astype(np.float32)

    def clear(self) -> None:
        self.rows = np.zeros((self.taps - 1, self.channels), np.float32)
        self.state = np.zeros((self.values, -(-self.dv // LANES), self.dk, LANES), np.float32)

    def inputs(self, count: int) -> tuple[Floats, Floats, Floats]:
        """Return qkv, a and b of some rows."""
        return (
            self.draw(count, self.channels),
            self.draw(count, self.values),
            self.draw(count, self.values),
        )

    def run(self, qkv: Floats, a: Floats, b: Floats) -> Floats:
        """Pass rows through the native net."""
        out = np.full((len(qkv), self.values * self.dv), 12345, np.float32)
        weights = _native.DeltaWeights(self.convolution, self.decay, self.dt_bias)
        state = _native.DeltaState(self.rows, self.state)
        _native.delta_net(qkv, a.copy(), b.copy(), weights, state, np.empty_like(qkv), out)
        return out

    @property
    def wide_state(self) -> npt.NDArray[np.float64]:
        """The native state as that of the reference, (value heads, dk, dv)."""
        whole = self.state.astype(np.float64).transpose(0, 2, 1, 3)
        return whole.reshape(self.values, self.dk, -1)[:, :, : self.dv]


def cut(count: int, rng: np.random.Generator) -> Iterable[slice]:
    """Yield consecutive parts of random lengths."""
    start = 0
    while start < count:
        stop = min(count, start + int(rng.integers(1, 9)))
        yield slice(start, stop)
        start = stop


SHAPES = [(1, 1, 16, 16, 4), (2, 6, 32, 48, 4), (2, 4, 24, 20, 2), (1, 3, 128, 128, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_reference(
    isa: str, shape: tuple[int, int, int, int, int], rng: np.random.Generator
) -> None:
    net = Net(*shape, rng)
    kept, state = net.rows.astype(np.float64), net.wide_state
    for count in (1, 7, 2, 40):
        rows = net.inputs(count)
        given = net.convolution, net.decay, net.dt_bias
        expected, kept, state = delta_net(*rows, *given, kept, state)
        found = net.run(*rows).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(net.rows, kept)
        np.testing.assert_allclose(net.wide_state, state, atol=2e-5 * np.abs(state).max())


def test_a_row_does_not_depend_on_how_rows_are_cut(
    isa: str, rng: np.random.Generator, restore: None
) -> None:
    net, count = Net(2, 6, 64, 80, 4, rng), 50
    rows = net.inputs(count)
    rsr.set_num_threads(1)
    whole = net.run(*rows)
    end = net.rows.tobytes() + net.state.tobytes()
    for threads in (1, 2, 3):
        rsr.set_num_threads(threads)
        for _ in range(2):
            net.clear()
            parts = [net.run(*(x[part] for x in rows)) for part in cut(count, rng)]
            assert np.concatenate(parts).tobytes() == whole.tobytes()
            assert net.rows.tobytes() + net.state.tobytes() == end


def test_gates_of_any_size(isa: str, rng: np.random.Generator) -> None:
    """A gate that is shut or open leaves no NaN: softplus and sigmoid do not overflow."""
    net = Net(1, 1, 16, 16, 4, rng)
    for a, b in ((1e4, 1e4), (-1e4, -1e4), (3e38, -3e38), (-3e38, 3e38)):
        net.clear()
        rows = net.inputs(3)[0], np.full((3, 1), a, np.float32), np.full((3, 1), b, np.float32)
        out = net.run(*rows)
        assert np.isfinite(out).all()
        if b < 0:
            np.testing.assert_array_equal(out, 0)  # nothing was ever written


@pytest.mark.parametrize(("heads", "d"), [(1, 16), (3, 24), (4, 128)])
def test_norm_gated(isa: str, heads: int, d: int, rng: np.random.Generator) -> None:
    x, z = (rng.standard_normal((5, heads * d)).astype(np.float32) * 3 for _ in range(2))
    weight = rng.standard_normal(d).astype(np.float32)
    by_head = x.astype(np.float64).reshape(5, heads, d)
    normed = by_head / np.sqrt((by_head**2).mean(-1, keepdims=True) + EPS) * weight
    expected = normed.reshape(x.shape) * (z / (1 + np.exp(-z.astype(np.float64))))
    out, q, s = np.empty_like(x), np.empty(x.shape, np.int8), np.empty((5, 1), np.float32)
    _native.norm_gated(x, z, weight, EPS, out, q, s)
    np.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-37)
    for found, e in zip((q, s), quantize_int8(out), strict=True):
        np.testing.assert_array_equal(found, e)
    q_only = np.empty_like(q)
    _native.norm_gated(x, z, weight, EPS, None, q_only, s)
    np.testing.assert_array_equal(q_only, q)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"out": (3, 33)}, "out must be"),
        ({"qkv": (3, 97)}, "qkv must have the channels"),
        ({"qkv": (3, 32)}, "qkv must have the channels"),
        ({"qkv": (3, 128)}, "the value heads must be a multiple of the key heads"),
        ({"state": (2, 2, 16, 16)}, "state must be"),
        ({"state": (2, 1, 16, 8)}, "state must be"),
        ({"convolution": (4, 63)}, "the convolution must be"),
        ({"convolution": (17, 64)}, "the convolution must be"),
        ({"rows": (4, 64)}, "rows must be"),
        ({"decay": (3,)}, "a and dt_bias must have"),
        ({"dt_bias": (1,)}, "a and dt_bias must have"),
        ({"a": (3, 3)}, "a and b must be"),
        ({"b": (2, 2)}, "a and b must be"),
        ({"convolved": (2, 64)}, "convolved must have the shape"),
        ({"out": (2, 32)}, "out must have the rows"),
    ],
)
def test_refuses_other_shapes(change: dict[str, Any], sentence: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "qkv": (3, 64), "a": (3, 2), "b": (3, 2), "convolution": (4, 64), "decay": (2,),
        "dt_bias": (2,), "rows": (3, 64), "state": (2, 1, 16, 16), "convolved": (3, 64),
        "out": (3, 32), **change,
    }  # fmt: skip
    x = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    weights = _native.DeltaWeights(x["convolution"], x["decay"], x["dt_bias"])
    state = _native.DeltaState(x["rows"], x["state"])
    with pytest.raises(ValueError, match=f"^{sentence}"):
        _native.delta_net(x["qkv"], x["a"], x["b"], weights, state, x["convolved"], x["out"])
