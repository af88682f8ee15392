"""A matrix of two to five values, usually ternary, stored as its RSR index, and its products.

`Matrix` and the two functions for several matrices check their arguments here; the products
themselves are in `products`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import index as as_index
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rsr_formats.decode import (
    Columns,
    apply_scales,
    decode_block,
    decode_digits,
    decode_row,
    dense_windows,
    row_scales,
)
from rsr_formats.packing import Block
from rsr_formats.records import IndexedTensor
from rsr_formats.validate import check_ranks

from . import _native
from .errors import (
    ClosedError,
    InputShapeError,
    InputTypeError,
    OptionError,
    OutOfRangeError,
)
from .inputs import plain_array
from .products import (
    Groups,
    Index,
    multiply,
    multiply_columns,
    multiply_group_quantizing,
    multiply_quantizing,
    native_index,
    share_tables,
)
from .rotation import Rotation

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]

# What loads a matrix again in another process: a function and its arguments.
Origin = tuple[Callable[..., "Matrix"], tuple[Any, ...]]

# The dtype of a product by the dtype of x.
_PRODUCT = {np.dtype(np.float32): np.dtype(np.float32), np.dtype(np.int8): np.dtype(np.int32)}


class Matrix:
    """A matrix W (out_features, in_features) whose entries are digit value * scale.

    `rsr_runtime.load` makes it. Several threads may use one at the same time. The first use of the
    index or the scales checks them, and raises `FormatError` if they are damaged.

    Guarantees of the products:

    * int8 x: int32, unscaled and exact for every value including -128, on every instruction set
      and any number of threads.
    * float32 x: float32, scaled. To first order |error| <= n 2^-24 |scale| sum|x_i| D against the
      exact result, with n = max(in_features, 3) and D the largest magnitude of a digit, 1 or 2,
      while sum|x_i| D is a finite float32. Scales are
      applied last, to the sum or to the sum of each group of columns, so larger inputs may give
      infinity or NaN. Results are deterministic for a file, an instruction set and the
      vectors that are multiplied at once: one vector of many may have other last bits than alone
      (on AMX, many are multiplied as sums of two bfloat16 numbers each; packing n4s1 on AVX2,
      and both packings on NEON, round a single vector less often).
    * NaN and infinity in x propagate as in a dense product: a zero weight times either is NaN.

    Of a matrix with a `rotation`, W is what is stored, and the model's matrix is another: see
    `Rotation`.

    Attributes:
        rotation: the basis that W is stored in; None if it is the model's.
    """

    __array_ufunc__ = None  # so that NumPy leaves x @ w to __rmatmul__

    def __init__(
        self,
        tensor: IndexedTensor,
        read: Callable[[], dict[str, Array]],
        is_closed: Callable[[], bool],
        origin: Origin | None = None,
        rotation: Rotation | None = None,
    ) -> None:
        self._tensor = tensor
        self._read = read
        self._is_closed = is_closed
        self._origin = origin
        self.rotation = rotation
        self._scale: FloatArray | None = None  # made on first access

    @cached_property
    def sections(self) -> dict[str, Array]:
        """The arrays of `RsrFile.index_arrays`, read-only, for `rsr_runtime.mutable`."""
        return self._read()

    @cached_property
    def index(self) -> Index:
        """What kernels read, for `rsr_runtime.products`."""
        return native_index(self._tensor, self.sections)

    @property
    def record(self) -> IndexedTensor:
        """What the header of the file says of the matrix."""
        return self._tensor

    @cached_property
    def _alone(self) -> Groups:
        return share_tables([self.index])

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self._tensor.name

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._tensor.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """float32, the dtype of the scaled entries and of scaled products."""
        return np.dtype(np.float32)

    @property
    def base(self) -> int:
        """B, the number of digits: 3 if ternary, 2 if binary, 4 or 5 with digits of magnitude 2."""
        return self._tensor.base

    @property
    def k(self) -> int:
        """Columns in a column block."""
        return self._tensor.k

    @property
    def encoding(self) -> str:
        """Either "ranked" or "permuted"."""
        return self._tensor.encoding

    @property
    def packing(self) -> str:
        """Packing of the index: "w16", "n4s1", "u16" or "u32" (formats/SPEC.md)."""
        return self._tensor.packing

    @property
    def layout(self) -> str:
        """Layout of the source tensor (formats/SPEC.md)."""
        return self._tensor.source.layout

    @property
    def direction(self) -> str:
        """Either "expand" (W is indexed) or "reduce" (its transpose is)."""
        return self._tensor.direction

    @property
    def scale(self) -> FloatArray:
        """Float32 scales, read-only.

        Shape () if there is one, (out_features,) if each row has one, (out_features, groups) if
        each group of columns in a row has one.
        """
        if self._scale is None:
            scale = row_scales(self._tensor, self.sections["scale"])
            scale = scale.reshape(()) if scale.shape == (1,) else scale.view()
            scale.flags.writeable = False
            self._scale = scale
        return self._scale

    @property
    def group_columns(self) -> int:
        """Columns that share a scale: fewer than in_features if `scale` has groups."""
        return self._tensor.group_columns if self._tensor.is_grouped else self.shape[1]

    @property
    def step_columns(self) -> int:
        """Columns of x that activations "int8-group" quantize together, see `linear`."""
        return self._tensor.group_columns if self._tensor.is_grouped else _native.STEP_COLUMNS

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays a product reads, as stored: the index and any scales."""
        scaled = self._tensor.scale is not None
        return tuple(a for part, a in self.sections.items() if part != "scale" or scaled)

    def copy(self, allocate: Callable[[int], npt.NDArray[np.uint8]]) -> Matrix:
        """Return a copy in memory from `allocate`; it outlives the model.

        Args:
            allocate: called once per array with its nbytes; returns writable uint8 (nbytes,).
        """
        copies = {}
        for part, array in self.sections.items():
            copies[part] = allocate(array.nbytes).view(array.dtype).reshape(array.shape)
            copies[part][...] = array
        return Matrix(self._tensor, lambda: copies, lambda: False, rotation=self.rotation)

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
            f"{self.encoding} {self.packing}, k={self.k}, {self.bits_per_weight:.2f} bits/weight"
            f"{'' if self.rotation is None else ', in a rotated basis'})"
        )

    def __reduce__(self) -> Origin:
        """Pickle the path of the file and the name: the process that unpickles loads the matrix.

        Raises:
            InputTypeError: the matrix is a copy in memory.
            ClosedError: the model was closed.
        """
        self.check_open()
        if self._origin is None:
            raise InputTypeError(
                f"{self.name!r} is a copy in memory: pickle the matrix of the model instead, which "
                "another process loads from the file"
            )
        return self._origin

    def __array__(self, *arguments: object, **options: object) -> NoReturn:
        """Refuse to become an array.

        Raises:
            InputTypeError: always.
        """
        raise InputTypeError(
            f"{self.name!r} is an index of a matrix, not an array: use w @ x or w.linear(x) to "
            "multiply, and w.to_dense() for the dense matrix"
        )

    def __getitem__(self, key: object) -> NoReturn:
        """Refuse indexing and iteration.

        Raises:
            InputTypeError: always.
        """
        raise InputTypeError(
            f"{self.name!r} cannot be indexed or iterated: use w.rows(numbers) for some rows, "
            "w.to_dense() for all"
        )

    def __len__(self) -> int:
        """Refuse a length, and with it the conversion to tensors of other libraries.

        Raises:
            InputTypeError: always.
        """
        raise InputTypeError(
            f"{self.name!r} has no len(): use w.shape for its shape, and w.to_dense() for the "
            "dense matrix, of which torch.from_numpy makes a tensor"
        )

    def __bool__(self) -> bool:
        """Return True: a matrix is not empty."""
        return True

    @property
    def T(self) -> NoReturn:  # noqa: N802 (NumPy's name)
        """Refuse to transpose.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"{self.name!r} cannot be transposed: w.linear(x) computes x @ W.T, and "
            "w.to_dense().T is the dense transpose"
        )

    def __rmatmul__(self, x: object) -> NoReturn:
        """Refuse x @ w.

        Raises:
            InputTypeError: always.
        """
        raise InputTypeError(
            f"x @ w is not supported for {self.name!r}, which is {self.shape[0]}x{self.shape[1]}: "
            "w @ x computes W @ x, w.linear(x) computes x @ W.T, and x @ w.to_dense() multiplies "
            "by the dense matrix"
        )

    def __matmul__(self, x: Array) -> Array:
        """Return W @ x.

        Args:
            x: (in_features,) or (in_features, b); float32 or int8, any memory layout.

        Returns:
            (out_features,) or (out_features, b): float32 and scaled for float32 x, int32, exact
            and unscaled, for int8 x.

        Raises:
            InputTypeError, InputShapeError: x has another dtype or shape.
            ClosedError: the model was closed.
        """
        if not self._is_closed():
            y = self.index.times(x, 2)
            if y is not None:
                return y
        if isinstance(x, np.ndarray) and x.ndim == 1:
            return self.matvec(x)
        return matmul_all([self], x)[0]

    def matvec(self, x: Array, out: Array | None = None, *, algorithm: str | None = None) -> Array:
        """Return W @ x for one vector, as `@` does, into `out` if given.

        Args:
            x: (in_features,), float32 or int8.
            out: (out_features,), C-contiguous; float32 for float32 x, int32 for int8 x.
            algorithm: how step 2 of a permuted product works: "rsr++" (the default) or "rsr" (a
                product with Bin_k), to compare the two.

        Raises:
            InputTypeError, InputShapeError: x or out has another dtype or shape.
            OptionError: the algorithm is unknown, or given for a matrix that is not permuted.
            ClosedError: the model was closed.
        """
        if out is None and algorithm is None and not self._is_closed():
            y = self.index.times(x, 1)
            if y is not None:
                return y
        x, dtype = _checked(x)
        shape = self._tensor.shape
        if x.shape != shape[1:]:
            raise _shape_error(self, x, f"({shape[1]},) or ({shape[1]}, b), the latter for w @ x")
        if out is None:
            out = np.empty(shape[0], dtype)
        else:
            self._check_out(x, out)
        self.check_open()
        if algorithm is not None:
            self._check_algorithm(algorithm)
        multiply(self._alone, _contiguous(x)[None], [out[None]], algorithm != "rsr")
        return out

    def linear(self, x: Array, activations: str = "float32") -> FloatArray:
        """Return x @ W.T: a linear layer without bias.

        Args:
            x: (..., in_features), float32.
            activations: "float32" multiplies x itself. "int8" quantizes each row of x to int8 by
                its largest magnitude, as BitNet b1.58 does (arXiv 2402.17764, section 2):
                q = clip(round_half_even(x * s), -128, 127), s = 127 / max(max|x|, 1e-5). The
                result is (W q) * scale / s with W q in exact integers; if groups of columns have
                scales, their scaled sums are added in float32. NaN or infinity in a row makes its
                result NaN.

                "int8-group" quantizes each row of x by groups of columns, for weights that were not
                trained with int8 activations. The groups are those of the scales, else of 128
                columns. In float32, with m the largest magnitude of a group, step = m / 127 and
                q = round_half_even(x * (127 / m)), which is at most 127 in magnitude; both are 0
                where m < 2^-119. The result is the float32 sum over groups of (scale * step) times
                W q of the group in exact integers. Without scales of groups it may instead be the
                product with q * step that "float32" gives. NaN or infinity in a row makes its
                result NaN.

        Returns:
            (..., out_features), float32, scale applied.

        Raises:
            InputTypeError, InputShapeError: x has another dtype or shape.
            OptionError: `activations` has another value.
            ClosedError: the model was closed.
        """
        if not self._is_closed():
            y = self.index.linear(x, activations)
            if y is not None:
                return y
        return linear_all([self], x, activations)[0]

    def to_dense(self, dtype: npt.DTypeLike = np.float32) -> Array:
        """Return the dense matrix (out_features, in_features), for tests and inspection.

        Args:
            dtype: float32 gives scaled entries, int8 gives unscaled digit values.

        Raises:
            OptionError: `dtype` has another value.
            IndexDataError: a rank in the index exceeds the number of patterns.
            ClosedError: the model was closed.
        """
        try:
            wanted = np.dtype(dtype)
        except TypeError:
            raise OptionError(f"to_dense: found {dtype!r}, expected float32 or int8") from None
        if wanted not in (np.float32, np.int8):
            raise OptionError(f"to_dense: found dtype {wanted}, expected float32 or int8")
        self.check_open()
        if self.encoding == "ranked":
            check_ranks(self._tensor, self.sections["ranks"])
        W = np.array(self._tensor.digits, np.int8)[decode_digits(self._tensor, self.sections)]
        if wanted == np.int8:
            return W
        dense = W.astype(np.float32)
        apply_scales(self._tensor, dense, self.scale)
        return dense

    def windows(self) -> Iterator[tuple[slice, Columns, FloatArray]]:
        """Decode the dense matrix in windows of bounded size, for products with its transpose.

        Yields:
            (rows, columns, values): numbers of rows and columns as NumPy takes them for an index,
            and their entries, float32, scaled. Together the windows cover the matrix once.

        Raises:
            ClosedError: the model was closed.
        """
        self.check_open()
        group = np.arange(self.shape[1]) // max(1, self.group_columns)
        scale = self.scale if self._tensor.is_grouped else self.scale.reshape(-1, 1)
        of_digit = np.array(self._tensor.digits, np.float32)
        for rows, columns, digits in dense_windows(self._tensor, self.sections):
            values = of_digit[digits]
            values *= (scale if len(scale) == 1 else scale[rows])[:, group[columns]]
            yield rows, columns, values

    def rows(self, numbers: npt.NDArray[np.integer[Any]]) -> FloatArray:
        """Return the given rows, float32 (count, in_features), scaled: an embedding lookup.

        Reads only those rows of the index.

        Args:
            numbers: row numbers, integers (count,), in any order.

        Raises:
            OutOfRangeError: a row number is out of range.
            InputTypeError, InputShapeError: `numbers` is not an integer array of shape (count,).
            OptionError: the matrix is permuted, which scatters a row over the whole index.
            ClosedError: the model was closed.
        """
        self.check_open()
        if self.encoding != "ranked":
            raise OptionError(
                f"{self._tensor.name!r} is permuted, so its rows cannot be looked up: "
                "compile it with --encoding ranked"
            )
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "iu":
            found = getattr(numbers, "dtype", type(numbers).__name__)
            fix = ": pass np.array([row])" if isinstance(numbers, int) else ""
            if isinstance(numbers, (list, tuple)) or hasattr(numbers, "__array__"):
                fix = ": pass np.asarray(numbers, np.int64)"
            raise InputTypeError(f"rows: found {found}, expected an array of integers{fix}")
        if numbers.ndim != 1:
            raise InputShapeError(f"rows: found shape {numbers.shape}, expected (count,)")
        for row in (int(numbers.min()), int(numbers.max())) if len(numbers) else ():
            if not 0 <= row < self.shape[0]:
                raise OutOfRangeError(
                    f"{self._tensor.name!r}: found row {row}, expected 0 to {self.shape[0] - 1}"
                )
        W = np.empty((len(numbers), self.shape[1]), np.float32)
        values = np.array(self._tensor.digits, np.float32)
        for i, row in enumerate(numbers):
            W[i] = values[decode_row(self._tensor, self.sections["ranks"], int(row))]
        apply_scales(self._tensor, W, self._scales_of(numbers))
        return W

    def _scales_of(self, numbers: npt.NDArray[np.integer[Any]]) -> FloatArray:
        """Return `scale` of some rows; of groups without those of all rows in float32."""
        if not self._tensor.is_grouped:
            return self.scale if self.scale.size == 1 else self.scale[numbers]
        stored = self.sections["scale"].reshape(self._tensor.groups, -1)
        assert self._tensor.scale is not None
        found: FloatArray = stored[:, numbers // self._tensor.scale.rows].T.astype(np.float32)
        return found

    def block(self, j: int) -> Block:
        """Return the permutation sigma and the segment list L of column block `j`.

        Rows sigma[L[s]] .. sigma[L[s + 1] - 1] of the indexed matrix (W, or its transpose if
        `direction` is "reduce") carry pattern s. Both encodings give the same pair.

        Returns:
            Block(permutation, segments): uint32 (rows,) and uint32 (patterns + 1,). There are
            base^k patterns, or as many as the tensor lists.

        Raises:
            OutOfRangeError: `j` is out of range.
            InputTypeError: `j` is not an integer.
            IndexDataError: a rank in the index exceeds the number of patterns.
            ClosedError: the model was closed.
        """
        try:
            j = as_index(j)
        except TypeError:
            raise InputTypeError(
                f"block: found {type(j).__name__}, expected the number of a column block"
            ) from None
        if not 0 <= j < self.blocks:
            raise OutOfRangeError(
                f"{self._tensor.name!r}: found block {j}, expected 0 to {self.blocks - 1}"
            )
        self.check_open()
        return decode_block(self._tensor, self.sections, j)

    def check_open(self) -> None:
        """Raise ClosedError if the model was closed."""
        if self._is_closed():
            raise ClosedError(f"{self.name!r}: the model it belongs to was closed")

    def _check_algorithm(self, algorithm: str) -> None:
        if algorithm not in ("rsr++", "rsr"):
            raise OptionError(f"algorithm: found {algorithm!r}, expected 'rsr++' or 'rsr'")
        if self.encoding != "permuted":
            raise OptionError(
                f"{self._tensor.name!r} is ranked: algorithms can be compared on a matrix "
                "compiled with --encoding permuted"
            )

    def _check_out(self, x: Array, out: Array) -> None:
        dtype = _PRODUCT[x.dtype]
        if not isinstance(out, np.ndarray) or out.dtype != dtype:
            raise InputTypeError(
                f"out is {getattr(out, 'dtype', type(out).__name__)}, "
                f"expected an array of {dtype} for x of {x.dtype}"
            )
        if out.shape != self.shape[:1]:
            raise InputShapeError(f"out has shape {out.shape}, expected {self.shape[:1]}")
        if not out.flags.carray:
            raise InputShapeError("out must be C-contiguous, aligned and writeable")
        if np.may_share_memory(x, out):
            raise InputShapeError("out must not overlap x")


def matmul_all(matrices: Sequence[Matrix], x: Array) -> list[Array]:
    """Return [w @ x for w in matrices], bit for bit, in one parallel region.

    Ranked matrices with the same k share the tables of partial sums of x.

    Args:
        matrices: at least one, all with the same in_features.
        x: (in_features,) or (in_features, b); float32 or int8, any memory layout.

    Raises:
        OptionError: `matrices` is empty.
        InputTypeError, InputShapeError, ClosedError: as for `w @ x`.
    """
    matrices = _checked_matrices(matrices)
    x, dtype = _checked(x)
    for w in matrices:
        if x.ndim not in (1, 2) or x.shape[0] != w.shape[1]:
            raise _shape_error(w, x, f"({w.shape[1]},) or ({w.shape[1]}, b)")
    groups = share_tables([w.index for w in matrices])
    outputs = [np.empty((w.shape[0], *x.shape[1:]), dtype) for w in matrices]
    if x.ndim == 1:
        multiply(groups, _contiguous(x)[None], [y[None] for y in outputs])
    else:
        multiply_columns(groups, x if x.flags.forc and x.flags.aligned else x.copy(), outputs)
    return outputs


def linear_all(
    matrices: Sequence[Matrix], x: Array, activations: str = "float32"
) -> list[FloatArray]:
    """Return [w.linear(x, activations) for w in matrices], bit for bit, in one parallel region.

    Args:
        matrices: at least one, all with the same in_features.
        x: (..., in_features), float32.
        activations: "float32", "int8" or "int8-group", see `Matrix.linear`.

    Returns:
        (..., out_features) for each matrix, float32, scale applied.

    Raises:
        OptionError: `matrices` is empty, or `activations` has another value.
        InputTypeError, InputShapeError, ClosedError: as for `Matrix.linear`.
    """
    if activations not in ("float32", "int8", "int8-group"):
        raise OptionError(
            f"activations: found {activations!r}, expected 'float32', 'int8' or 'int8-group'"
        )
    matrices = _checked_matrices(matrices)
    x = plain_array("x", x, [np.float32])
    for w in matrices:
        if x.ndim == 0 or x.shape[-1] != w.shape[1]:
            raise _shape_error(w, x, f"(..., {w.shape[1]})")
    count = int(np.prod(x.shape[:-1]))  # reshape cannot infer it if in_features is 0
    rows = _contiguous(x).reshape(count, x.shape[-1])
    outputs = [np.empty((count, w.shape[0]), np.float32) for w in matrices]
    groups = share_tables([w.index for w in matrices])
    if activations == "float32":
        multiply(groups, rows, outputs)
    elif activations == "int8":
        multiply_quantizing(groups, rows, outputs)
    else:
        multiply_group_quantizing(groups, rows, outputs)
    return [y.reshape(*x.shape[:-1], w.shape[0]) for w, y in zip(matrices, outputs, strict=True)]


def _checked_matrices(matrices: object) -> list[Matrix]:
    """Return open matrices as a list."""
    if isinstance(matrices, Matrix):
        raise InputTypeError(f"matrices is the Matrix {matrices.name!r}, expected a list: pass [w]")
    if not isinstance(matrices, Iterable) or isinstance(matrices, (str, bytes, Mapping)):
        found = f"{matrices!r:.80}" if isinstance(matrices, str) else type(matrices).__name__
        raise InputTypeError(f"matrices is {found}, expected a list of Matrix objects")
    checked = []
    for i, w in enumerate(matrices):
        if not isinstance(w, Matrix):
            found = f"{w!r:.80}" if isinstance(w, str) else type(w).__name__
            fix = f": pass model.matrix({found})" if isinstance(w, str) else ""
            if isinstance(getattr(w, "matrix", None), Matrix):
                fix = ": pass its .matrix"
            raise InputTypeError(f"matrices[{i}] is {found}, expected a Matrix{fix}")
        w.check_open()
        checked.append(w)
    if not checked:
        raise OptionError("found no matrices, expected at least one")
    return checked


def _shape_error(w: Matrix, x: Array, expected: str) -> InputShapeError:
    message = f"{w.name!r}: x has shape {x.shape}, expected {expected}"
    if x.ndim == 2 and w.shape[1] in x.shape:
        message += ": pass x.T"
    return InputShapeError(message)


def _checked(x: Any) -> tuple[Array, np.dtype[Any]]:
    """Return x as a plain array of a dtype that products take, and the dtype of a product."""
    dtype = _PRODUCT.get(x.dtype) if type(x) is np.ndarray else None
    if dtype is None:
        x = plain_array("x", x, [np.float32, np.int8])
        dtype = _PRODUCT[x.dtype]
    return x, dtype


def _contiguous(x: Array) -> Array:
    """Return `x`, or a copy of it that is C-contiguous and aligned, as the kernels need it."""
    flags = x.flags
    return x if flags.c_contiguous and flags.aligned else x.copy()
