"""Products with many vectors, and of several matrices with one input, by every kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY
from rsr_testing.matrices import RANKED, Build, Built, Spec, Workshop, matrix_of

Array = npt.NDArray[Any]

# Around what kernels take at once: 4, 8, 12, 16 and 32 vectors.
COUNTS = (*range(2, 18), 21, 22, 24, 25, 27, 31, 32, 33, 40, 64, 65)
# Around lanes, strips, units and additions to wider sums; every encoding and alphabet, and each k
# that has kernels of its own.
MATRICES: list[dict[str, Any]] = [
    {"shape": (1, 1)},
    {"shape": (31, 8)},
    {"shape": (32, 9)},
    {"shape": (33, 10)},
    {"shape": (64, 71)},
    {"shape": (97, 36), "fill": "lowest"},
    {"shape": (128, 252), "fill": "lowest"},
    {"shape": (129, 253), "fill": "highest"},
    {"shape": (160, 505)},
    {"shape": (200, 1030)},
    {"shape": (300, 37), "k": 1},
    {"shape": (70, 100), "k": 2, "fill": "lowest"},
    {"shape": (200, 1030), "k": 2},
    {"shape": (192, 256), "digits": BINARY_SIGNS, "k": 5},
    {"shape": (1100, 77), "digits": BINARY_SIGNS, "k": 5},
    {"shape": (130, 76), "digits": BINARY_BITS, "k": 5, "fill": "highest"},
    {"shape": (129, 200), "digits": BINARY_BITS, "k": 4},
    {"shape": (65, 31), "digits": BINARY_SIGNS, "k": 4},
    {"shape": (2200, 40)},
    {"shape": (1, 1), "packing": "n4s1"},
    {"shape": (33, 26), "packing": "n4s1"},
    {"shape": (65, 49), "packing": "n4s1"},
    {"shape": (129, 200), "packing": "n4s1"},
    {"shape": (200, 1030), "packing": "n4s1"},
    {"shape": (1100, 77), "packing": "n4s1"},
    {"shape": (45, 50), "encoding": "permuted", "k": 4, "direction": "reduce"},
    {"shape": (45, 50), "encoding": "permuted", "k": 4},
]


def int8_vectors(n: int, count: int, rng: np.random.Generator) -> Array:
    """Return int8 (n, count): half of it at the lower end, some whole vectors at either end."""
    random = rng.integers(-128, 128, (n, count)).astype(np.int8)
    X = np.where(rng.random((n, count)) < 0.5, np.int8(-128), random)
    X[:, rng.random(count) < 0.2] = -128
    X[:, rng.random(count) < 0.1] = 127
    return X


def float_vectors(n: int, count: int, rng: np.random.Generator) -> Array:
    """Return float32 (n, count) of all magnitudes, some of it zero."""
    X = rng.standard_normal((n, count)) * 10.0 ** rng.uniform(-6, 6, (n, count))
    X[rng.random((n, count)) < 0.01] = 0
    return X.astype(np.float32)


def one_by_one(built: Built, X: Array) -> Array:
    return np.stack([built.check(x) for x in X.T], axis=1)


BFLOAT16_FROM = 10  # vectors: tiles of AMX add in another order


def adds_as_alone(spec: Spec, isa: str, count: int) -> bool:
    """Whether a float32 vector among others has the same additions in the same order as alone."""
    if spec.encoding == "permuted":
        return True
    is_fixed_point = spec.packing == "n4s1" or isa.startswith("neon")  # alone
    return not is_fixed_point and not (isa == "amx" and count >= BFLOAT16_FROM)


@pytest.mark.parametrize("kind", MATRICES, ids=str)
def test_every_count_of_vectors(
    isa: str, kind: dict[str, Any], shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec(**{"scale": "row", **kind})])
    n, most = built.spec.shape[1], max(COUNTS)
    X, F = int8_vectors(n, most, rng), float_vectors(n, most, rng)
    exact, alone = built.exact(X), one_by_one(built, F)
    for count in COUNTS:
        found = built.matrix @ X[:, -count:]
        np.testing.assert_array_equal(found, exact[:, -count:], f"{count} vectors")
        found = built.matrix @ F[:, -count:]
        if adds_as_alone(built.spec, isa, count):
            np.testing.assert_array_equal(found, alone[:, -count:], f"{count} vectors")
        else:
            built.check_float32(found, F[:, -count:], f"{count} vectors")


@pytest.mark.parametrize(("digits", "k"), RANKED)
def test_panels_and_column_blocks(
    isa: str, digits: tuple[int, ...], k: int, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    group = 12 * k  # inputs of four words' columns; a block has several groups
    block = group * {1: 64, 2: 32}.get(k, 16)
    shapes = [(rows, group + 1) for rows in (32, 33, 64, 96, 128, 129, 160)]
    shapes += [
        (65, n) for n in (1, group - 1, group, 2 * group + 3 * k, block, block + 1, 2 * block - 1)
    ]
    for built in shared_build([Spec(shape, digits, k) for shape in shapes]):
        for count in (12, 13, 16, 17, 24, 25, 40):
            X = rng.integers(-128, 128, (built.spec.shape[1], count)).astype(np.int8)
            X[:, rng.random(count) < 0.3] = -128
            Y = built.check(X, f"{count} vectors")
        np.testing.assert_array_equal(Y, one_by_one(built, X))


@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_sums_reach_their_bounds(isa: str, fill: str, shared_build: Build) -> None:
    specs = [Spec((40, 1500), digits, k, fill=fill) for digits, k in RANKED]
    specs += [
        Spec((65, n + more), fill=fill, packing=packing)
        for packing in ("w16", "n4s1") for n in (240, 252, 480, 1260) for more in (-1, 0, 1)
    ]  # fmt: skip
    for built in shared_build(specs):
        for value in (-128, 127):
            for count in (3, 8, 16, 32, 33):
                built.check(np.full((built.spec.shape[1], count), value, np.int8), value)


@pytest.mark.parametrize(
    "kind",
    [
        {"shape": (97, 300), "scale": "row", "group": 64, "half": True},
        {"shape": (130, 96), "scale": "row", "group": 48},  # a group is whole blocks: no padding
        {"shape": (70, 96), "packing": "n4s1"},
        {"shape": (45, 50), "encoding": "permuted", "k": 4},
        {"shape": (33, 80), "digits": BINARY_SIGNS, "k": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 3, 16, 17, 70])
def test_vectors_in_rows_or_columns(
    isa: str, kind: dict[str, Any], count: int, shared_build: Build, rng: np.random.Generator
) -> None:
    """`w @ X` of C-, F- and not contiguous X, alone and with others, and linear: the same bits."""
    (built,) = shared_build([Spec(**kind)])
    w, n = built.matrix, built.spec.shape[1]
    for rows in (int8_vectors(n, count, rng).T.copy(), float_vectors(n, count, rng).T.copy()):
        expected = (w @ rows.T).tobytes()
        wide = np.zeros((n, 2 * count), rows.dtype)
        wide[:, ::2] = rows.T
        for X in (rows.T.copy(), wide[:, ::2]):
            assert (w @ X).tobytes() == expected
            assert all(Y.tobytes() == expected for Y in rsr.matmul_all([w, w], X))
        if rows.dtype == np.float32:
            assert w.linear(rows).T.tobytes() == expected
            alone = np.stack([w.linear(row, "int8") for row in rows])
            assert w.linear(rows, "int8").tobytes() == alone.tobytes()
        built.check(rows.T)


@pytest.mark.parametrize("count", [255, 256, 257, 258, 600])
def test_more_vectors_than_one_pass_takes(
    isa: str, count: int, shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec((70, 80))])
    built.check(rng.integers(-128, 128, (80, count)).astype(np.int8))


@pytest.mark.parametrize("packing", ["w16", "n4s1"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_vector(
    isa: str, value: float, packing: str, shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec((97, 50), scale="row", packing=packing)])
    for count in (2, 4, 5, 16, 33, 40):
        X = rng.standard_normal((50, count)).astype(np.float32)
        X[rng.integers(50), count // 2], X[rng.integers(50), count - 1] = value, np.nan
        Y = built.matrix @ X
        built.check_not_finite(X, Y)
        finite = np.isfinite(X).all(axis=0)
        built.check_float32(Y[:, finite], X[:, finite])


@pytest.mark.parametrize("packing", ["w16", "n4s1"])
def test_products_are_the_same_on_any_number_of_threads(
    isa: str, packing: str, restore: None, shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec((1500, 700), scale="row", packing=packing)])
    for count in (1, 2, 5, 7, 16, 32, 40):
        for X in (int8_vectors(700, count, rng), float_vectors(700, count, rng)):
            rsr.set_num_threads(1)
            alone = built.check(X).tobytes()
            for threads in (2, 3, 8):
                rsr.set_num_threads(threads)
                assert (built.matrix @ X).tobytes() == alone, f"{threads} threads, {count} vectors"


SETS: dict[str, list[dict[str, Any]]] = {
    "q, k, v": [{"shape": (256, 90)}, {"shape": (64, 90)}, {"shape": (64, 90)}],
    "ragged": [{"shape": (1, 90)}, {"shape": (33, 90)}, {"shape": (200, 90), "scale": "row"}],
    "of all kinds": [
        {"shape": (40, 90)},
        {"shape": (40, 90), "k": 2},
        {"shape": (40, 90), "digits": BINARY_SIGNS, "k": 5},
        {"shape": (40, 90), "digits": BINARY_BITS, "k": 5},
        {"shape": (40, 90), "encoding": "permuted", "k": 4},
        {"shape": (70, 90), "scale": "block"},
        {"shape": (0, 90)},
    ],
    "enough for threads": [{"shape": (1100, 900)}] * 3,
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_several_matrices_give_what_each_gives_alone(
    isa: str, name: str, threads: int, restore: None, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    rsr.set_num_threads(threads)
    usual: dict[str, Any] = {"digits": TERNARY, "k": 3, "scale": "tensor"}
    specs = [Spec(**{**usual, **s, "name": f"{j}"}) for j, s in enumerate(SETS[name])]
    matrices = [b.matrix for b in shared_build(specs)]
    n = specs[0].shape[1]
    counts: list[tuple[int, ...]] = [(), (1,), (3,), (20,)]
    for count in counts:
        xf = rng.standard_normal((n, *count)).astype(np.float32)
        for x in (rng.integers(-128, 128, (n, *count)).astype(np.int8), xf):
            for w, y in zip(matrices, rsr.matmul_all(matrices, x), strict=True):
                alone = w @ x
                assert (y.dtype, y.shape) == (alone.dtype, alone.shape)
                assert y.tobytes() == alone.tobytes()
        for activations in ("float32", "int8"):
            together = rsr.linear_all(matrices, xf.T, activations)
            for w, y in zip(matrices, together, strict=True):
                assert y.tobytes() == w.linear(xf.T, activations).tobytes()


def test_several_matrices_refuse_what_one_refuses(workshop: Workshop) -> None:
    a, b = workshop.one((3, 5)).matrix, workshop.one((3, 6)).matrix
    x = np.zeros(5, np.float32)
    with pytest.raises(rsr.OptionError, match="no matrices"):
        rsr.matmul_all([], x)
    with pytest.raises(rsr.OptionError, match="no matrices"):
        rsr.linear_all([], x)
    with pytest.raises(rsr.OptionError, match="activations: found 'int4'"):
        rsr.linear_all([a], x, "int4")
    with pytest.raises(
        rsr.InputShapeError, match=r"x has shape \(5,\), expected \(6,\) or \(6, b\)"
    ):
        rsr.matmul_all([a, b], x)
    with pytest.raises(rsr.InputShapeError, match=r"expected \(..., 6\)"):
        rsr.linear_all([a, b], x)
    with pytest.raises(rsr.InputTypeError, match="float64"):
        rsr.matmul_all([a], x.astype(np.float64))


def test_several_matrices_refuse_a_closed_model(
    workshop: Workshop, model_file: tuple[Any, Built]
) -> None:
    path, b = model_file
    with rsr.load(path) as model:
        closed = matrix_of(model, "w")
    with pytest.raises(rsr.ClosedError):
        rsr.matmul_all([b.matrix, closed], np.zeros(50, np.float32))
