"""A ternary or binary matrix that exists only as its RSR index, and its products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.decode import apply_scales, decode_block, decode_digits, decode_row, row_scales
from rsr_formats.packing import Block, pattern_values
from rsr_formats.records import IndexedTensor
from rsr_formats.validate import check_ranks

from . import _native
from .errors import ClosedError, InputShapeError, InputTypeError, OptionError
from .products import PRODUCTS, contiguous, input_array, linear_all, matmul_all, shape_error

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]

_TABLE = 32  # entries of a lookup table: ranks have five bits


class Matrix:
    """A matrix W [out_features, in_features] with entries digit value * scale.

    Made by `rsr_runtime.load`; several threads may use one at the same time.

    Products and what they promise:

    * int8 vectors: int32, unscaled and exact for every value including -128, on every
      instruction set and number of threads.
    * float32 vectors: float32, scaled; |error| <= n 2^-24 |scale| sum|x_i| against the exact
      result (n = in_features, but at least 3; first order) while sum|x_i| is a finite float32;
      sums, or those of groups with scales of their own, are scaled last, so beyond that they may
      become infinite or NaN. Deterministic for a file, an instruction set and a number of vectors
      (packing n4s1 on AVX2 rounds one vector less often).
    * NaN and infinity in x spread as in a dense product: a zero weight times either is NaN.
    """

    __array_ufunc__ = None  # x @ w is a TypeError here, not an obscure error of NumPy's

    def __init__(
        self, tensor: IndexedTensor, arrays: dict[str, Array], is_closed: Callable[[], bool]
    ) -> None:
        self._tensor = tensor
        self._arrays = arrays
        self._is_closed = is_closed
        self._native = _native_product(tensor, arrays)
        self._scale: FloatArray | None = None  # made when first asked for

    name = property(lambda self: str(self._tensor.name), doc="Name of the tensor.")

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._tensor.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """float32: the data type of the scaled entries and of scaled products."""
        return np.dtype(np.float32)

    @property
    def base(self) -> int:
        """B: 3 for a ternary, 2 for a binary matrix."""
        return self._tensor.base

    @property
    def k(self) -> int:
        """Columns of a column block."""
        return self._tensor.k

    @property
    def encoding(self) -> str:
        """Either "ranked" or "permuted"."""
        return self._tensor.encoding

    @property
    def packing(self) -> str:
        """How the index lies in memory: "w16", "n4s1", "u16" or "u32" (formats/SPEC.md)."""
        return self._tensor.packing

    @property
    def layout(self) -> str:
        """How the source stored it, which is also what it was in its model (formats/SPEC.md)."""
        return self._tensor.source.layout

    @property
    def direction(self) -> str:
        """Either "expand" (W is indexed) or "reduce" (W transposed is)."""
        return self._tensor.direction

    @property
    def scale(self) -> FloatArray:
        """Float32 multipliers, read-only: shape () for one, (out_features,) for one per row.

        (out_features, groups) where groups of columns have their own.
        """
        if self._scale is None:
            scale = row_scales(self._tensor, self._arrays["scale"])
            scale = scale.reshape(()) if scale.shape == (1,) else scale.view()
            scale.flags.writeable = False
            self._scale = scale
        return self._scale

    @property
    def group_columns(self) -> int:
        """Columns that share a scale: in_features unless groups of columns have their own."""
        return self._tensor.group_columns if self._tensor.is_grouped else self.shape[1]

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays a product reads, as they lie in memory: the index and any scales."""
        scaled = self._tensor.scale is not None
        return tuple(a for part, a in self._arrays.items() if part != "scale" or scaled)

    def copy(self, allocate: Callable[[int], npt.NDArray[np.uint8]]) -> Matrix:
        """Return a copy in memory that the caller chooses; closing the model does not close it.

        Args:
            allocate: takes a number of bytes, returns that much writable memory, uint8 (nbytes,);
                called once for each array.
        """
        copies = {}
        for part, array in self._arrays.items():
            copies[part] = allocate(array.nbytes).view(array.dtype).reshape(array.shape)
            copies[part][...] = array
        return Matrix(self._tensor, copies, lambda: False)

    @property
    def nbytes(self) -> int:
        """Bytes a product reads: index and scales."""
        return self._tensor.nbytes

    @property
    def bits_per_weight(self) -> float:
        """`nbytes` in bits per entry of the matrix."""
        return self._tensor.bits_per_weight

    @property
    def blocks(self) -> int:
        """Number of column blocks."""
        return self._tensor.blocks

    def __repr__(self) -> str:
        return (
            f"Matrix({self._tensor.name!r}, {self.shape[0]}x{self.shape[1]}, {self._tensor.kind}, "
            f"{self.encoding} {self.packing}, k={self.k}, {self.bits_per_weight:.2f} bits/weight)"
        )

    def __matmul__(self, x: Array) -> Array:
        """Return W @ x.

        Args:
            x: (in_features,) or (in_features, b); float32 or int8, any memory layout.

        Returns:
            (out_features,) or (out_features, b): float32 scaled for float32, int32 exact and
            unscaled for int8.

        Raises:
            InputTypeError, InputShapeError: x has another dtype or shape.
            ClosedError: the model was closed.
        """
        if isinstance(x, np.ndarray) and x.ndim == 1:
            return self.matvec(x)
        return matmul_all([self], x)[0]

    def matvec(self, x: Array, out: Array | None = None, *, algorithm: str | None = None) -> Array:
        """Return W @ x for one vector, as `@` does, into `out` if given.

        Args:
            x: (in_features,), float32 or int8.
            out: (out_features,), C-contiguous; float32 for float32 x, int32 for int8 x.
            algorithm: how step 2 of a permuted product works: "rsr++" (fold or grow, the default)
                or "rsr" (product with Bin_k), so that the two can be compared.

        Raises:
            InputTypeError, InputShapeError: x or out has another dtype or shape.
            OptionError: an unknown algorithm, or one for a matrix that is not permuted.
            ClosedError: the model was closed.
        """
        x = input_array(x)
        if x.shape != self.shape[1:]:
            raise shape_error(self, x)
        if out is None:
            out = np.empty(self.shape[0], PRODUCTS[x.dtype])
        else:
            self._check_out(x, out)
        self.check_open()
        native = self.ranked
        rows = contiguous(x)[None]
        if native is None:
            self.multiply_permuted(rows, out[None], algorithm)
        elif algorithm is not None:
            raise self._algorithm_error(algorithm)
        elif x.dtype == np.int8:
            _native.multiply_i8([native], rows, [out[None]])
        else:
            _native.multiply_f32([native], rows, [out[None]])
        return out

    def linear(self, x: Array, activations: str = "float32") -> FloatArray:
        """Return x @ W.T: a linear layer without bias.

        Args:
            x: (..., in_features), float32.
            activations: "float32" multiplies x as it is. "int8" quantizes each row to int8 by its
                largest magnitude, as BitNet b1.58 defines it (arXiv 2402.17764, section 2):
                q = clip(round_half_even(x * s), -128, 127), s = 127 / max(max|x|, 1e-5);
                the result is (W q) * scale / s, with W q in exact integers; groups of columns
                with scales of their own give the sum of theirs, in float32. A row with NaN or
                infinity gives NaN.

        Returns:
            (..., out_features), float32, scale applied.

        Raises:
            InputTypeError, InputShapeError: x has another dtype or shape.
            OptionError: another value of `activations`.
            ClosedError: the model was closed.
        """
        return linear_all([self], x, activations)[0]

    def to_dense(self, dtype: npt.DTypeLike = np.float32) -> Array:
        """Return the dense matrix, (out_features, in_features): for tests and inspection.

        Args:
            dtype: float32 gives the entries with the scale applied, int8 the digit values without.

        Raises:
            OptionError: another dtype.
            IndexDataError: the index holds a rank that is no pattern.
            ClosedError: the model was closed.
        """
        if np.dtype(dtype) not in (np.float32, np.int8):
            raise OptionError(f"to_dense: found dtype {np.dtype(dtype)}, expected float32 or int8")
        self.check_open()
        if self.encoding == "ranked":
            check_ranks(self._tensor, self._arrays["ranks"])
        W = np.array(self._tensor.digits, np.int8)[decode_digits(self._tensor, self._arrays)]
        if np.dtype(dtype) == np.int8:
            return W
        dense = W.astype(np.float32)
        apply_scales(self._tensor, dense, self.scale)
        return dense

    def rows(self, numbers: npt.NDArray[np.integer[Any]]) -> FloatArray:
        """Return some rows, (count, in_features), float32 with the scale applied.

        What an embedding looks up. Of a ranked matrix only those rows of the index are read.

        Args:
            numbers: of the rows, (count,), in any order.

        Raises:
            IndexError: there is no such row.
            InputTypeError, InputShapeError: numbers are no array of integers, or not (count,).
            OptionError: the matrix is permuted, so that a row lies scattered over the whole index.
            ClosedError: the model was closed.
        """
        self.check_open()
        if self.encoding != "ranked":
            raise OptionError(
                f"{self._tensor.name!r} is permuted, and has no rows that could be looked up: "
                "compile it with --encoding ranked"
            )
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "iu":
            found = getattr(numbers, "dtype", type(numbers).__name__)
            raise InputTypeError(f"rows: found {found}, expected an array of integers")
        if numbers.ndim != 1:
            raise InputShapeError(f"rows: found shape {numbers.shape}, expected (count,)")
        for row in (int(numbers.min()), int(numbers.max())) if len(numbers) else ():
            if not 0 <= row < self.shape[0]:
                raise IndexError(
                    f"{self._tensor.name!r}: found row {row}, expected 0 to {self.shape[0] - 1}"
                )
        W = np.empty((len(numbers), self.shape[1]), np.float32)
        values = np.array(self._tensor.digits, np.float32)
        for i, row in enumerate(numbers):
            W[i] = values[decode_row(self._tensor, self._arrays["ranks"], int(row))]
        scale = self.scale
        apply_scales(self._tensor, W, scale if scale.size == 1 else scale[numbers])
        return W

    def block(self, j: int) -> Block:
        """Return the permutation sigma and the segment list L of column block `j`.

        Both encodings give the same pair: rows sigma[L[s]] .. sigma[L[s + 1] - 1] of the indexed
        matrix (W, or W transposed for direction "reduce") carry pattern s.

        Returns:
            Block(permutation, segments): uint32 (rows,) and uint32 (patterns + 1,), base^k patterns
            or as many as the tensor lists.

        Raises:
            IndexError: there is no block `j`.
            IndexDataError: the index holds a rank that is no pattern.
            ClosedError: the model was closed.
        """
        if not 0 <= j < self.blocks:
            raise IndexError(f"{self._tensor.name!r}: block {j} of {self.blocks}")
        self.check_open()
        return decode_block(self._tensor, self._arrays, j)

    @property
    def ranked(self) -> _native.Ranked | None:
        """The native index of a ranked matrix, for `products`; None for a permuted one."""
        native = self._native
        return native if isinstance(native, _native.Ranked) else None

    def multiply_permuted(self, x: Array, y: Array, algorithm: str | None = None) -> None:
        """y[i] = W x[i] for a permuted matrix; x (b, in_features), y (b, out_features)."""
        assert not isinstance(self._native, _native.Ranked)
        if algorithm not in (None, "rsr++", "rsr"):
            raise self._algorithm_error(algorithm)
        if x.dtype == np.int8:
            self._native.multiply_i8(x, y, algorithm != "rsr")
        else:
            self._native.multiply_f32(x, y, algorithm != "rsr")

    def check_open(self) -> None:
        """Raise ClosedError if the model was closed."""
        if self._is_closed():
            raise ClosedError(f"{self._tensor.name!r}: the model it belongs to was closed")

    def _algorithm_error(self, algorithm: str) -> OptionError:
        if algorithm not in ("rsr++", "rsr"):
            return OptionError(f"algorithm: found {algorithm!r}, expected 'rsr++' or 'rsr'")
        return OptionError(
            f"{self._tensor.name!r} is ranked: algorithms can be compared on a matrix "
            "compiled with --encoding permuted"
        )

    def _check_out(self, x: Array, out: Array) -> None:
        dtype = PRODUCTS[x.dtype]
        if not isinstance(out, np.ndarray) or out.dtype != dtype:
            raise InputTypeError(
                f"out is {getattr(out, 'dtype', type(out).__name__)}, "
                f"expected an array of {dtype} for x of {x.dtype}"
            )
        if out.shape != self.shape[:1]:
            raise InputShapeError(f"out has shape {out.shape}, expected {self.shape[:1]}")
        if not out.flags.carray:
            raise InputShapeError("out must be contiguous, aligned and writeable")
        if np.may_share_memory(x, out):
            raise InputShapeError("out must not overlap x")


