"""A matrix whose weights change: what a change touches is encoded again, and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from rsr_formats.decode import decode_digits, row_scales
from rsr_formats.packing import (
    Block,
    column_places,
    listed_ranks,
    n4s1_bytes,
    n4s1_places,
    pack_w16,
    padding_digit,
    padding_rank,
    pattern_digits,
    ranks_of,
    unpack_w16,
    w16_words,
)
from rsr_formats.records import MAX_RANKED_PATTERNS, NUMPY_DTYPES, IndexedTensor, largest_k
from rsr_formats.validate import check_ranks

from . import _native
from .errors import InputShapeError, InputTypeError, OptionError, OutOfRangeError
from .inputs import kind_of, plain_array
from .matrix import Matrix

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
FloatArray = npt.NDArray[np.float32]
Digits = npt.NDArray[np.uint8]


class MutableMatrix:
    """A copy in memory of a matrix, whose weights and scales can be changed.

    The file and the given matrix stay as they are. A change takes time in proportion to the number
    of weights that change: in encoding ranked each is found and replaced, in encoding permuted each
    column block that they touch is sorted again.

    Several threads may use one at the same time. A product, or the decoding of the matrix, is of
    the state before a change or of the state after it, never of a mixture. Products that begin
    during a change wait for its end. If others still run, or if somebody keeps a `matrix`, the
    change copies the index first.

    After any changes, the index is byte for byte the one that `rsrc compile` makes of the matrix
    with the same encoding, packing, k and stride, so all products are equal bit for bit, too.

    Example:
        w = MutableMatrix(model.matrix("layers.0.mlp.up_proj.weight"))
        rows, columns = np.nonzero(new != old)
        w.update(rows, columns, new[rows, columns])
        y = w @ x
    """

    __array_ufunc__ = None  # so that NumPy does not take it for a scalar in x @ w

    def __init__(self, matrix: Matrix) -> None:
        """Copy a matrix.

        Args:
            matrix: of a loaded model, or the `matrix` of another MutableMatrix.

        Raises:
            InputTypeError: `matrix` is not a Matrix.
            IndexDataError: a rank in its index is invalid.
            ClosedError: its model was closed.
        """
        if not isinstance(matrix, Matrix):
            raise InputTypeError(f"matrix is {kind_of(matrix)}, expected a Matrix")
        matrix.check_open()
        arrays = {part: np.array(array) for part, array in matrix.sections.items()}
        if matrix.encoding == "ranked":
            check_ranks(matrix.record, arrays["ranks"])
        self._rotation = matrix.rotation
        self._lock = Lock()  # held while the arrays change
        self._matrix: Matrix | None = None
        self._readers: list[weakref.ref[Array]] = []
        self._index = _WritableIndex(matrix.record, arrays)
        self._publish()

    @property
    def matrix(self) -> Matrix:
        """The matrix as it is now; later changes leave it as it is.

        It serves for everything else that a `Matrix` can do, such as `linear_all`. While somebody
        keeps it, the next change copies the index.
        """
        matrix = self._matrix
        if matrix is None:  # it is being changed
            with self._lock:
                matrix = self._matrix
        assert matrix is not None
        return matrix

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._index.record.shape

    def update(self, rows: Array, columns: Array, digits: Array) -> bool:
        """Replace weights, all at once. If a weight is given several times, the last one counts.

        Args:
            rows: row of each weight, integers (count,), in any order. Row-major order, as
                `np.nonzero` returns it, is the fastest.
            columns: its column, integers (count,).
            digits: its new value without the scale, integers (count,): -1, 0 or 1 of a ternary
                matrix, in general one of the values that `to_dense(np.int8)` can have.

        Returns:
            Whether the whole matrix was encoded anew. This happens only if it lists its patterns
            (`rsrc inspect` says so), and the list changes: a pattern outside it occurs, or a listed
            one no longer does. If more than 32 patterns occur, `matrix.k` becomes smaller.

        Raises:
            InputTypeError, InputShapeError: an argument is not an integer array (count,), or their
                lengths differ.
            OutOfRangeError: there is no such row or column; it is an IndexError.
            OptionError: the matrix cannot have a weight of such a value.
            MemoryError: there is no memory for a copy.
        """
        record = self._index.record
        arrays = {"rows": rows, "columns": columns, "digits": digits}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
                found = getattr(array, "dtype", type(array).__name__)
                raise InputTypeError(f"{name}: found {found}, expected an array of integers")
            if isinstance(array, np.ma.MaskedArray):  # its minimum is not that of its values
                raise InputTypeError(f"{name}: found a masked array, expected a plain one")
        if rows.ndim != 1 or rows.shape != columns.shape or rows.shape != digits.shape:
            found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputShapeError(f"found {found}, expected three arrays of one length, (count,)")
        # Plain copies, which nobody changes after they are checked: native code relies on that.
        rows, columns, digits = np.array(rows), np.array(columns), np.array(digits)
        for what, numbers, size in zip(
            ("row", "column"), (rows, columns), record.shape, strict=True
        ):
            for number in (int(numbers.min()), int(numbers.max())) if len(numbers) else ():
                if not 0 <= number < size:
                    raise OutOfRangeError(
                        f"{record.name!r}: found {what} {number}, expected 0 to {size - 1}"
                    )
        rows, columns = rows.astype(np.int64, copy=False), columns.astype(np.int64, copy=False)
        codes = _codes(record, digits)
        if not len(codes):
            return False
        with self._changing():
            if self._index.replace(rows, columns, codes):
                return False
            self._index = self._index.encoded_anew(rows, columns, codes)
            return True

    def update_scales(self, scale: FloatArray) -> None:
        """Replace all scales at once.

        Args:
            scale: float32, in the shape of `matrix.scale`: () if there is one, (out_features,) if
                each row has one, (out_features, groups) if each group of columns in a row has one.

        Raises:
            InputTypeError, InputShapeError: `scale` has another dtype or shape.
            OptionError: the matrix has no scales, a scale is not finite, rows that share a scale
                are given different ones, or scales are stored as float16, which cannot represent
                one.
            MemoryError: there is no memory for a copy.
        """
        record = self._index.record
        if isinstance(scale, np.float32):
            scale = np.asarray(scale)
        scale = plain_array("scale", scale, [np.float32])
        stored = _stored_scales(record, scale)
        with self._changing():
            self._index.arrays["scale"][...] = stored

    def __repr__(self) -> str:
        return f"Mutable{self.matrix!r}"

    def __matmul__(self, x: Array) -> Array:
        """Return W @ x, see `Matrix`."""
        return self.matrix @ x

    def __rmatmul__(self, x: object) -> NoReturn:
        """Refuse x @ w, see `Matrix`."""
        self.matrix.__rmatmul__(x)

    def __array__(self, *arguments: object, **options: object) -> NoReturn:
        """Refuse to become an array, see `Matrix`."""
        self.matrix.__array__()

    def __reduce__(self) -> NoReturn:
        """Refuse `pickle` and `copy`: of two that share the arrays, one would change the other.

        Raises:
            InputTypeError: always.
        """
        raise InputTypeError(
            f"{self._index.record.name!r} is a copy in memory, which cannot be pickled: pickle "
            "w.to_dense(np.int8), or MutableMatrix(w.matrix) makes another copy"
        )

    def matvec(self, x: Array, out: Array | None = None, *, algorithm: str | None = None) -> Array:
        """Return W @ x for one vector, see `Matrix.matvec`."""
        return self.matrix.matvec(x, out, algorithm=algorithm)

    def linear(self, x: Array, activations: str = "float32") -> FloatArray:
        """Return x @ W.T, see `Matrix.linear`."""
        return self.matrix.linear(x, activations)

    def to_dense(self, dtype: npt.DTypeLike = np.float32) -> Array:
        """Return the dense matrix, see `Matrix.to_dense`."""
        return self.matrix.to_dense(dtype)

    def block(self, j: int) -> Block:
        """Return sigma and L of column block `j`, see `Matrix.block`."""
        return self.matrix.block(j)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Withdraw the matrix, so that the arrays have no readers, and publish it again."""
        with self._lock:
            self._matrix = None
            try:
                if any(array() is not None for array in self._readers):
                    self._index.copy()
                yield
            finally:
                self._publish()

    def _publish(self) -> None:
        """Make a matrix of the arrays. Whoever reads it keeps one of `_readers` alive."""
        index = self._index
        # A view of an array of NumPy refers to the array that owns the memory. These own it, for
        # NumPy, so every view that a reader makes of one, in a kernel or elsewhere, refers to it.
        arrays = {p: np.asarray(a.data.toreadonly()) for p, a in index.arrays.items()}
        self._readers = [weakref.ref(array) for array in arrays.values()]
        self._matrix = Matrix(index.record, lambda: arrays, lambda: False, rotation=self._rotation)


