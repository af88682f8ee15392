"""Norms, gates, quantization and attention of a decoder, compared with NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime as rsr
from rsr_runtime import _native
from rsr_runtime.reference import quantize_int8
from rsr_testing.matrices import ISAS

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]

EPS = 1e-5
LANES = 16
CHUNK = 128  # positions that share a softmax pass
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 2560)
ULP = 2.0**-23
ACTIVATIONS: dict[str, Callable[[Wide], Wide]] = {
    "silu": lambda x: np.divide(x, 1 + np.exp(-x)),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": lambda x: np.divide(1, 1 + np.exp(-x)),
}


def rows(count: int, n: int, rng: np.random.Generator) -> Floats:
    """Return rows of different magnitudes."""
    scale = 10.0 ** rng.uniform(-3, 3, (count, 1))
    return (rng.standard_normal((count, n)) * scale).astype(np.float32)


def outputs(shape: tuple[int, ...]) -> tuple[Floats, npt.NDArray[np.int8], Floats]:
    """Return arrays for floats, int8 and scales, filled with values that no result has."""
    return (
        np.full(shape, 12345, np.float32),
        np.full(shape, 99, np.int8),
        np.full((shape[0], 1), 12345, np.float32),
    )


def quantized(x: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    _, q, s = outputs(x.shape)
    _native.quantize_i8(x, q, s)
    return q, s


def rms_norm(x: Array, weight: Array | None) -> Wide:
    wide = x.astype(np.float64)
    if weight is None:
        return wide
    norm: Wide = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + EPS) * weight
    return norm


class TestRows:
    @pytest.mark.parametrize("n", LENGTHS)
    def test_quantize_is_the_reference_bit_for_bit(
        self, isa: str, n: int, rng: np.random.Generator
    ) -> None:
        x = rows(9, n, rng)
        x[1] = 0
        x[2] = np.float32(1e-30)
        x[3] = rng.integers(-254, 255, n) / np.float32(2)  # halves, which round to even
        x[3, 0] = 127
        x[4] = np.finfo(np.float32).max
        for found, expected in zip(quantized(x), quantize_int8(x), strict=True):
            np.testing.assert_array_equal(found, expected)
        for i, special in enumerate((np.nan, np.inf, -np.inf)):
            x[i, n // (i + 1) - 1] = special
        q, s = quantized(x)
        assert np.isnan(s[:3]).all()
        np.testing.assert_array_equal(q[:3], 0)
        for found, expected in zip((q[3:], s[3:]), quantize_int8(x[3:]), strict=True):
            np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("n", LENGTHS)
    @pytest.mark.parametrize("with_weight", [False, True])
    @pytest.mark.parametrize("with_add", [False, True])
    def test_normalize(
        self, isa: str, n: int, with_weight: bool, with_add: bool, rng: np.random.Generator
    ) -> None:
        x, addend = rows(5, n, rng), rows(5, n, rng)
        weight = rng.standard_normal(n).astype(np.float32) if with_weight else None
        before, expected_x = x.copy(), x + addend if with_add else x.copy()
        out, q, s = outputs(x.shape)
        _native.normalize(x, addend if with_add else None, weight, EPS, out, q, s)
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_allclose(out, rms_norm(expected_x, weight), rtol=8 * ULP)
        for found, expected in zip((q, s), quantize_int8(out), strict=True):
            np.testing.assert_array_equal(found, expected)
        # Each output by itself, and in place.
        x = before.copy()
        only, q_only, s_only = outputs(x.shape)
        _native.normalize(x, addend if with_add else None, weight, EPS, None, q_only, s_only)
        _native.normalize(x, None, weight, EPS, only, None, None)
        assert (q_only.tobytes(), s_only.tobytes()) == (q.tobytes(), s.tobytes())
        assert only.tobytes() == out.tobytes()
        _native.normalize(x, None, weight, EPS, x, q_only, s_only)
        assert x.tobytes() == out.tobytes()
        assert (q_only.tobytes(), s_only.tobytes()) == (q.tobytes(), s.tobytes())

    @pytest.mark.parametrize("n", LENGTHS)
    @pytest.mark.parametrize("with_weight", [False, True])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_gated(
        self, isa: str, n: int, with_weight: bool, activation: str, rng: np.random.Generator
    ) -> None:
        gate = rng.uniform(-20, 20, (5, n)).astype(np.float32)
        up = rng.standard_normal((5, n)).astype(np.float32)
        weight = rng.standard_normal(n).astype(np.float32) if with_weight else None
        expected = rms_norm(ACTIVATIONS[activation](gate.astype(np.float64)) * up, weight)
        before = gate.copy(), up.copy()
        out, q, s = outputs(gate.shape)
        _native.gated(gate, up, activation, weight, EPS, out, q, s)
        np.testing.assert_allclose(out, expected, rtol=16 * ULP, atol=1e-37)
        for found, e in zip((q, s), quantize_int8(out), strict=True):
            np.testing.assert_array_equal(found, e)
        q_only, s_only = outputs(gate.shape)[1:]
        _native.gated(gate, up, activation, weight, EPS, None, q_only, s_only)
        assert (q_only.tobytes(), s_only.tobytes()) == (q.tobytes(), s.tobytes())
        for now, then in zip((gate, up), before, strict=True):
            np.testing.assert_array_equal(now, then)

    def test_silu_is_within_four_ulp(self, isa: str) -> None:
        """Compared with float64; below -87.3, where e^x is subnormal, it is zero."""
        x = np.concatenate(
            [np.linspace(-87.33, 89, 400_001), 10.0 ** np.linspace(-44, 38, 100_001)]
        ).astype(np.float32)
        x = np.concatenate([x, -x[np.abs(x) < 87.33]])[None]
        out = outputs(x.shape)[0]
        _native.gated(x.copy(), np.ones_like(x), "silu", None, EPS, out, None, None)
        expected = ACTIVATIONS["silu"](x.astype(np.float64))
        error = np.abs(out - expected) / np.spacing(np.abs(expected).astype(np.float32))
        assert error.max() <= 4
        far = np.array([[-87.34, -88, -104, -1000, -3e38]], np.float32)
        out = outputs(far.shape)[0]
        _native.gated(far.copy(), np.ones_like(far), "silu", None, EPS, out, None, None)
        np.testing.assert_array_equal(out, 0)

    def test_gelu_tanh_is_within_its_bound(self, isa: str) -> None:
        """The bound is that of the kernel, 4 ulp and below zero 4 |2 u| more, for each float32."""
        x = np.concatenate(
            [np.linspace(-7.5, 12, 200_001), 10.0 ** np.linspace(-44, 12, 50_001)]
        ).astype(np.float32)
        out = outputs((1, len(x)))[0]
        _native.gated(x[None], np.ones_like(out), "gelu_tanh", None, EPS, out, None, None)
        wide = x.astype(np.float64)
        twice = 2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
        expected = wide / (1 + np.exp(-twice))
        ulps = np.abs(out[0] - expected) / np.spacing(np.abs(expected).astype(np.float32))
        assert (ulps <= 4 + 4 * np.maximum(0, -twice)).all()

    def test_nan_and_infinity_spread(self, isa: str) -> None:
        special = np.array([[np.nan, np.inf, -np.inf]], np.float32)
        for activation, expected in {
            "silu": [np.nan, np.inf, np.nan],  # as x / (1 + e^-x) gives, and PyTorch
            "relu2": [np.nan, np.inf, 0],
            "gelu_tanh": [np.nan, np.inf, np.nan],
            "sigmoid": [np.nan, 1, 0],
        }.items():
            out = outputs(special.shape)[0]
            up = np.ones_like(special)
            _native.gated(special.copy(), up, activation, None, EPS, out, None, None)
            np.testing.assert_array_equal(out, [expected])
        x = np.ones((4, 40), np.float32)
        x[1, 3], x[2, 39] = np.nan, np.inf
        out, q, s = outputs(x.shape)
        _native.normalize(x, None, np.ones(40, np.float32), EPS, out, q, s)
        assert np.isnan(out[1]).all()
        assert np.isnan(out[2, 39])
        np.testing.assert_array_equal(np.isnan(s[:, 0]), [False, True, True, False])
        np.testing.assert_array_equal(q[1:3], 0)
        np.testing.assert_array_equal(q[[0, 3]], 127)

    def test_a_row_does_not_depend_on_the_others(
        self, isa: str, rng: np.random.Generator, restore: None
    ) -> None:
        n, count = 1000, 200
        x, addend = rows(count, n, rng), rows(count, n, rng)
        weight = rng.standard_normal(n).astype(np.float32)

        def run(first: int, last: int) -> list[bytes]:
            part = slice(first, last)
            results = []
            for activation in ("", *ACTIVATIONS):
                out, q, s = outputs((last - first, n))
                mine = x[part].copy()
                if activation:
                    _native.gated(mine, addend[part], activation, weight, EPS, out, q, s)
                else:
                    _native.normalize(mine, addend[part], weight, EPS, out, q, s)
                results += [a.tobytes() for a in (mine, out, q, s)]
            q, s = quantized(x[part])
            return [*results, q.tobytes(), s.tobytes()]

        rsr.set_num_threads(1)
        alone = [b"".join(parts) for parts in zip(*(run(i, i + 1) for i in range(count)),
                                                  strict=True)]  # fmt: skip
        for threads in (1, 2, 3):
            rsr.set_num_threads(threads)
            assert run(0, count) == alone

    def test_no_rows_and_no_columns(self, isa: str) -> None:
        for shape in ((0, 7), (3, 0)):
            x = np.zeros(shape, np.float32)
            out, q, s = outputs(shape)
            _native.normalize(x, x.copy(), np.ones(shape[1], np.float32), EPS, out, q, s)
            _native.gated(x, x.copy(), "silu", None, EPS, out, q, s)
            np.testing.assert_array_equal(s, np.full_like(s, quantize_int8(x)[1]))

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"add": (3, 31)}, "add must have the shape of x"),
            ({"add": (2, 32)}, "add must have the shape of x"),
            ({"weight": (31,)}, "weight must have an entry for each of a row"),
            ({"out": (3, 33)}, "out and q must have the shape of the rows"),
            ({"q": (2, 32)}, "out and q must have the shape of the rows"),
            ({"s": (3, 2)}, r"q and s go together, and s must be \(count, 1\)"),
            ({"s": None}, "q and s go together"),
            ({"q": None}, "q and s go together"),
            ({"out": None, "q": None, "s": None}, r"one of out and \(q, s\) must be given"),
        ],
    )
    def test_refuses_other_shapes(self, change: dict[str, Any], sentence: str) -> None:
        shapes: dict[str, Any] = {
            "add": (3, 32), "weight": (32,), "out": (3, 32), "q": (3, 32), "s": (3, 1), **change,
        }  # fmt: skip
        a: dict[str, Any] = {
            name: None if shape is None else np.zeros(shape, np.int8 if name == "q" else np.float32)
            for name, shape in shapes.items()
        }
        x = np.zeros((3, 32), np.float32)
        with pytest.raises(ValueError, match=f"^{sentence}"):
            _native.normalize(x, a["add"], a["weight"], EPS, a["out"], a["q"], a["s"])
        up = np.zeros((3, 32), np.float32)
        if "add" in change:
            with pytest.raises(ValueError, match="up must have the shape of gate"):
                _native.gated(x, a["add"], "silu", None, EPS, x, None, None)
        else:
            with pytest.raises(ValueError, match=f"^{sentence}"):
                _native.gated(x, up, "silu", a["weight"], EPS, a["out"], a["q"], a["s"])

    def test_refuses_unknown_activations(self) -> None:
        x = np.zeros((1, 3), np.float32)
        with pytest.raises(ValueError, match="unknown activation 'gelu'; there are silu, relu2, "):
            _native.gated(x, x.copy(), "gelu", None, EPS, x, None, None)

    def test_refuses_arrays_that_it_cannot_write(self) -> None:
        x = np.zeros((2, 3), np.float32)
        fixed = x.copy()
        fixed.flags.writeable = False
        wrong: Any
        for wrong in (x.astype(np.float64), x.T.copy().T, fixed):
            with pytest.raises(TypeError):
                _native.normalize(wrong, None, None, EPS, x, None, None)
            with pytest.raises(TypeError):
                _native.normalize(x, None, None, EPS, wrong, None, None)


@dataclass
class Decoding:
    """A sequence's cache, and the oracle of attention to it."""

    heads: int
    key_heads: int
    d: int
    keys: Array
    values: Array
    cos: Floats
    sin: Floats
    q_norm: Floats | None
    k_norm: Floats | None
    scales: tuple[Floats, ...] = ()  # of keys and values in int8
    window: int | None = None
    norms_follow: bool = False
    length: int = 0

    @classmethod
    def new(
        cls, heads: int, key_heads: int, d: int, context: int, half: bool,
        rng: np.random.Generator, norms: tuple[bool, bool] = (False, False), int8: bool = False,
        window: int | None = None,
    ) -> Decoding:  # fmt: skip
        blocks = -(-context // LANES)
        dtype = np.int8 if int8 else np.uint16 if half else np.float32
        scales = tuple(
            np.full((key_heads, blocks * LANES), np.nan, np.float32) for _ in range(2 * int8)
        )
        angles = rng.uniform(0, 2 * np.pi, (context, d // 2))
        q_norm, k_norm = (rng.standard_normal(d).astype(np.float32) if n else None for n in norms)
        return cls(
            heads, key_heads, d,
            np.zeros((key_heads, blocks, d, LANES), dtype),
            np.zeros((key_heads, blocks * LANES, -(-d // LANES) * LANES), dtype),
            np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32), q_norm, k_norm,
            scales, window,
        )  # fmt: skip

    def draw(self, t: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        """Return q, k and v of t rows."""
        q, k, v = (
            rng.standard_normal((t, h, self.d)).astype(np.float32)
            for h in (self.heads, self.key_heads, self.key_heads)
        )
        return q, k, v

    @property
    def scale(self) -> float:
        return float(self.d**-0.5)

    def attend(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """Attend to t more rows; q and k are copied, as they may be overwritten."""
        out = np.full((len(q), self.heads * self.d), 12345, np.float32)
        rope = _native.Rope(
            self.cos, self.sin, q_norm=self.q_norm, k_norm=self.k_norm, eps=EPS, scale=self.scale,
            norms_follow=self.norms_follow,
        )  # fmt: skip
        cache = _native.KVCache(self.keys, self.values, *self.scales)
        start = np.array([self.length], np.int64)
        _native.attend(q.copy(), k.copy(), v, rope, cache, start, out, self.window)
        self.length += len(q)
        return out

    def cached(self) -> tuple[Wide, Wide]:
        """Return keys and values of the cache, (key heads, positions, d)."""
        keys, values = self.keys, self.values
        if keys.dtype == np.uint16:
            keys, values = keys.view(np.float16), values.view(np.float16)
        keys = keys.swapaxes(2, 3).reshape(self.key_heads, -1, self.d)
        wide = [a[:, : self.length, : self.d].astype(np.float64) for a in (keys, values)]
        for cells, scales in zip(wide, self.scales, strict=False):
            cells *= scales[:, : self.length, None]
        return wide[0], wide[1]

    def rotated(self, x: Floats, norm: Floats | None, start: int) -> Wide:
        """Return x (t, heads, d), normalized and rotated."""
        wide, half = rms_norm(x, None if self.norms_follow else norm), self.cos.shape[1]
        c, s = (a[start : start + len(x), None].astype(np.float64) for a in (self.cos, self.sin))
        x1, x2, rest = np.split(wide, [half, 2 * half], axis=-1)
        found = np.concatenate([x1 * c - x2 * s, x2 * c + x1 * s, rest], -1)
        return rms_norm(found, norm) if self.norms_follow else found

    def expected(self, q: Floats, start: int) -> Wide:
        """Return the attention of rows from position `start` on to the cache."""
        keys, values = self.cached()
        rotated = self.rotated(q, self.q_norm, start)
        out = np.empty(rotated.shape)
        group = self.heads // self.key_heads
        for i, h in np.ndindex(*q.shape[:2]):
            seen = start + i + 1
            first = max(0, seen - (self.window or seen))
            scores = self.scale * (keys[h // group, first:seen] @ rotated[i, h])
            weights = np.exp(scores - scores.max())
            out[i, h] = weights / weights.sum() @ values[h // group, first:seen]
        return out.reshape(len(q), -1)

    def copy(self) -> Decoding:
        return Decoding(**{**self.__dict__, "keys": self.keys.copy(), "values": self.values.copy(),
                           "scales": tuple(a.copy() for a in self.scales)})  # fmt: skip


TOLERANCE = 1e-5  # of attention to normal numbers, compared with float64
HEADS = [(1, 1, 2), (4, 2, 32), (20, 5, 64), (3, 3, 100), (8, 2, 128), (7, 1, 40), (10, 2, 6),
         (2, 2, 256)]  # fmt: skip


@pytest.fixture(params=[False, True], ids=["float32", "float16"])
def half(request: pytest.FixtureRequest) -> bool:
    """Whether the cache is float16."""
    return bool(request.param)


class TestAttend:
    @pytest.mark.parametrize("heads", HEADS, ids=str)
    def test_against_float64(
        self, isa: str, heads: tuple[int, int, int], half: bool, rng: np.random.Generator
    ) -> None:
        norms = (heads[0] % 2 == 0, heads[2] > 40)
        s = Decoding.new(*heads, 300, half, rng, norms)
        for t in (1, 2, 13, 1, 8, 9, 70, 24, 1, 150, 20, 1):
            start, (q, k, v) = s.length, s.draw(t, rng)
            out = s.attend(q, k, v)
            keys, values = s.cached()
            precision = 2.0**-11 if half else 0
            np.testing.assert_allclose(
                keys[:, start:].swapaxes(0, 1), s.rotated(k, s.k_norm, start),
                rtol=precision * 1.01, atol=4e-6,
            )  # fmt: skip
            np.testing.assert_allclose(values[:, start:].swapaxes(0, 1), v, rtol=precision,
                                       atol=2.0**-25)  # fmt: skip
            np.testing.assert_allclose(out, s.expected(q, start), atol=TOLERANCE)
        assert s.length == 300

    @pytest.mark.parametrize("share", [0, 4, 24])
    def test_a_share_of_a_head_is_rotated(
        self, isa: str, share: int, half: bool, rng: np.random.Generator
    ) -> None:
        s = Decoding.new(6, 2, 96, 40, half, rng, (True, True))
        s.cos, s.sin = (np.ascontiguousarray(a[:, :share]) for a in (s.cos, s.sin))
        for t in (1, 20, 2):
            start, (q, k, v) = s.length, s.draw(t, rng)
            out = s.attend(q, k, v)
            np.testing.assert_allclose(out, s.expected(q, start), atol=TOLERANCE)

    def test_norms_of_rotated_heads(self, isa: str, half: bool, rng: np.random.Generator) -> None:
        s = Decoding.new(6, 2, 40, 40, half, rng, (True, True))
        s.norms_follow = True
        for t in (1, 20, 2):
            start, (q, k, v) = s.length, s.draw(t, rng)
            out = s.attend(q, k, v)
            np.testing.assert_allclose(out, s.expected(q, start), atol=TOLERANCE)

    @pytest.mark.parametrize("window", [None, 1, 40, 150])
    @pytest.mark.parametrize("heads", [(6, 2, 40), (8, 1, 128)], ids=str)
    def test_int8_against_float64(
        self, isa: str, heads: tuple[int, int, int], window: int | None, rng: np.random.Generator
    ) -> None:
        """The cells are within half a step, and attention to them is as exact as to floats."""
        s = Decoding.new(*heads, 300, False, rng, int8=True, window=window)
        for t in (1, 70, 1, 200, 9, 1):
            start, (q, k, v) = s.length, s.draw(t, rng)
            k[0], v[-1, 0] = 0, 0
            out = s.attend(q, k, v)
            exact: tuple[Wide, ...] = s.rotated(k, None, start), v.astype(np.float64)
            for i, found in enumerate(s.cached()):
                step = s.scales[i][:, start : s.length].T
                np.testing.assert_allclose(step, np.abs(exact[i]).max(2) / 127, rtol=1e-5)
                off = np.abs(found[:, start:].swapaxes(0, 1) - exact[i])
                assert (off <= 0.5001 * step[..., None] + 1e-6).all()
            np.testing.assert_allclose(out, s.expected(q, start), atol=TOLERANCE)

    @pytest.mark.parametrize("window", [1, 16, 100, 129, 1000])
    def test_windows_against_float64(
        self, isa: str, half: bool, window: int, rng: np.random.Generator
    ) -> None:
        s = Decoding.new(6, 2, 40, 420, half, rng, window=window)
        for t in (3, 140, 1, 9, 260, 7):
            start, (q, k, v) = s.length, s.draw(t, rng)
            out = s.attend(q, k, v)
            np.testing.assert_allclose(out, s.expected(q, start), atol=TOLERANCE)

    @pytest.mark.parametrize("window", [None, 70])
    @pytest.mark.parametrize("cells", ["float32", "float16", "int8"])
    def test_random_chunkings_change_no_bit(
        self, isa: str, cells: str, window: int | None, rng: np.random.Generator, restore: None
    ) -> None:
        """Rows one by one, and cut at random, on one thread and on two."""
        for heads in ((8, 2, 128), (3, 3, 36)):
            empty = Decoding.new(*heads, 700, cells == "float16", rng, int8=cells == "int8",
                                 window=window)  # fmt: skip
            q, k, v = empty.draw(700, rng)
            results: list[bytes] = []
            for most in (1, 6, 40, 600):
                rsr.set_num_threads(1 + len(results) % 2)
                s, out = empty.copy(), []
                while (i := s.length) < 700:
                    end = min(700, i + int(rng.integers(1, most + 1)))
                    out.append(s.attend(q[i:end], k[i:end], v[i:end]))
                results.append(np.concatenate(out).tobytes())
            assert all(r == results[0] for r in results)

    def test_a_position_of_int8_that_is_not_finite_is_nan(
        self, isa: str, rng: np.random.Generator
    ) -> None:
        s = Decoding.new(2, 2, 32, 64, False, rng, int8=True)
        q, k, v = s.draw(40, rng)
        k[20, 0, 3], v[30, 1, 2] = np.inf, np.nan
        nan = np.isnan(s.attend(q, k, v).reshape(40, 2, 32))
        assert nan[20:, 0].all()
        assert nan[30:, 1].all()
        assert not nan[:20, 0].any()
        assert not nan[:30, 1].any()

    @pytest.mark.parametrize("heads", [(8, 2, 64), (5, 5, 100), (6, 1, 32)], ids=str)
    def test_pieces_and_threads_change_no_bit(
        self, isa: str, heads: tuple[int, int, int], half: bool, rng: np.random.Generator,
        restore: None,
    ) -> None:  # fmt: skip
        empty = Decoding.new(*heads, 290, half, rng, (True, True))
        q, k, v = empty.draw(290, rng)
        results = []
        for threads, step in ((1, 1), (2, 1), (1, 290), (2, 290), (3, 100), (1, 8), (2, 9), (1, 37),
                              (1, CHUNK), (2, CHUNK + 1)):  # fmt: skip
            rsr.set_num_threads(threads)
            s = empty.copy()
            out = [s.attend(*(a[i : i + step] for a in (q, k, v))) for i in range(0, 290, step)]
            results.append((np.concatenate(out).tobytes(), s.keys.tobytes(), s.values.tobytes()))
        assert all(r == results[0] for r in results)

    def test_long_contexts_are_shared_among_threads(
        self, isa: str, half: bool, rng: np.random.Generator, restore: None
    ) -> None:
        s = Decoding.new(8, 2, 128, 1200, half, rng)
        rsr.set_num_threads(1)
        s.attend(*s.draw(1190, rng))
        q, k, v = s.draw(10, rng)
        several, one_by_one, threaded = s.copy(), s.copy(), s.copy()
        together = several.attend(q, k, v)
        alone = [one_by_one.attend(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(10)]
        rsr.set_num_threads(2)
        shared = [threaded.attend(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(10)]
        assert together.tobytes() == np.concatenate(alone).tobytes()
        assert together.tobytes() == np.concatenate(shared).tobytes()
        np.testing.assert_allclose(together, several.expected(q, 1190), atol=TOLERANCE)

    @settings(deadline=None, max_examples=40)
    @given(
        key_heads=st.integers(1, 3),
        group=st.integers(1, 9),
        half_d=st.integers(1, 40),
        pieces=st.lists(st.integers(1, 60), min_size=1, max_size=6),
        half=st.booleans(),
        seed=st.integers(0, 1 << 32),
    )
    def test_any_shape(
        self, key_heads: int, group: int, half_d: int, pieces: list[int],
        half: bool, seed: int,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        total = sum(pieces)
        empty = Decoding.new(key_heads * group, key_heads, 2 * half_d, total, half, rng)
        q, k, v = empty.draw(total, rng)
        before = rsr.cpu_info()["isa"]
        try:
            for isa in ISAS:
                rsr.use_isa(isa)
                whole, parts = empty.copy(), empty.copy()
                out = whole.attend(q, k, v)
                np.testing.assert_allclose(out, whole.expected(q, 0), atol=TOLERANCE)
                cuts = np.cumsum(pieces)[:-1]
                split = zip(*(np.split(a, cuts) for a in (q, k, v)), strict=True)
                assert np.concatenate([parts.attend(*p) for p in split]).tobytes() == out.tobytes()
        finally:
            rsr.use_isa(before)

    def test_large_scores(self, isa: str, half: bool, rng: np.random.Generator) -> None:
        """Scores far beyond the range of exp: one position gets all the weight."""
        s = Decoding.new(4, 2, 32, 200, half, rng)
        q, k, v = s.draw(200, rng)
        out = s.attend(q * 300, k, v)
        # Scores are off relative to their size.
        np.testing.assert_allclose(out, s.expected(q * 300, 0), atol=200 * TOLERANCE)

    @pytest.mark.parametrize("t", [1, 40])
    def test_writes_only_its_positions(
        self, isa: str, half: bool, t: int, rng: np.random.Generator
    ) -> None:
        s = Decoding.new(4, 2, 36, 96, half, rng)
        s.length = 21
        s.keys[:], s.values[:] = 7, 7
        s.attend(*s.draw(t, rng))
        keys = s.keys.swapaxes(2, 3).reshape(2, 96, 36)
        mine = np.zeros(96, bool)
        mine[21 : 21 + t] = True
        for cells in (keys, s.values):
            assert (cells[:, ~mine] == 7).all()
            assert (cells[:, mine] != 7).all()
        assert (s.values[:, mine, 36:] == 0).all()

    @pytest.mark.parametrize("start", [0, 30, 100])
    @pytest.mark.parametrize("t", [5, 60])
    def test_rows_ignore_what_they_do_not_see(
        self, isa: str, half: bool, start: int, t: int, rng: np.random.Generator
    ) -> None:
        """NaN in later rows or in unused parts of the cache changes nothing."""
        empty = Decoding.new(6, 2, 48, 300, half, rng)
        if start:
            empty.attend(*empty.draw(start, rng))
        q, k, v = empty.draw(t, rng)
        clean, dirty = empty.copy(), empty.copy()
        nan = np.array(np.nan, np.float16 if half else np.float32).view(dirty.keys.dtype)
        dirty.keys.swapaxes(2, 3).reshape(2, -1, 48)[:, start:] = nan
        keys = dirty.keys.swapaxes(2, 3).copy().reshape(2, -1, 48)
        keys[:, start:] = nan
        dirty.keys[:] = keys.reshape(2, -1, LANES, 48).swapaxes(2, 3)
        dirty.values[:, start:] = nan
        expected = clean.attend(q, k, v)
        last = t // 2
        for a in (q, k, v):
            a[last:] = np.nan
        found = dirty.attend(q, k, v)
        assert found[:last].tobytes() == expected[:last].tobytes()
        assert np.isnan(found[last:]).all()

    def test_nan_and_infinity_stay_in_their_row_and_head(
        self, isa: str, half: bool, rng: np.random.Generator
    ) -> None:
        s = Decoding.new(4, 2, 16, 40, half, rng)
        q, k, v = s.draw(40, rng)
        s.cos[:], s.sin[:] = 1, 1
        q[7, 1, 3] = np.nan
        q[:, 2:, [2, 10]] = 1, 0  # a pair, rotated to 1, 1
        k[5, 1, 2] = -np.inf  # and this one to -inf, -inf: position 5 has a score of -inf
        v[20, 0, 4] = np.inf
        out = s.attend(q, k, v).reshape(40, 4, 16)
        nan = np.isnan(out)
        assert nan[7, 1].all()
        nan[7, 1] = False
        assert not nan.any()
        np.testing.assert_array_equal(out[20:, :2, 4], np.inf)
        expected = s.expected(q, 0).reshape(out.shape)
        np.testing.assert_allclose(out[:, 2:], expected[:, 2:], atol=TOLERANCE)

    def test_float16_is_rounded_as_numpy_rounds(self, isa: str) -> None:
        tiny = 2.0**-24
        finite = [0, -0.0, 1, 65504, 65519, 65520, 1e30, -1e30, tiny, tiny / 2, tiny * 0.51,
                  -tiny * 1.5, 2.0**-14, 2.0**-14 - tiny / 2, 1 + 2.0**-11, 1 + 3 * 2.0**-11,
                  1e-30, -1e-30]  # fmt: skip
        d = len(finite)
        s = Decoding.new(1, 1, d, 16, True, np.random.default_rng(0))
        s.cos[:], s.sin[:] = 1, 0
        k = np.array(finite, np.float32).reshape(1, 1, d)
        v = k.copy()
        v[0, 0, :3] = np.inf, -np.inf, np.nan
        s.attend(np.zeros((1, 1, d), np.float32), k, v)
        with np.errstate(over="ignore"):
            keys, values = k[0, 0].astype(np.float16), v[0, 0].astype(np.float16)
        # The rotation makes -0 + 0 = 0.
        np.testing.assert_array_equal(s.keys[0, 0, :, 0].view(np.float16), keys)
        np.testing.assert_array_equal(s.values[0, 0, :d].view(np.float16), values)
        assert s.values[0, 0, 3:d].tobytes() == values[3:].tobytes()

    def test_every_float16_is_read_exactly(self, isa: str) -> None:
        """A single position's output is its value."""
        every = np.arange(1 << 16, dtype=np.uint16)
        finite = every[np.isfinite(every.view(np.float16))]
        d = 256
        for many in (1, LANES):  # with many queries the cache is converted first
            s = Decoding.new(many, 1, d, 1, True, np.random.default_rng(0))
            for i in range(0, len(finite), d):
                value = finite[i : i + d].view(np.float16).astype(np.float32).reshape(1, 1, d)
                s.length = 0
                zero = np.zeros((1, many, d), np.float32)
                out = s.attend(zero, zero[:, :1], value).reshape(many, d)
                np.testing.assert_array_equal(out, np.broadcast_to(value[0], (many, d)))

    def test_no_rows(self, isa: str, half: bool, rng: np.random.Generator) -> None:
        s = Decoding.new(2, 1, 4, 16, half, rng)
        assert s.attend(*s.draw(0, rng)).shape == (0, 8)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"q": (3, 4, 7), "k": (3, 2, 7), "v": (3, 2, 7)}, "a head must have an even number"),
            ({"q": (3, 4, 0)}, "a head must have an even number of dimensions"),
            ({"q": (3, 5, 8)}, "the heads of q must be a multiple of those of k"),
            ({"q": (3, 0, 8)}, "the heads of q must be a multiple of those of k"),
            ({"k": (3, 0, 8)}, "the heads of q must be a multiple of those of k"),
            ({"k": (2, 2, 8)}, r"k must be \(rows of q, key heads, d\)"),
            ({"k": (3, 2, 6)}, r"k must be \(rows of q, key heads, d\)"),
            ({"v": (3, 1, 8)}, "v must have the shape of k"),
            ({"v": (2, 2, 8)}, "v must have the shape of k"),
            ({"out": (3, 31)}, r"out must be \(rows of q, heads \* d\)"),
            ({"out": (2, 32)}, r"out must be \(rows of q, heads \* d\)"),
            ({"q_norm": (7,)}, r"q_norm and k_norm must be \(d,\)"),
            ({"k_norm": (9,)}, r"q_norm and k_norm must be \(d,\)"),
            ({"keys": (1, 2, 8, 16)}, r"keys must be \(key heads, blocks, d, 16\)"),
            ({"keys": (2, 2, 10, 16)}, r"keys must be \(key heads, blocks, d, 16\)"),
            ({"keys": (2, 2, 8, 8)}, r"keys must be \(key heads, blocks, d, 16\)"),
            ({"values": (1, 32, 16)}, r"values must be \(key heads, blocks \* 16, d rounded up"),
            ({"values": (2, 31, 16)}, r"values must be \(key heads, blocks \* 16, d rounded up"),
            ({"values": (2, 32, 8)}, r"values must be \(key heads, blocks \* 16, d rounded up"),
            ({"window": 0}, "window must be at least one position"),
            ({"start": 30}, "the rows reach beyond the cache"),
            ({"start": (1 << 63) - 1}, "the rows reach beyond the cache"),
            ({"start": -1}, "the rows reach beyond the cache"),
            ({"cos": (40, 3)}, r"cos and sin must be \(context, up to d / 2\)"),
            ({"sin": (39, 4)}, r"cos and sin must be \(context, up to d / 2\)"),
            ({"cos": (40, 5), "sin": (40, 5)}, "cos and sin must be"),
            ({"cos": (4, 4), "sin": (4, 4)}, "the rows reach beyond the positions of cos and sin"),
        ],
    )
    def test_refuses_other_shapes(self, half: bool, change: dict[str, Any], sentence: str) -> None:
        shapes: dict[str, Any] = {
            "q": (3, 4, 8), "k": (3, 2, 8), "v": (3, 2, 8), "cos": (40, 4), "sin": (40, 4),
            "q_norm": (8,), "k_norm": (8,), "keys": (2, 2, 8, 16), "values": (2, 32, 16),
            "start": 2, "out": (3, 32), "window": None,
        }  # fmt: skip

        def attend(shapes: dict[str, Any]) -> None:
            cell = np.uint16 if half else np.float32
            a: dict[str, Any] = {
                name: np.zeros(shape, cell if name in ("keys", "values") else np.float32)
                if isinstance(shape, tuple)
                else shape
                for name, shape in shapes.items()
            }
            rope = _native.Rope(
                a["cos"], a["sin"], q_norm=a["q_norm"], k_norm=a["k_norm"], eps=EPS, scale=1.0
            )
            cache = _native.KVCache(a["keys"], a["values"])
            start = np.array([a["start"]], np.int64)
            _native.attend(a["q"], a["k"], a["v"], rope, cache, start, a["out"], a["window"])

        attend(shapes)
        with pytest.raises(ValueError, match=f"^{sentence}"):
            attend({**shapes, **change})

    def test_refuses_a_cache_of_two_types(self, rng: np.random.Generator) -> None:
        s = Decoding.new(2, 1, 4, 16, False, rng)
        s.values = s.values.astype(np.uint16)
        with pytest.raises(TypeError):
            s.attend(*s.draw(1, rng))