def _scale_rows(t: IndexedTensor) -> int:
    return t.scale.rows if t.scale is not None else max(1, t.shape[0])


def _group_scales(t: IndexedTensor, scale: Array) -> Array:
    """Return the bytes of (groups, out_features) scales: a view where every row has its own."""
    assert t.scale is not None
    scales = scale.reshape(t.groups, -1)
    if t.scale.rows != 1:
        scales = np.ascontiguousarray(scales[:, np.arange(t.rows) // t.scale.rows])
    return scales.view(np.uint8)


def _native_product(
    t: IndexedTensor, arrays: dict[str, Array]
) -> _native.Ranked | _native.Permuted16 | _native.Permuted32:
    scale = arrays["scale"].astype(np.float32, copy=False)
    if t.encoding == "ranked":
        patterns = np.zeros((t.k, _TABLE), np.int16)
        patterns[:, : t.patterns] = pattern_values(t.digits, t.k, t.pattern_list).T
        if t.is_grouped:
            return _native.Ranked(
                arrays["ranks"],
                t.rows,
                t.columns,
                patterns,
                np.ones(1, np.float32),
                max(1, t.rows),
                _group_scales(t, arrays["scale"]),
                t.group_columns,
                t.stride,
            )
        index = arrays["ranks"], t.rows, t.columns, patterns, scale, _scale_rows(t)
        return _native.Ranked(*index) if t.stride == 1 else _native.Ranked(*index, stride=t.stride)
    kind = _native.Permuted16 if t.packing == "u16" else _native.Permuted32
    return kind(
        arrays["permutation"],
        arrays["segments"],
        t.columns,
        t.k,
        np.array(t.digits, np.int8),
        t.direction == "reduce",
        scale,
        _scale_rows(t),
    )