class _Changes(NamedTuple):
    """Digits to replace in the indexed matrix, as the native functions take them."""

    rows: npt.NDArray[np.uint32]
    blocks: npt.NDArray[np.uint32]
    weights: npt.NDArray[np.uint16]
    digits: Digits

    def sorted_by(self, key: npt.NDArray[np.unsignedinteger[Any]]) -> _Changes:
        """Return them in the order of their keys; those with one key stay in order."""
        if (key[1:] >= key[:-1]).all():
            return self
        order = np.argsort(key, kind="stable")
        rows, blocks, weights, digits = self
        return _Changes(rows[order], blocks[order], weights[order], digits[order])


class _WritableIndex:
    """The arrays of an index, and how digits are replaced in them."""

    def __init__(self, record: IndexedTensor, arrays: Arrays) -> None:
        self.record = record
        self.arrays = arrays

    def copy(self) -> None:
        """Replace the arrays by copies."""
        self.arrays = {part: array.copy() for part, array in self.arrays.items()}

    def replace(self, rows: Array, columns: Array, digits: Digits) -> bool:
        """Replace digits of W; return False if it must be encoded anew, as its list changes."""
        t = self.record
        changes = self._changes(rows, columns, digits)
        if t.encoding == "permuted":
            changes = changes.sorted_by(changes.blocks)
            permutation, segments = self.arrays["permutation"], self.arrays["segments"]
            _native.set_digits_permuted(permutation, segments, t.base, *changes)
            return True
        ranks = self.arrays["ranks"]
        if t.packing == "n4s1":
            at = n4s1_places(t.blocks, t.unit_blocks)
            magnitudes, signs = at.magnitudes.astype(np.uint32), at.signs.astype(np.uint32)
            places = at.places.astype(np.uint8)
            row_bytes = n4s1_bytes(t.blocks, t.unit_blocks)
            _native.set_digits_n4s1(ranks, row_bytes, magnitudes, signs, places, *changes)
            return True
        word_columns = w16_words(t.blocks)
        if t.pattern_list is None:
            return _native.set_digits_w16(ranks, word_columns, t.base, *changes)
        cells = changes.rows.astype(np.uint64) * np.uint64(t.blocks) + changes.blocks
        numbers = (pattern_digits(t.base, t.k, t.pattern_list) @ _weights(t)).astype(np.uint8)
        occurrences = self._occurrences
        changes = changes.sorted_by(cells)
        return _native.set_digits_w16(
            ranks, word_columns, t.base, *changes, numbers, occurrences
        ) and bool(occurrences.all())

    def encoded_anew(self, rows: Array, columns: Array, digits: Digits) -> _WritableIndex:
        """Return the index, in packing w16, after digits of W are replaced.

        Its patterns are listed if at most 32 occur. Otherwise k may be smaller, and has no stride.
        """
        t = self.record
        W = decode_digits(t, self.arrays)
        W[rows, columns] = digits
        numbers = _pattern_numbers(t, W)
        seen = np.unique(numbers)
        listed = None
        if len(seen) <= MAX_RANKED_PATTERNS and len(seen) < t.base**t.k:
            listed = pattern_digits(t.base, t.k)[seen].tobytes()
            ranks = listed_ranks(numbers, t.base, t.k, listed)
            t = replace(t, pattern_list=listed)
        else:
            t = replace(t, pattern_list=None, stride=1, k=min(t.k, largest_k(t.base, "ranked")))
            ranks = _pattern_numbers(t, W)
        packed = pack_w16(ranks, padding_rank(t.digits, t.k, listed))
        return _WritableIndex(t, {"ranks": packed, "scale": self.arrays["scale"]})

    def _changes(self, rows: Array, columns: Array, digits: Digits) -> _Changes:
        if self.record.direction == "reduce":
            rows, columns = columns, rows
        blocks, weights = self._places
        return _Changes(rows.astype(np.uint32), blocks[columns], weights[columns], digits)

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
        """The block of each column, and the weight of its digit in the number of a pattern."""
        t = self.record
        places = column_places(t.columns, t.k, t.stride, t.group_columns)
        return places.blocks, _weights(t)[places.digits]

    @cached_property
    def _occurrences(self) -> npt.NDArray[np.int64]:
        """How often each listed pattern occurs."""
        t = self.record
        counts = np.zeros(t.patterns, np.int64)
        for j in range(t.blocks):
            ranks = unpack_w16(self.arrays["ranks"], t.rows, t.blocks, j)
            counts += np.bincount(ranks, minlength=t.patterns)
        return counts


