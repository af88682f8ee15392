"""`Matrix`: the arrays it takes and refuses, its error messages, its properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY
from rsr_runtime import InputShapeError, InputTypeError, OptionError
from rsr_testing.matrices import Built, Spec, Workshop, matrix_of

Array = npt.NDArray[Any]

M, N = 45, 38
KINDS: dict[str, dict[str, Any]] = {
    "ranked": {},
    "ranked-binary": {"digits": BINARY_SIGNS, "k": 5},
    "expand": {"k": 4, "encoding": "permuted"},
    "reduce": {"k": 4, "encoding": "permuted", "direction": "reduce"},
}
INDEX_BYTES = {
    "ranked": 64 * 5 * 2,  # two strips of 32 rows; words of three blocks of three columns
    "ranked-binary": 64 * 3 * 2,
    "expand": 10 * (M + 81 + 1) * 2,  # a permutation and segments for each block of four columns
    "reduce": 12 * (N + 81 + 1) * 2,
}


@pytest.fixture(params=KINDS)
def built(request: pytest.FixtureRequest, workshop: Workshop) -> Built:
    return workshop.one((M, N), scale="row", **KINDS[request.param])


def bitnet_linear(x: Array, W: Array, scale: Array) -> Array:
    """Compute a BitNet b1.58 linear layer as its authors' PyTorch code does, row by row."""
    rows = []
    for row in x.reshape(-1, x.shape[-1]) if x.size else np.zeros((0, x.shape[-1]), np.float32):
        largest = np.float32(max([abs(float(v)) for v in row], default=0.0))
        reciprocal = np.float32(1) / max(largest, np.float32(1e-5))
        s = reciprocal * np.float32(127)
        q = [int(min(127, max(-128, round(float(v * s))))) for v in row]  # round: half to even
        sums = np.array([sum(int(w) * v for w, v in zip(r, q, strict=True)) for r in W])
        rows.append(sums.astype(np.float32) * scale.astype(np.float32) / s)
    return np.array(rows, np.float32).reshape(*x.shape[:-1], len(W))


# --- shapes -----------------------------------------------------------------------------------


