"""Many vectors at once, and several matrices of one input: the same as one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY
from rsr_testing.matrices import Build, Built, Spec, Workshop

Array = npt.NDArray[Any]

COUNTS = (*range(2, 18), 31, 32, 33, 40, 65)
# Around lanes, strips, flushes and units; one of each alphabet and of every k that is not usual.
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
    {"shape": (300, 37), "k": 1},
    {"shape": (70, 100), "k": 2, "fill": "lowest"},
    {"shape": (192, 256), "digits": BINARY_SIGNS, "k": 5},
    {"shape": (130, 76), "digits": BINARY_BITS, "k": 5, "fill": "highest"},
    {"shape": (65, 31), "digits": BINARY_SIGNS, "k": 4},
    {"shape": (2200, 40)},
    {"shape": (45, 50), "encoding": "permuted", "k": 4, "direction": "reduce"},
    {"shape": (45, 50), "encoding": "permuted", "k": 4},
]


def vectors(n: int, count: int, rng: np.random.Generator) -> Array:
    """Return int8 (n, count): random, half of it at the lower end, some whole vectors at an end."""
    random = rng.integers(-128, 128, (n, count)).astype(np.int8)
    X = np.where(rng.random((n, count)) < 0.5, np.int8(-128), random)
    X[:, rng.random(count) < 0.2] = -128
    X[:, rng.random(count) < 0.1] = 127
    return X


@pytest.mark.parametrize("kind", MATRICES, ids=str)
def test_int8_batches_are_exact(
    isa: str, kind: dict[str, Any], shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    (b,) = shared_build([Spec(**{"digits": TERNARY, "k": 3, "scale": "row", **kind})])
    for count in COUNTS:
        X = vectors(b.spec.shape[1], count, rng)
        np.testing.assert_array_equal(b.matrix @ X, b.W @ X.astype(np.int64), f"{count} vectors")


@pytest.mark.parametrize("kind", MATRICES, ids=str)
def test_float32_batches_keep_the_bound(
    isa: str, kind: dict[str, Any], shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    (b,) = shared_build([Spec(**{"digits": TERNARY, "k": 3, "scale": "row", **kind})])
    n = b.spec.shape[1]
    for count in COUNTS:
        X = (rng.standard_normal((n, count)) * 10.0 ** rng.uniform(-6, 6, (n, count))).astype("f4")
        X[rng.random((n, count)) < 0.01] = 0
        Y, exact = b.matrix @ X, b.scale[:, None] * (b.W @ X.astype(np.float64))
        bound = (
            max(n, 3)
            * 2.0**-24
            * np.abs(b.scale[:, None])
            * np.abs(X).sum(axis=0, dtype=np.float64)
        )
        assert (np.abs(Y - exact) <= 1.001 * bound).all(), f"{count} vectors"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_vector(
    isa: str, value: float, workshop: Workshop, rng: np.random.Generator
) -> None:
    b = workshop.one((70, 50), scale="row")
    for count in (2, 5, 16, 33):
        X = rng.standard_normal((50, count)).astype(np.float32)
        X[7, 1] = value
        with np.errstate(invalid="ignore"):
            expected = (b.W * b.scale[:, None]) @ X.astype(np.float64)
        Y = b.matrix @ X
        np.testing.assert_array_equal(np.isfinite(Y), np.isfinite(expected))
        np.testing.assert_array_equal(Y[:, 1], expected[:, 1].astype(np.float32))


def test_batches_are_the_same_on_any_number_of_threads(
    isa: str, restore: None, workshop: Workshop, rng: np.random.Generator
) -> None:
    w = workshop.one((1500, 700), scale="tensor").matrix
    for dtype in (np.int8, np.float32):
        for count in (1, 2, 7, 40):
            X = (rng.standard_normal((700, count)) * 40).clip(-128, 127).astype(dtype)
            results = []
            for threads in (1, 2, 3, 8):
                rsr.set_num_threads(threads)
                results.append((w @ X).tobytes())
            assert len(set(results)) == 1


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
def test_several_matrices_are_as_each_alone(
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


def test_several_matrices_refuse(workshop: Workshop) -> None:
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


def test_a_closed_model_is_refused_among_others(
    workshop: Workshop, model_file: tuple[Any, Built]
) -> None:
    path, b = model_file
    with rsr.load(path) as model:
        closed = model["w"]
        assert isinstance(closed, rsr.Matrix)
    with pytest.raises(rsr.ClosedError):
        rsr.matmul_all([b.matrix, closed], np.zeros(50, np.float32))