def _weights(t: IndexedTensor) -> npt.NDArray[np.uint16]:
    """Return what each digit of a pattern counts in its number, the most significant first."""
    weights: npt.NDArray[np.uint16] = (t.base ** np.arange(t.k - 1, -1, -1)).astype(np.uint16)
    return weights


def _pattern_numbers(t: IndexedTensor, W: Digits) -> npt.NDArray[np.uint16]:
    """Return the number of the pattern of each row in each column block, uint16 (blocks, rows)."""
    pad = padding_digit(t.digits)
    places = column_places(t.columns, t.k, t.stride, t.group_columns)
    padded = np.full((t.rows, t.blocks * t.k), pad, np.uint8)
    padded[:, places.blocks * t.k + places.digits] = W
    return ranks_of(padded, t.base, t.k, pad)


def _codes(t: IndexedTensor, values: Array) -> Digits:
    """Return the digits that stand for values."""
    code_of = {value: code for code, value in enumerate(t.digits)}
    low, high = min(t.digits), max(t.digits)
    table = np.array([code_of.get(value, t.base) for value in range(low, high + 1)], np.uint8)
    if ((values >= low) & (values <= high)).all():
        codes = table[values.astype(np.intp) - low]
        if (codes < t.base).all():
            return codes
    wrong = next(int(value) for value in values if int(value) not in code_of)
    *others, last = map(str, t.digits)
    raise OptionError(
        f"{t.name!r}: found digit {wrong}, expected {', '.join(others)} or {last}, without a scale"
    )