def test_vector_and_matrix_products(built: Built, rng: np.random.Generator) -> None:
    built.check(rng.integers(-128, 128, N).astype(np.int8))
    built.check(rng.standard_normal(N).astype(np.float32))
    for b in (0, 1, 2, 5):
        X = rng.integers(-128, 128, (N, b)).astype(np.int8)
        assert built.check(X).flags.c_contiguous
        Xf = rng.standard_normal((N, b)).astype(np.float32)
        Yf = built.check(Xf)
        assert Yf.shape == (M, b)
        for i in range(b):  # a batch is its vectors, to the bit
            np.testing.assert_array_equal(Yf[:, i], built.matrix @ Xf[:, i])


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (7, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_matrices(kind: str, shape: tuple[int, int], workshop: Workshop) -> None:
    m, n = shape
    for scale in ("none", "tensor", "row"):
        matrix = workshop.one(shape, scale=scale, **KINDS[kind]).matrix
        for dtype, result in ((np.int8, np.int32), (np.float32, np.float32)):
            for b in ((), (0,), (3,)):
                y = matrix @ np.ones((n, *b), dtype)
                assert y.dtype == result
                assert y.shape == (m, *b)
                assert not y.any()
        for lead in ((), (0,), (2,), (2, 0), (2, 3)):
            for activations in ("float32", "int8"):
                y = matrix.linear(np.ones((*lead, n), np.float32), activations)
                assert y.dtype == np.float32
                assert y.shape == (*lead, m)
                assert not y.any()
        assert matrix.to_dense().shape == shape
        assert matrix.bits_per_weight == 0


@pytest.mark.parametrize("lead", [(), (1,), (4,), (0,), (2, 3), (2, 0, 3)])
def test_linear_float32(built: Built, lead: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.standard_normal((*lead, N)).astype(np.float32)
    y = built.matrix.linear(x)
    assert y.dtype == np.float32
    assert y.shape == (*lead, M)
    built.check_float32(y.reshape(-1, M).T, x.reshape(-1, N).T)


def test_memory_layouts_do_not_matter(built: Built, rng: np.random.Generator) -> None:
    for dtype in (np.int8, np.float32):
        x = rng.integers(-128, 128, N).astype(dtype)
        expected = built.matrix @ x
        buffer = np.zeros(2 * N, dtype)
        buffer[::2] = x
        raw = np.zeros(x.nbytes + 1, np.uint8)
        unaligned = raw[1:].view(dtype)
        unaligned[:] = x
        locked = x.copy()
        locked.flags.writeable = False
        column = np.zeros((N, 3), dtype)
        column[:, 1] = x
        variants = [buffer[::2], x[::-1].copy()[::-1], unaligned, locked, column[:, 1]]
        for variant in variants:
            np.testing.assert_array_equal(built.matrix @ variant, expected)
        X = np.stack([x, x], axis=1)
        unaligned_matrix = np.zeros(X.nbytes + 1, np.uint8)[1:].view(dtype).reshape(2, N)
        unaligned_matrix[:] = X.T
        for matrix in (np.asfortranarray(X), X[::-1].copy()[::-1], unaligned_matrix.T):
            np.testing.assert_array_equal(built.matrix @ matrix, np.stack([expected] * 2, axis=1))
        if dtype == np.float32:
            for variant in variants:
                np.testing.assert_array_equal(built.matrix.linear(variant), expected)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [">f4", "f8", "f2", "i8", "i4", "u1", "?", "c8", "O"])
def test_other_dtypes_are_refused(built: Built, dtype: str) -> None:
    x = np.zeros(N, dtype)
    for call in (built.matrix.__matmul__, built.matrix.matvec, built.matrix.linear):
        with pytest.raises(InputTypeError, match="expected float32") as caught:
            call(x)
        assert f"x has dtype {x.dtype}" in str(caught.value)
    assert issubclass(InputTypeError, TypeError)


def test_other_objects_are_refused(built: Built) -> None:
    for x in ([0.0] * N, 1.0, None, "x", memoryview(bytes(N))):
        found = "None" if x is None else type(x).__name__
        with pytest.raises(InputTypeError, match=f" {found}, expected a NumPy array"):
            built.matrix @ x  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(), (N - 1,), (N + 1,), (1, N), (N, 2, 2), (0,), (0, N)])
