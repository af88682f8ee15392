"""Arguments that are no float32 or int8 array: each error says which expression to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_testing.matrices import Built, Workshop

M, N = 7, 12


@pytest.fixture
def built(workshop: Workshop) -> Built:
    return workshop.one((M, N))


class Array:
    """An object that is not of NumPy, but converts to an array."""

    def __array__(self, *arguments: Any, **options: Any) -> npt.NDArray[np.float64]:
        return np.linspace(-1, 1, N)


X = np.linspace(-1, 1, N)
CONVERTIBLE = [
    X.tolist(),
    tuple(X.tolist()),
    X,
    X.astype("f2"),
    X.astype(">f4"),
    X.astype(object),
    np.arange(N),
    np.arange(N) > 5,
    np.ma.array(X.astype("f4"), mask=np.arange(N) > 5),
    Array(),
]


@pytest.mark.parametrize("x", CONVERTIBLE, ids=lambda x: getattr(x, "dtype", type(x).__name__))
def test_the_expression_in_the_error_gives_the_product(built: Built, x: Any) -> None:
    w = built.matrix
    for call in (lambda x: w @ x, w.matvec, w.linear, lambda x: rsr.matmul_all([w], x)[0]):
        with pytest.raises(rsr.InputTypeError) as caught:
            call(x)
        _, _, fix = str(caught.value).partition(": pass ")
        converted = eval(fix, {"np": np, "x": x})  # the user's next attempt
        built.check_float32(call(converted), converted)


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (None, "x is None, expected a NumPy array of float32 or int8"),
        ({"x": 1}, "x is a dict, expected a NumPy array of float32 or int8"),
        (np.zeros(N, "S4"), "x has dtype |S4, expected float32 or int8"),
        (np.zeros(N, "V4"), "x has dtype |V4, expected float32 or int8"),
        (np.zeros(N, "M8[s]"), "x has dtype datetime64[s], expected float32 or int8"),
    ],
)
def test_nothing_is_advised_that_would_fail(built: Built, x: Any, found: str) -> None:
    with pytest.raises(rsr.InputTypeError) as caught:
        built.matrix @ x
    assert str(caught.value) == found


@pytest.mark.parametrize("dtype", [np.dtype([]), np.dtype("V0")], ids=str)
def test_dtypes_without_bytes_are_refused(built: Built, dtype: np.dtype[Any]) -> None:
    x = np.zeros(N, dtype)
    for multiply in (built.matrix.__matmul__, built.matrix.matvec, built.matrix.linear):
        with pytest.raises(rsr.InputTypeError):
            multiply(x)


def test_complex_numbers_need_two_products(built: Built) -> None:
    with pytest.raises(rsr.InputTypeError, match=r"complex64.*pass x\.real and x\.imag"):
        built.matrix @ np.zeros(N, np.complex64)


def test_subclasses_views_and_read_only_arrays_are_accepted(built: Built) -> None:
    w, x = built.matrix, X.astype(np.float32)
    expected = w @ x
    read_only = x.copy()
    read_only.flags.writeable = False
    strided = np.stack([x, x], axis=1)[:, 0]
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1)
    for variant in (read_only, strided, unaligned, np.frombuffer(x.tobytes(), np.float32)):
        np.testing.assert_array_equal(w @ variant, expected)
    column = x.view(np.matrix).T  # a subclass that is always two-dimensional
    assert type(w @ column) is np.ndarray
    np.testing.assert_array_equal(w @ column, w @ x[:, None])


def test_a_transposed_argument_is_recognized(built: Built) -> None:
    with pytest.raises(rsr.InputShapeError, match=rf"expected \({N},\) or \({N}, b\): pass x\.T$"):
        built.matrix @ np.zeros((3, N), np.float32)
    with pytest.raises(rsr.InputShapeError, match=rf"expected \(\.\.\., {N}\): pass x\.T$"):
        built.matrix.linear(np.zeros((N, 3), np.float32))


def test_weights_of_another_dtype_are_not_to_be_truncated() -> None:
    scale = np.ones(2, np.float32)
    with pytest.raises(rsr.InputTypeError) as caught:
        rsr.linear_rows(np.ones((2, 3)), np.ones((1, 3), np.float32), scale)
    assert str(caught.value) == "weight has dtype float64, expected int8"


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        (lambda w: w, r"matrices is the Matrix .*, expected a list: pass \[w\]"),
        (lambda w: ["a.weight"], r"matrices\[0\] is 'a.weight', .*pass model.matrix\('a.weight'\)"),
        (lambda w: [w, np.ones(3)], r"matrices\[1\] is ndarray, expected a Matrix$"),
        (lambda w: "w", "matrices is 'w', expected a list of Matrix objects"),
        (lambda w: {"w": w}, "matrices is dict, expected a list of Matrix objects"),
        (lambda w: 3, "matrices is int, expected a list of Matrix objects"),
    ],
)
def test_matrices_that_are_none(built: Built, matrices: Any, message: str) -> None:
    for product in (rsr.matmul_all, rsr.linear_all):
        with pytest.raises(rsr.InputTypeError, match=message):
            product(matrices(built.matrix), X.astype(np.float32))


def test_an_iterator_of_matrices_is_read_once(built: Built) -> None:
    x = X.astype(np.float32)
    found = rsr.matmul_all(iter([built.matrix, built.matrix]), x)  # type: ignore[arg-type]
    assert [y.tolist() for y in found] == [(built.matrix @ x).tolist()] * 2


def test_a_matrix_never_becomes_an_array_silently(built: Built) -> None:
    w, x = built.matrix, X.astype(np.float32)
    for convert in (np.asarray, np.array, lambda w: np.array([w, w]), lambda w: np.dot(w, x)):
        with pytest.raises(rsr.InputTypeError, match=r"w\.to_dense\(\) for the dense matrix"):
            convert(w)
    for left in (x, x.tolist(), np.ones((2, M), np.float32)):
        with pytest.raises(rsr.InputTypeError, match=r"w\.linear\(x\) computes x @ W\.T"):
            left @ w
    uses: tuple[Callable[[Any], Any], ...] = (list, tuple, lambda w: w[0], lambda w: x in w)
    for use in uses:
        with pytest.raises(rsr.InputTypeError, match=r"w\.rows\(numbers\)"):
            use(w)
    with pytest.raises(AttributeError, match=r"w\.linear\(x\) computes x @ W\.T"):
        w.T  # noqa: B018
    with pytest.raises(TypeError, match=r"has no len\(\): use w\.shape .* w\.to_dense\(\)"):
        len(w)
    assert w
    assert not hasattr(w, "T")


def test_numbers_of_rows_and_blocks(built: Built) -> None:
    w = built.matrix
    for numbers in ([1, 2], (1, 2)):
        with pytest.raises(rsr.InputTypeError, match=r"pass np\.asarray\(numbers, np\.int64\)"):
            w.rows(numbers)  # type: ignore[arg-type]
    with pytest.raises(rsr.InputTypeError, match=r"pass np\.array\(\[row\]\)"):
        w.rows(1)  # type: ignore[arg-type]
    with pytest.raises(rsr.InputTypeError, match="block: found float, expected the number"):
        w.block(1.0)  # type: ignore[arg-type]
    assert w.block(np.int64(0)).segments[0] == 0  # type: ignore[arg-type]
    with pytest.raises(rsr.OptionError, match="found 'half_', expected float32 or int8"):
        w.to_dense("half_")