def _stored_scales(t: IndexedTensor, scale: FloatArray) -> Array:
    """Return scales as the section stores them; `scale` has the shape of `Matrix.scale`."""
    if t.scale is None:
        raise OptionError(f"{t.name!r} has no scales: a product is of its digits alone")
    expected: tuple[int, ...] = t.shape[:1] if t.scales > 1 else ()
    if t.is_grouped:
        expected = t.shape[0], t.groups
    if scale.shape != expected:
        raise InputShapeError(f"{t.name!r}: scale has shape {scale.shape}, expected {expected}")
    if not np.isfinite(scale).all():
        raise OptionError(f"{t.name!r}: scales must be finite, found NaN or infinity")
    dtype = np.dtype(NUMPY_DTYPES[t.scale.dtype])
    with np.errstate(over="ignore"):
        exact = scale.astype(dtype)
    if (exact != scale).any():
        raise OptionError(
            f"{t.name!r} stores its scales as float16, which cannot represent "
            f"{scale[exact != scale][0]}: round them with "
            "scale.astype(np.float16).astype(np.float32)"
        )
    stored = exact.reshape(-1)
    if expected:
        stored = exact[:: t.scale.rows].T.reshape(-1)
    if (row_scales(t, stored).reshape(expected) != scale).any():
        raise OptionError(
            f"{t.name!r} has one scale for each {t.scale.rows} rows, found different ones"
        )
    return stored