def test_other_shapes_are_refused(built: Built, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    expected = rf"x has shape {shape}, expected ({N},) or ({N}, b)"
    with pytest.raises(InputShapeError) as caught:
        built.matrix @ x
    assert expected in str(caught.value)
    with pytest.raises(InputShapeError):
        built.matrix.matvec(x)
    if not shape or shape[-1] != N:
        with pytest.raises(InputShapeError) as caught:
            built.matrix.linear(x)
        assert f"x has shape {shape}, expected (..., {N})" in str(caught.value)
    assert issubclass(InputShapeError, ValueError)


def test_linear_refuses_int8_and_unknown_activations(built: Built) -> None:
    with pytest.raises(InputTypeError, match="int8, expected float32"):
        built.matrix.linear(np.zeros(N, np.int8))
    with pytest.raises(OptionError, match="found 'int4', expected 'float32', 'int8' or 'int8-g"):
        built.matrix.linear(np.zeros(N, np.float32), "int4")


# --- out --------------------------------------------------------------------------------------


def test_out_receives_the_product(built: Built, rng: np.random.Generator) -> None:
    for dtype, result in ((np.int8, np.int32), (np.float32, np.float32)):
        x = rng.integers(-128, 128, N).astype(dtype)
        out = np.full(M, 77, result)
        assert built.matrix.matvec(x, out=out) is out
        np.testing.assert_array_equal(out, built.matrix @ x)


def test_out_stays_inside_its_bounds(isa: str, workshop: Workshop) -> None:
    for m in (1, 31, 33, 127, 129):
        built = workshop.one((m, N), fill="highest")
        for dtype, result in ((np.int8, np.int32), (np.float32, np.float32)):
            guarded = np.full(m + 64, 7777, result)
            built.matrix.matvec(np.ones(N, dtype), out=guarded[32:-32])
            assert (guarded[32:-32] == N).all(), (isa, m)
            assert (guarded[:32] == 7777).all(), (isa, m)
            assert (guarded[-32:] == 7777).all(), (isa, m)


def test_out_of_one_row_may_have_any_stride(workshop: Workshop) -> None:
    """A single element is contiguous whatever its stride."""
    built = workshop.one((1, N), fill="highest")
    out = np.zeros(4, np.int32)[::3][:1]
    assert built.matrix.matvec(np.ones(N, np.int8), out=out) is out
    assert out[0] == N


def test_out_is_refused_where_it_does_not_fit(built: Built) -> None:
    x = np.zeros(N, np.float32)
    for out, found in (
        (np.zeros(M), "float64"),
        (np.zeros(M, np.int32), "int32"),
        (np.zeros(M, ">f4"), ">f4"),
        ([0.0] * M, "list"),
    ):
        with pytest.raises(InputTypeError, match=f"out is {found}, expected an array of float32"):
            built.matrix.matvec(x, out=out)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="expected an array of int32 for x of int8"):
        built.matrix.matvec(np.zeros(N, np.int8), out=np.zeros(M, np.float32))
    for shape in ((M + 1,), (M - 1,), (M, 1), (1, M), ()):
        with pytest.raises(InputShapeError) as caught:
            built.matrix.matvec(x, out=np.zeros(shape, np.float32))
        assert f"out has shape {shape}, expected ({M},)" in str(caught.value)
    locked = np.zeros(M, np.float32)
    locked.flags.writeable = False
    unaligned = np.zeros(4 * M + 1, np.uint8)[1:].view(np.float32)
    for out in (np.zeros(2 * M, np.float32)[::2], np.zeros(M, np.float32)[::-1], locked, unaligned):
        with pytest.raises(InputShapeError, match="contiguous, aligned and writeable"):
            built.matrix.matvec(x, out=out)
    memory = np.zeros(M + N, np.float32)
    with pytest.raises(InputShapeError, match="must not overlap"):
        built.matrix.matvec(memory[:N], out=memory[N - 1 : N - 1 + M])
    built.matrix.matvec(memory[:N], out=memory[N:])  # side by side is fine


# --- linear in int8 ---------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (3,), (0,), (2, 2)])
def test_linear_int8_is_the_bitnet_layer(
    built: Built, lead: tuple[int, ...], rng: np.random.Generator
) -> None:
    x = (rng.standard_normal((*lead, N)) * 10.0 ** rng.uniform(-7, 7, (*lead, 1))).astype("f4")
    y = built.matrix.linear(x, activations="int8")
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, bitnet_linear(x, built.W, built.scale))


def test_linear_int8_rounds_ties_to_even(built: Built, rng: np.random.Generator) -> None:
    x = rng.integers(-127, 127, (8, N)).astype(np.float32) + np.float32(0.5)
    x[:, 0] = 127  # s = 127 * (1 / 127) is exactly 1 in float32
    assert np.float32(127) * (np.float32(1) / np.float32(127)) == 1
    q = np.where(np.floor(x) % 2 == 0, np.floor(x), np.ceil(x))
    q[:, 0] = 127
    y = built.matrix.linear(x, activations="int8")
    np.testing.assert_array_equal(y, (q @ built.W.T).astype(np.float32) * built.scale.astype("f4"))
    np.testing.assert_array_equal(y, bitnet_linear(x, built.W, built.scale))


