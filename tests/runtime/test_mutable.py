"""Matrices that change, against a compilation of what they became."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime as rsr
import rsrc
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, QUINARY, TERNARY
from rsr_runtime import MutableMatrix
from rsr_testing.checkpoints import Kit
from rsr_testing.matrices import SPARSE, Built, Spec, Workshop, matrix_of

Array = npt.NDArray[Any]
Values = npt.NDArray[np.int8]

RANKED = [
    (TERNARY, 1),
    (TERNARY, 2),
    (TERNARY, 3),
    (BINARY_BITS, 5),
    (BINARY_SIGNS, 4),
    (QUINARY, 2),
]
PERMUTED = [(TERNARY, 1), (TERNARY, 4), (BINARY_BITS, 6), (BINARY_SIGNS, 3), (QUINARY, 2)]
SPARSE_ROWS = np.frombuffer(SPARSE, np.uint8).reshape(-1, 4).astype(np.int8) - 1


@dataclass(frozen=True)
class Case:
    """How a matrix is compiled; `group` columns share a scale, if it is not 0."""

    digits: tuple[int, ...]
    k: int
    encoding: str = "ranked"
    direction: str = "auto"
    target: str = "avx512"
    group: int = 0

    def compile(self, W: Values, scale: Array | None, folder: Path) -> rsr.Matrix:
        """Return the matrix that `rsrc compile` makes; scale: (rows, groups) or None."""
        tensor: Array = W
        if scale is not None:
            width = self.group or W.shape[1]
            tensor = W * np.repeat(scale, width, axis=1)[:, : W.shape[1]]
        source = Kit().save(folder / "w.safetensors", {"w": tensor})
        path = folder / "w.rsr"
        rsrc.compile(
            source, path, encoding=self.encoding, target=self.target, direction=self.direction,
            k=self.k, force=True, threads=1,
        )  # fmt: skip
        return matrix_of(rsr.load(path), "w")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    if draw(st.integers(0, 3)) == 0:
        digits, k = draw(st.sampled_from(PERMUTED))
        return Case(digits, k, "permuted", draw(st.sampled_from(("expand", "reduce"))))
    digits, k = draw(st.sampled_from(RANKED))
    group = draw(st.sampled_from((0, 0, 32))) if digits == TERNARY else 0
    return Case(digits, k, target=draw(st.sampled_from(("avx2", "avx512"))), group=group)


def assert_same(found: MutableMatrix, expected: rsr.Matrix, rng: np.random.Generator) -> None:
    """Compare index, scales, products and what is decoded, bit for bit."""
    matrix = found.matrix
    names = ("k", "packing", "direction", "pattern_list", "stride")
    for name in names:
        assert getattr(matrix.record, name) == getattr(expected.record, name), name
    assert matrix.sections.keys() == expected.sections.keys()
    for part, array in expected.sections.items():
        np.testing.assert_array_equal(matrix.sections[part], array, part)
    x = rng.standard_normal((expected.shape[1], 3)).astype(np.float32)
    q = rng.integers(-128, 128, expected.shape[1], dtype=np.int8)
    np.testing.assert_array_equal(found @ x, expected @ x)
    np.testing.assert_array_equal(found @ q, expected @ q)
    np.testing.assert_array_equal(found.matvec(q), expected.matvec(q))
    np.testing.assert_array_equal(found.linear(x.T, "int8"), expected.linear(x.T, "int8"))
    np.testing.assert_array_equal(found.to_dense(), expected.to_dense())
    for ours, theirs in zip(found.block(0), expected.block(0), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(cases(), st.integers(1, 150), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_equals_a_compilation(case: Case, rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns += max(5, case.group)
    has_scales = case.digits == TERNARY and case.encoding == "ranked"
    W = rng.choice(np.array(case.digits, np.int8), (rows, columns))
    W[0, : len(case.digits)] = case.digits[::-1]  # so that the compiler sees the alphabet
    scale = None
    if has_scales:  # and a weight that is not 0 with every scale
        W[:, :: case.group or columns] = 1
        W[:, -1] = 1
        groups = -(-columns // (case.group or columns))
        scale = rng.uniform(0.5, 2, (rows, groups)).astype(np.float32)
    with TemporaryDirectory() as name:
        folder = Path(name)
        w = MutableMatrix(case.compile(W, scale, folder))
        assert_same(w, w.matrix, rng)
        for count in rng.integers(1, 60, 3):
            r, c = rng.integers(0, rows, count), rng.integers(0, columns, count)
            free = c >= len(case.digits)
            if has_scales:
                free &= (c % (case.group or columns) != 0) & (c < columns - 1)
            r, c = r[free], c[free]
            digits = rng.choice(case.digits, len(r))
            for position in zip(r, c, digits, strict=True):  # the last of several counts
                W[position[:2]] = position[2]
            assert w.update(r, c, digits) is False
            if scale is not None and w.matrix.scale.ndim:
                scale[rng.integers(0, rows)] *= 2
                w.update_scales(scale if case.group else scale[:, 0])
        assert_same(w, case.compile(W, scale, folder), rng)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_lists_the_patterns_that_occur(rows: int, blocks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.permutation(SPARSE_ROWS)[: rng.integers(2, 33)]
    W = known[rng.integers(0, len(known), (rows, blocks + 2))]
    W[0, 0], W[0, 1] = (-1, 0, 1, 1), (1, 1, 1, 0)
    case = Case(TERNARY, 4)
    with TemporaryDirectory() as name:
        folder = Path(name)
        w = MutableMatrix(case.compile(W.reshape(rows, -1), None, folder))
        before = w.matrix.record.pattern_list
        assert before is not None
        for _ in range(4):
            some = rng.integers(0, rows, 5), rng.integers(2, blocks + 2, 5)
            W[some] = SPARSE_ROWS[rng.integers(0, 32, 5)]
            cells = np.repeat(some[0], 4), (4 * some[1][:, None] + np.arange(4)).reshape(-1)
            anew = w.update(*cells, W[some].reshape(-1))
            expected = case.compile(W.reshape(rows, -1), None, folder)
            assert anew == (expected.record.pattern_list != before)
            before = expected.record.pattern_list
            assert_same(w, expected, rng)


def test_too_many_patterns_to_list(tmp_path: Path, rng: np.random.Generator) -> None:
    W = np.tile(SPARSE_ROWS.reshape(4, -1), (2, 1))
    w = MutableMatrix(Case(TERNARY, 4).compile(W, None, tmp_path))
    assert (w.matrix.k, w.matrix.bits_per_weight) == (4, w.matrix.record.bits_per_weight)
    W[3, 5:9] = 0  # a pattern of two zeros
    assert w.update(np.full(4, 3), np.arange(5, 9), np.zeros(4, np.int8)) is True
    assert_same(w, Case(TERNARY, 3).compile(W, None, tmp_path), rng)
    W[3, 5:9] = 1
    assert w.update(np.full(4, 3), np.arange(5, 9), np.ones(4, np.int8)) is False
    assert_same(w, Case(TERNARY, 3).compile(W, None, tmp_path), rng)


# What the compilations above have not: strides, float16 scales, scales of row blocks, u32.
SPECS = [
    Spec((40, 64), k=4, patterns=SPARSE, stride=16),
    Spec((70, 64), k=4, patterns=SPARSE, scale="row", group=32, half=True),
    Spec((70, 50), packing="n4s1", scale="block", group=20, half=True),
    Spec((70, 50), scale="block", group=20),
    Spec((70_000, 3), k=2, encoding="permuted", scale="tensor"),
    Spec((3, 70_000), k=2, encoding="permuted", direction="reduce", scale="block"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_equals_the_reference_encoders(
    spec: Spec, workshop: Workshop, rng: np.random.Generator
) -> None:
    before, after = workshop.build([spec, replace(spec, name="after")])
    w = MutableMatrix(before.matrix)
    rows, columns = np.nonzero(before.W != after.W)
    order = rng.permutation(len(rows))
    w.update(rows[order], columns[order], after.W[rows, columns][order])
    if spec.scale != "none":
        w.update_scales(after.matrix.scale)
    if spec.patterns is None or w.matrix.record.pattern_list == spec.patterns:
        for part, array in after.matrix.sections.items():
            np.testing.assert_array_equal(w.matrix.sections[part], array, part)
    np.testing.assert_array_equal(w.to_dense(), after.matrix.to_dense())


class TestReaders:
    def test_the_model_and_earlier_states_stay(self, model_file: tuple[Path, Built]) -> None:
        built = model_file[1]
        w = MutableMatrix(built.matrix)
        dense, before = built.matrix.to_dense(np.int8), w.matrix
        ranks = before.arrays[0][:5]
        kept = ranks.copy()
        del before
        w.update(np.arange(40), np.zeros(40, int), -dense[:, 0])
        w.update(np.arange(5), np.ones(5, int), np.ones(5, int))
        np.testing.assert_array_equal(ranks, kept)  # a view of the state before two changes
        assert not ranks.flags.writeable
        np.testing.assert_array_equal(built.matrix.to_dense(np.int8), dense)
        assert (w.to_dense(np.int8)[:, 0] == -dense[:, 0]).all()

    def test_memory_without_readers_is_used_again(self, model_file: tuple[Path, Built]) -> None:
        w = MutableMatrix(model_file[1].matrix)
        one, x = np.ones(1, int), np.ones(50, np.float32)
        address = w.matrix.arrays[0].ctypes.data
        w @ x, w.linear(x), w.to_dense(), w.block(0)
        w.update(one, one, one)
        assert w.matrix.arrays[0].ctypes.data == address
        matrix = w.matrix
        w.update(one, one, one)
        assert w.matrix.arrays[0].ctypes.data != matrix.arrays[0].ctypes.data

    @pytest.mark.parametrize("encoding", ["ranked", "permuted"])
    def test_threads_see_no_mixture(self, encoding: str, workshop: Workshop) -> None:
        built = workshop.one((300, 240), encoding=encoding, scale="row")
        w = MutableMatrix(built.matrix)
        rows, columns = (a.reshape(-1) for a in np.indices((300, 240)))
        x = np.random.default_rng(0).integers(-128, 128, 240, dtype=np.int8)
        states = [built.W.astype(np.int8), -built.W.astype(np.int8)]
        products = [state.astype(np.int64) @ x for state in states]
        wrong: list[Array] = []
        seen: set[int] = set()
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                for y in (w @ x, w.to_dense(np.int8).astype(np.int64) @ x):
                    which = [i for i in range(2) if (y == products[i]).all()]
                    seen.update(which)
                    if not which:
                        wrong.append(y)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        changes = 0
        while changes < 40 or (len(seen) < 2 and changes < 4000):
            changes += 1
            w.update(rows, columns, states[changes % 2].reshape(-1))
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert seen == {0, 1}


class TestErrors:
    @pytest.fixture
    def w(self, model_file: tuple[Path, Built]) -> MutableMatrix:
        """Return a matrix (40, 50) with a scale for each row."""
        return MutableMatrix(model_file[1].matrix)

    @pytest.mark.parametrize(
        ("rows", "columns", "digits", "error", "message"),
        [
            ([0.0], [0], [0], rsr.InputTypeError, "rows: found float64, expected an array of inte"),
            ([0], [True], [0], rsr.InputTypeError, "columns: found bool"),
            ([0], [0], [1.0], rsr.InputTypeError, "digits: found float64"),
            ([[0]], [[0]], [[0]], rsr.InputShapeError, r"rows \(1, 1\), .*three arrays of one len"),
            ([0, 1], [0], [0], rsr.InputShapeError, r"rows \(2,\), columns \(1,\), digits \(1,\)"),
            ([0, 40], [0, 0], [1, 1], rsr.OutOfRangeError, "found row 40, expected 0 to 39"),
            ([0, -1], [0, 0], [1, 1], IndexError, "found row -1"),
            ([0, 1], [0, 50], [1, 1], rsr.OutOfRangeError, "found column 50, expected 0 to 49"),
            ([0, 1], [0, 0], [1, 2], rsr.OptionError, "found digit 2, expected -1, 0 or 1"),
            ([0, 1], [0, 0], [1, -300], rsr.OptionError, "found digit -300"),
        ],
    )
    def test_update(
        self,
        w: MutableMatrix,
        rows: list[Any],
        columns: list[Any],
        digits: list[Any],
        error: type[Exception],
        message: str,
    ) -> None:
        before = w.to_dense()
        with pytest.raises(error, match=message):
            w.update(np.array(rows), np.array(columns), np.array(digits))
        np.testing.assert_array_equal(w.to_dense(), before)

    def test_a_list_is_no_array(self, w: MutableMatrix) -> None:
        with pytest.raises(rsr.InputTypeError, match="rows: found list"):
            w.update([0], np.zeros(1, int), np.zeros(1, int))  # type: ignore[arg-type]

    @pytest.mark.parametrize("which", range(3))
    def test_a_mask_hides_nothing(self, w: MutableMatrix, which: int) -> None:
        """A masked row would not count in the check of bounds, and be written all the same."""
        arrays = [np.zeros(2, int) for _ in range(3)]
        arrays[which] = np.ma.array([1, 10**9], mask=[False, True])
        with pytest.raises(rsr.InputTypeError, match="found a masked array"):
            w.update(*arrays)

    def test_a_kind_of_array_does_not_say_what_its_bounds_are(self, w: MutableMatrix) -> None:
        class Bounded(np.ndarray[Any, Any]):
            def min(self, *_: Any, **__: Any) -> Any:
                return 0

            max = min

        rows = np.array([10**9]).view(Bounded)
        with pytest.raises(rsr.OutOfRangeError, match="found row 1000000000"):
            w.update(rows, np.zeros(1, int), np.zeros(1, int))

    def test_a_large_unsigned_row_is_named_as_it_is(self, w: MutableMatrix) -> None:
        zero = np.zeros(1, int)
        with pytest.raises(rsr.OutOfRangeError, match="found row 18446744073709551615"):
            w.update(np.array([2**64 - 1], np.uint64), zero, zero)

    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_is_copied_by_its_matrix_alone(self, w: MutableMatrix, how: Any) -> None:
        with pytest.raises(
            rsr.InputTypeError, match=r"MutableMatrix\(w\.matrix\) makes another copy"
        ):
            how(w)
        other, one = MutableMatrix(w.matrix), np.ones(1, int)
        before = w.to_dense()
        other.update(one, one, one - 2 * int(before[1, 1] > 0))
        np.testing.assert_array_equal(w.to_dense(), before)
        assert (other.to_dense() != before).sum() == 1

    def test_nothing_to_change(self, w: MutableMatrix) -> None:
        none = np.zeros(0, int)
        assert w.update(none, none, none) is False

    @pytest.mark.parametrize(
        ("scale", "error", "message"),
        [
            (np.ones(40), rsr.InputTypeError, "scale has dtype float64, expected float32"),
            (np.ones(39, np.float32), rsr.InputShapeError, r"\(39,\), expected \(40,\)"),
            (np.full(40, np.nan, np.float32), rsr.OptionError, "must be finite"),
        ],
    )
    def test_update_scales(
        self, w: MutableMatrix, scale: Array, error: type[Exception], message: str
    ) -> None:
        before = w.to_dense()
        with pytest.raises(error, match=message):
            w.update_scales(scale)
        np.testing.assert_array_equal(w.to_dense(), before)

    def test_scales_that_the_file_could_not_store(self, workshop: Workshop) -> None:
        specs = [
            Spec((8, 6)),
            Spec((8, 6), scale="block"),
            Spec((8, 6), scale="row", group=3, half=True),
        ]
        plain, shared, half = (MutableMatrix(b.matrix) for b in workshop.build(specs))
        with pytest.raises(rsr.OptionError, match="has no scales"):
            plain.update_scales(np.ones((), np.float32))
        with pytest.raises(rsr.OptionError, match="one scale for each 7 rows"):
            shared.update_scales(np.arange(8, dtype=np.float32))
        shared.update_scales(np.array([3] * 7 + [4], np.float32))
        np.testing.assert_array_equal(shared.matrix.scale, [3] * 7 + [4])
        with pytest.raises(rsr.OptionError, match="float16, which cannot represent 100000"):
            half.update_scales(np.full((8, 2), 1e5, np.float32))

    def test_what_a_matrix_refuses(self, w: MutableMatrix) -> None:
        x: Any = np.ones(40, np.float32)
        with pytest.raises(rsr.InputTypeError, match="x @ w is not supported"):
            x @ w
        with pytest.raises(rsr.InputTypeError, match="not an array"):
            np.asarray(w)
        several: Any = [w]
        with pytest.raises(rsr.InputTypeError, match=r"MutableMatrix, .*: pass its \.matrix"):
            rsr.matmul_all(several, x)

    def test_matrix(self, model_file: tuple[Path, Built], workshop: Workshop) -> None:
        with pytest.raises(rsr.InputTypeError, match="matrix is a str, expected a Matrix"):
            MutableMatrix("w")  # type: ignore[arg-type]

        def damage(arrays: dict[str, Array]) -> None:
            arrays["ranks"][0] = 31

        with pytest.raises(rsr.FormatError, match="rank"):
            MutableMatrix(workshop.one((40, 50), damage).matrix)
        with rsr.load(model_file[0]) as model:
            matrix = matrix_of(model, "w")
        with pytest.raises(rsr.ClosedError):
            MutableMatrix(matrix)
