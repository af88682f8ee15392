"""Activations quantized by groups of columns ("int8-group"), and products with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats.records import BINARY_BITS
from rsr_runtime import _native
from rsr_runtime.reference import quantize_groups_int8
from rsr_testing.matrices import SPARSE, Build, Built, Spec

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

EPS = 1e-5
DEFAULT = 128  # columns of a group, where scales have none
LEAST = np.float32(2.0**-119)  # the smallest magnitude that counts

# Around the vectors that kernels take at once.
COUNTS = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65)
MATRICES: list[dict[str, Any]] = [
    {"shape": (65, 300), "scale": "row", "group": 32},
    {"shape": (130, 512), "scale": "row", "group": 64, "half": True},
    {"shape": (97, 1030), "scale": "row", "group": 128, "half": True},
    {"shape": (64, 256), "scale": "row", "group": 128, "fill": "lowest"},
    {"shape": (33, 700), "scale": "block", "group": 256},
    {"shape": (70, 260), "scale": "row", "group": 128, "k": 5, "digits": BINARY_BITS},
    {"shape": (40, 96), "scale": "row", "group": 12, "k": 4, "patterns": SPARSE},
    {"shape": (40, 512), "scale": "row", "group": 256, "k": 4, "patterns": SPARSE, "stride": 64},
    {"shape": (129, 1030), "scale": "tensor"},
    {"shape": (65, 128), "scale": "row"},
    {"shape": (40, 300), "scale": "block"},
    {"shape": (129, 300), "scale": "row", "packing": "n4s1"},
    {"shape": (45, 150), "scale": "row", "encoding": "permuted", "k": 4},
    {"shape": (45, 150), "scale": "tensor", "encoding": "permuted", "direction": "reduce"},
    {"shape": (3, 1), "scale": "row"},
]


def rows(count: int, n: int, rng: np.random.Generator) -> Floats:
    """Return rows whose columns have different magnitudes."""
    return (rng.standard_normal((count, n)) * 10.0 ** rng.uniform(-3, 3, n)).astype(np.float32)


def quantized(x: Floats, columns: int) -> tuple[npt.NDArray[np.int8], Floats]:
    q = np.full(x.shape, 99, np.int8)
    steps = np.full((len(x), -(-x.shape[1] // columns)), 12345, np.float32)
    _native.quantize_groups_i8(x, columns, q, steps)
    return q, steps


def expect_reference(found: tuple[Array, Array], x: Floats, columns: int) -> None:
    for array, expected in zip(found, quantize_groups_int8(x, columns), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 32, 100, 256, 300, 2560])
@pytest.mark.parametrize("columns", [1, 7, 32, 64, 128, 256])
def test_quantization_is_the_reference_bit_for_bit(
    isa: str, n: int, columns: int, rng: np.random.Generator
) -> None:
    x = rows(9, n, rng)
    x[1] = 0
    x[2] = rng.integers(-254, 255, n) / np.float32(2)  # halves, which round to even
    x[2, ::columns] = 127
    x[3] = np.finfo(np.float32).max
    x[4] = LEAST
    x[5] = np.nextafter(LEAST, np.float32(0))
    x[6] = np.finfo(np.float32).smallest_subnormal
    x[7] *= np.float32(1e-30)
    expect_reference(quantized(x, columns), x, columns)
    q, steps = quantized(x, columns)
    assert np.abs(q.astype(int)).max() == 127
    assert steps[4].all()
    assert not q[5:7].any()
    assert not steps[5:7].any()
    wide = q * np.repeat(steps, columns, axis=1)[:, :n].astype(np.float64)
    bound = np.repeat(steps, columns, axis=1)[:, :n] * 0.50002
    keeps = [0, 1, 2, 3, 4, 7, 8]
    assert (np.abs(wide - x) <= bound)[keeps].all()  # half a step


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_group_that_is_not_finite(isa: str, special: float, rng: np.random.Generator) -> None:
    x = rows(3, 300, rng)
    expected = quantize_groups_int8(x, 128)
    x[1, 140] = special
    q, steps = quantized(x, 128)
    assert np.isnan(steps[1, 1])
    assert not q[1, 128:256].any()
    steps[1, 1], q[1, 128:256] = expected[1][1, 1], expected[0][1, 128:256]
    np.testing.assert_array_equal(steps, expected[1])
    np.testing.assert_array_equal(q, expected[0])


@pytest.mark.parametrize(("n", "columns"), [(1, 128), (100, 32), (300, 128), (2560, 256)])
@pytest.mark.parametrize("with_weight", [False, True])
def test_norms_and_gates_quantize_what_they_write(
    isa: str, n: int, columns: int, with_weight: bool, rng: np.random.Generator
) -> None:
    x, up = rows(5, n, rng), rng.standard_normal((5, n)).astype(np.float32)
    weight = rng.standard_normal(n).astype(np.float32) if with_weight else None
    groups = -(-n // columns)

    def outputs() -> tuple[Floats, npt.NDArray[np.int8], Floats]:
        return (
            np.empty((5, n), np.float32),
            np.empty((5, n), np.int8),
            np.empty((5, groups), np.float32),
        )

    for only in (False, True):
        out, q, steps = outputs()
        plain = outputs()[0]
        _native.normalize(x, None, weight, EPS, plain, None, None)
        _native.normalize(x, None, weight, EPS, None if only else out, q, steps, columns)
        assert only or out.tobytes() == plain.tobytes()
        expect_reference((q, steps), plain, columns)
        _native.gated(x, up, "silu", weight, EPS, plain, None, None)
        _native.gated(x, up, "silu", weight, EPS, None if only else out, q, steps, columns)
        assert only or out.tobytes() == plain.tobytes()
        expect_reference((q, steps), plain, columns)
    _native.normalize(x, None, weight, EPS, plain, None, None)
    _native.normalize(x, None, weight, EPS, x, q, steps, columns)  # in place
    assert x.tobytes() == plain.tobytes()
    expect_reference((q, steps), x, columns)


def test_shapes_that_do_not_match() -> None:
    x, q = np.zeros((2, 300), np.float32), np.zeros((2, 300), np.int8)
    with pytest.raises(ValueError, match=r"steps \(count, groups\)"):
        _native.quantize_groups_i8(x, 128, q, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="a group must have columns"):
        _native.quantize_groups_i8(x, 0, q, np.zeros((2, 3), np.float32))
    for columns, groups in ((0, 3), (128, 1), (100, 4)):
        steps = np.zeros((2, groups), np.float32)
        with pytest.raises(ValueError, match=r"\(count, groups\) with group_columns"):
            _native.normalize(x, None, None, EPS, None, q, steps, columns)


# --- products -----------------------------------------------------------------------------------


def group_columns(built: Built) -> int:
    return built.spec.group or DEFAULT


def check_linear(built: Built, x: Floats, y: Floats) -> None:
    """Compare with the definition in float64."""
    columns, n = group_columns(built), x.shape[1]
    q, steps = quantize_groups_int8(x, columns)
    values = q * np.repeat(steps.astype(np.float64), columns, axis=1)[:, :n]
    # With scales of groups: the scale, the step and two roundings each of their products, and a
    # sum of groups. Without: q * step, and a float32 product.
    terms = steps.shape[1] + 3 if built.spec.group else max(n, 3) + 2
    bound = terms * 2.0**-24 * (np.abs(values) @ np.abs(built.scaled.T))
    error = np.abs(y - values @ built.scaled.T)
    assert (error <= bound).all(), (built.spec, len(x), np.argwhere(~(error <= bound))[:5])


@pytest.mark.parametrize("kind", MATRICES, ids=str)
def test_linear_is_the_definition(
    isa: str, kind: dict[str, Any], shared_build: Build, rng: np.random.Generator
) -> None:
    built = shared_build([Spec(**kind)])[0]
    for count in COUNTS:
        x = rows(count, kind["shape"][1], rng)
        x[count // 2] = 0
        y = built.matrix.linear(x, "int8-group")
        assert y.dtype == np.float32
        assert y.shape == (count, kind["shape"][0])
        assert not y[count // 2].any()
        check_linear(built, x, y)


@pytest.mark.parametrize("kind", MATRICES, ids=str)
def test_the_largest_sums(
    isa: str, kind: dict[str, Any], shared_build: Build, rng: np.random.Generator
) -> None:
    """Every q is 127 or -127."""
    built = shared_build([Spec(**kind)])[0]
    n = kind["shape"][1]
    for count in (1, 4, 16, 64):
        x = np.full((count, n), 3.0, np.float32)
        x[:, rng.random(n) < 0.3] = -3
        x[0] = 5
        check_linear(built, x, built.matrix.linear(x, "int8-group"))


@pytest.mark.parametrize("kind", MATRICES, ids=str)
def test_a_row_that_is_not_finite_gives_nan(
    isa: str, kind: dict[str, Any], shared_build: Build, rng: np.random.Generator
) -> None:
    built = shared_build([Spec(**kind)])[0]
    n = kind["shape"][1]
    for count in (3, 40):
        x = rows(count, n, rng)
        expected = built.matrix.linear(x, "int8-group")
        for row, special in ((0, np.nan), (1, np.inf), (count - 1, -np.inf)):
            x[row, rng.integers(n)] = special
        y = built.matrix.linear(x, "int8-group")
        bad = np.zeros(count, bool)
        bad[[0, 1, -1]] = True
        assert np.isnan(y[bad]).all()
        assert np.isfinite(y[~bad]).all()
        check_linear(built, np.where(bad[:, None], 0, x), np.where(bad[:, None], 0, y))
        assert expected.shape == y.shape


def test_several_matrices_give_what_each_gives_alone(
    isa: str, restore: None, shared_build: Build, rng: np.random.Generator
) -> None:
    kinds: list[dict[str, Any]] = [
        {"scale": "row", "group": 128},
        {"scale": "row", "group": 64},
        {"scale": "tensor"},
        {"scale": "row", "group": 128, "half": True},
        {"scale": "row", "packing": "n4s1"},
        {"scale": "row", "encoding": "permuted", "k": 4},
    ]
    built = shared_build([Spec((70 + 30 * i, 390), **kind) for i, kind in enumerate(kinds)])
    matrices = [one.matrix for one in built]
    x = rows(12, 390, rng).reshape(3, 4, 390)
    alone = [w.linear(x, "int8-group") for w in matrices]
    for threads in (1, 3):
        rsr.set_num_threads(threads)
        for y, expected in zip(rsr.linear_all(matrices, x, "int8-group"), alone, strict=True):
            assert y.shape == expected.shape
            assert y.tobytes() == expected.tobytes()


def test_it_is_close_to_float32(shared_build: Build, rng: np.random.Generator) -> None:
    """A group that is large does not cost the others their digits."""
    built = shared_build([Spec((97, 1030), scale="row", group=128, half=True)])[0]
    x = rng.standard_normal((4, 1030)).astype(np.float32)
    x[:, 200] = 300
    exact = x @ built.scaled.T
    by_group, by_row = (
        np.linalg.norm(built.matrix.linear(x, activations) - exact)
        for activations in ("int8-group", "int8")
    )
    assert by_group < 0.5 * by_row