def test_linear_int8_of_zero_and_tiny_rows(built: Built, rng: np.random.Generator) -> None:
    x = np.zeros((4, N), np.float32)
    x[1] = rng.standard_normal(N) * 1e-6  # below the floor of 1e-5: small q
    x[2] = rng.standard_normal(N) * 1e-9  # far below: q = 0
    x[3] = np.float32(1e-45)  # subnormal
    y = built.matrix.linear(x, activations="int8")
    np.testing.assert_array_equal(y, bitnet_linear(x, built.W, built.scale))
    assert not y[0].any()
    assert y[1].any()
    assert not y[2:].any()


def test_linear_int8_of_large_and_not_finite_rows(built: Built, rng: np.random.Generator) -> None:
    """Rows do not disturb each other: one that is not finite gives NaN, and no warning."""
    x = rng.standard_normal((6, N)).astype(np.float32)
    x[0] *= np.float32(1e33)
    x[1, 3] = np.nan
    x[3, 0] = np.inf
    x[4, N - 1] = -np.inf
    y = built.matrix.linear(x, activations="int8")
    finite = [0, 2, 5]
    np.testing.assert_array_equal(y[finite], bitnet_linear(x[finite], built.W, built.scale))
    assert np.isnan(y[[1, 3, 4]]).all()


# --- properties -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", ["none", "tensor", "row", "block"])
def test_to_dense(kind: str, scale: str, workshop: Workshop) -> None:
    for shape in ((M, N), (160, 10), (1, 1), (128, 3)):
        built = workshop.one(shape, scale=scale, **KINDS[kind])
        digits = built.matrix.to_dense(np.int8)
        assert digits.dtype == np.int8
        np.testing.assert_array_equal(digits, built.W)
        dense = built.matrix.to_dense()
        assert dense.dtype == np.float32
        np.testing.assert_array_equal(dense, built.W * built.scale[:, None])
        assert dense.flags.c_contiguous
        assert digits.flags.c_contiguous


def assemble(matrix: rsr.Matrix) -> Array:
    """Return the dense matrix that the windows cover, each entry once."""
    dense, covered = np.zeros(matrix.shape, np.float32), np.zeros(matrix.shape, np.int8)
    for rows, columns, values in matrix.windows():
        assert values.dtype == np.float32
        dense[rows, columns] = values
        covered[rows, columns] += 1
    assert (covered == 1).all()
    return dense


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", ["none", "tensor", "row", "block"])
def test_windows_are_those_of_to_dense(kind: str, scale: str, workshop: Workshop) -> None:
    built = workshop.one((M, N), scale=scale, **KINDS[kind])
    np.testing.assert_array_equal(assemble(built.matrix), built.matrix.to_dense())


# --- some rows --------------------------------------------------------------------------------

PATTERNS = bytes([0, 1, 2, 1, 1, 1, 2, 1, 0, 2, 2, 2])  # four of three digits
ROWS: dict[str, dict[str, Any]] = {
    "w16": {},
    "w16, one scale": {"scale": "tensor"},
    "w16, no scale": {"scale": "none"},
    "w16, blocks of rows": {"scale": "block"},
    "w16, k = 2": {"k": 2},
    "binary": {"digits": BINARY_SIGNS, "k": 5},
    "bits": {"digits": BINARY_BITS, "k": 4},
    "n4s1": {"packing": "n4s1"},
    "n4s1, blocks of rows": {"packing": "n4s1", "scale": "block"},
    "n4s1, groups": {"packing": "n4s1", "group": 7},
    "groups": {"group": 8},
    "groups that are no whole blocks, float16": {"group": 7, "half": True},
    "groups and blocks of rows": {"group": 16, "scale": "block"},
    "listed patterns": {"patterns": PATTERNS},
    "listed patterns, stride": {"patterns": PATTERNS, "stride": 4},
    "listed patterns, stride, groups": {"patterns": PATTERNS, "stride": 2, "group": 12},
}


@pytest.mark.parametrize("kind", ROWS)
def test_windows_of_ranked_matrices(kind: str, workshop: Workshop) -> None:
    built = workshop.one((70, 48), **{"scale": "row", **ROWS[kind]})
    np.testing.assert_array_equal(assemble(built.matrix), built.matrix.to_dense())


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("m", [1, 64, 70, 131])
def test_rows_equal_those_of_to_dense(kind: str, m: int, workshop: Workshop) -> None:
    built = workshop.one((m, 48), **{"scale": "row", **ROWS[kind]})
    dense = built.matrix.to_dense()
    for numbers in ([0], [m - 1], list(range(m)), list(range(m))[::-1], [m - 1, 0, m - 1]):
        found = built.matrix.rows(np.array(numbers))
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, dense[numbers])


def test_rows_by_any_integers(workshop: Workshop) -> None:
    matrix = workshop.one((M, N), scale="row").matrix
    for dtype in ("i8", "i4", "u1", "u8"):
        numbers: Array = np.array([3, 44], dtype)
        np.testing.assert_array_equal(matrix.rows(numbers), matrix.to_dense()[[3, 44]])
    assert matrix.rows(np.empty(0, np.int64)).shape == (0, N)
    assert workshop.one((5, 0)).matrix.rows(np.arange(5)).shape == (5, 0)


def test_rows_out_of_range(workshop: Workshop) -> None:
    matrix = workshop.one((M, N), name="w").matrix
    for row in (-1, M, 1 << 40):
        with pytest.raises(IndexError, match=f"'w': found row {row}, expected 0 to {M - 1}"):
            matrix.rows(np.array([0, row, 1]))
    for numbers in (np.array([1.0]), np.array([True]), [1], 1):
        with pytest.raises(InputTypeError, match=r"rows: found .*, expected an array of integers"):
            matrix.rows(numbers)  # type: ignore[arg-type]
    with pytest.raises(InputShapeError, match=r"rows: found shape \(1, 1\), expected \(count,\)"):
        matrix.rows(np.array([[1]]))


@pytest.mark.parametrize("direction", ["expand", "reduce"])
def test_rows_of_a_permuted_matrix_are_refused(direction: str, workshop: Workshop) -> None:
    matrix = workshop.one((M, N), k=4, encoding="permuted", direction=direction).matrix
    with pytest.raises(OptionError, match=r"permuted, .* compile it with --encoding ranked"):
        matrix.rows(np.array([0]))


def test_rows_of_a_closed_model(workshop: Workshop) -> None:
    path = workshop.path()
    workshop.write(path, [Spec((M, N), name="w")])
    with rsr.load(path) as model:
        matrix = matrix_of(model, "w")
    with pytest.raises(rsr.ClosedError):
        matrix.rows(np.array([0]))


def test_layout_names_how_the_source_stored_it(built: Built) -> None:
    assert built.matrix.layout == "int8"


def test_to_dense_refuses_other_dtypes(built: Built) -> None:
    with pytest.raises(OptionError, match="found dtype float64, expected float32 or int8"):
        built.matrix.to_dense(np.float64)


@pytest.mark.parametrize(("digits", "k"), [(TERNARY, 3), (TERNARY, 2), (BINARY_BITS, 5)])
def test_block_is_the_same_from_either_encoding(
    digits: tuple[int, ...], k: int, workshop: Workshop
) -> None:
    from rsr_runtime.reference import preprocess

    for shape in ((M, N), (140, 9), (3, 1)):
        ranked = workshop.one(shape, digits=digits, k=k)
        expected = preprocess(ranked.W, digits, k)

        def same(arrays: dict[str, Array], blocks: Any = expected) -> None:
            for j, block in enumerate(blocks):
                arrays["permutation"][j], arrays["segments"][j] = block

        permuted = workshop.one(shape, same, digits=digits, k=k, encoding="permuted")
        assert ranked.matrix.blocks == permuted.matrix.blocks == len(expected)
        for j, block in enumerate(expected):
            for matrix in (ranked.matrix, permuted.matrix):
                sigma, L = matrix.block(j)
                assert sigma.dtype == L.dtype == np.uint32
                np.testing.assert_array_equal(sigma, block.permutation)
                np.testing.assert_array_equal(L, block.segments)


def test_block_refuses_other_numbers(built: Built) -> None:
    for j in (-1, built.matrix.blocks, 1 << 40):
        with pytest.raises(
            IndexError, match=f"found block {j}, expected 0 to {built.matrix.blocks - 1}"
        ):
            built.matrix.block(j)


@pytest.mark.parametrize("kind", KINDS)
def test_properties(kind: str, workshop: Workshop) -> None:
    options: dict[str, Any] = {
        "digits": TERNARY,
        "k": 3,
        "encoding": "ranked",
        "direction": "expand",
    }
    options |= KINDS[kind]
    for scale in ("none", "tensor", "row", "block"):
        built = workshop.one((M, N), name="layer.w", scale=scale, **options)
        w = built.matrix
        assert (w.name, w.shape) == ("layer.w", (M, N))
        assert w.dtype == np.float32
        assert (w.k, w.encoding, w.direction) == tuple(
            options[key] for key in ("k", "encoding", "direction")
        )
        assert w.base == len(built.spec.digits)
        scales = {"none": 0, "tensor": 1, "row": M, "block": -(-M // 7)}[scale]
        assert w.nbytes == INDEX_BYTES[kind] + 4 * scales
        assert w.bits_per_weight == 8 * w.nbytes / (M * N)
        assert w.scale.dtype == np.float32
        assert w.scale.shape == (() if scale in ("none", "tensor") else (M,))
        np.testing.assert_array_equal(np.broadcast_to(w.scale, M), built.scale)
        with pytest.raises(ValueError, match="read-only"):
            w.scale[...] = 2
        kind_name = "ternary" if w.base == 3 else "binary"
        assert repr(w) == (
            f"Matrix('layer.w', {M}x{N}, {kind_name}, {w.encoding} {w.packing}, k={w.k}, "
            f"{w.bits_per_weight:.2f} bits/weight)"
        )


def test_bits_per_weight_of_a_large_ranked_matrix(workshop: Workshop) -> None:
    """The figures of the format: 16 bits for 9 ternary or 15 binary weights."""
    assert workshop.one((128, 900)).matrix.bits_per_weight == 16 / 9
    binary = workshop.one((128, 900), digits=BINARY_SIGNS, k=5)
    assert binary.matrix.bits_per_weight == 16 / 15


# --- algorithms -------------------------------------------------------------------------------


def test_algorithms(built: Built, rng: np.random.Generator) -> None:
    x = rng.integers(-128, 128, N).astype(np.int8)
    xf = rng.standard_normal(N).astype(np.float32)
    with pytest.raises(OptionError, match=r"found 'dense', expected 'rsr\+\+' or 'rsr'"):
        built.matrix.matvec(x, algorithm="dense")
    if built.spec.encoding == "ranked":
        for algorithm in ("rsr", "rsr++"):
            with pytest.raises(OptionError, match="--encoding permuted"):
                built.matrix.matvec(x, algorithm=algorithm)
        return
    for algorithm in ("rsr", "rsr++"):
        np.testing.assert_array_equal(
            built.matrix.matvec(x, algorithm=algorithm), built.exact(x), algorithm
        )
        built.check_float32(built.matrix.matvec(xf, algorithm=algorithm), xf, algorithm)
    np.testing.assert_array_equal(
        built.matrix.matvec(xf, algorithm="rsr++"), built.matrix.matvec(xf)
    )


def test_every_refusal_is_an_rsr_error() -> None:
    names = ("ClosedError", "InputShapeError", "InputTypeError", "IsaError", "OptionError")
    for name in names:
        assert issubclass(getattr(rsr, name), rsr.RsrError)
