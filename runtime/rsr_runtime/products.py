"""Products of one input with several indices in one parallel region (q, k and v; gate and up).

`native_index` prepares a tensor of the file for the kernels, `share_tables` groups such indices,
and `multiply` and its variants choose the kernel for each group. They do not check their arguments:
arrays must be C-contiguous, aligned and of matching shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.decode import row_scales
from rsr_formats.packing import pattern_values
from rsr_formats.records import IndexedTensor

from . import _native

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]


class PermutedIndex:
    """A permuted index: permutation and segment list of every column block."""

    step_columns = _native.STEP_COLUMNS  # as of `_native.Ranked`

    def __init__(self, t: IndexedTensor, arrays: Mapping[str, Array]) -> None:
        native = _native.Permuted16 if t.packing == "u16" else _native.Permuted32
        self._rows = t.shape[0]
        self._scale = row_scales(t, arrays["scale"]).reshape(-1)  # (1,) or (out_features,)
        self._native = native(
            arrays["permutation"],
            arrays["segments"],
            t.columns,
            t.k,
            np.array(t.digits, np.int8),
            t.direction == "reduce",
            arrays["scale"].astype(np.float32, copy=False),
            _rows_per_scale(t),
        )

    def multiply(self, x: Array, y: Array, plus_plus: bool = True) -> None:
        """Compute y[i] = W x[i]; see `multiply`."""
        multiply = self._native.multiply_i8 if x.dtype == np.int8 else self._native.multiply_f32
        multiply(x, y, plus_plus)

    def times(self, x: object, most_dimensions: int) -> None:
        """Return None: `_native.Ranked` has products in one call, a permuted index has none."""

    def linear(self, x: object, activations: object) -> None:
        """Return None, as `times`."""

    def multiply_quantized(self, q: Int8Array, s: FloatArray, y: FloatArray) -> None:
        """Compute y[i] = (W q[i]) * scale / s[i], as `Matrix.linear` defines it."""
        sums = np.empty((len(q), self._rows), np.int32)
        self.multiply(q, sums)
        with np.errstate(over="ignore"):  # overflow gives infinity, as a dense product does
            y[:] = sums.astype(np.float32) * self._scale / s

    def multiply_group_quantized(self, q: Int8Array, steps: FloatArray, y: FloatArray) -> None:
        """Compute y[i] = W (q[i] * steps[i]), as `Matrix.linear` defines it."""
        steps = np.repeat(steps, self.step_columns, axis=1)[:, : q.shape[1]]
        with np.errstate(over="ignore"):
            self.multiply(q * steps, y)


Index = _native.Ranked | PermutedIndex
# The indices that one kernel call multiplies by, and their positions in the sequence.
Groups = list[tuple[list[_native.Ranked] | PermutedIndex, list[int]]]


def native_index(t: IndexedTensor, arrays: Mapping[str, Array]) -> Index:
    """Return the index of a tensor for the kernels; it refers to `arrays` and copies no index.

    Args:
        t: the tensor's record.
        arrays: its sections by name: "ranks", or "permutation" and "segments"; and "scale".
    """
    if t.encoding == "permuted":
        return PermutedIndex(t, arrays)
    patterns = pattern_values(t.digits, t.k, t.pattern_list).T.astype(np.int16, order="C")
    index = arrays["ranks"], t.rows, t.columns, patterns
    if t.is_grouped:
        groups = _group_scales(t, arrays["scale"])
        one = np.ones(1, np.float32)
        native: list[Any] = [*index, one, max(1, t.rows), groups, t.group_columns]
    else:
        scale = arrays["scale"].astype(np.float32, copy=False)
        native = [*index, scale, _rows_per_scale(t), None, 0]
    if t.stride != 1:  # which packing n4s1 does not have
        native.append(t.stride)
    return _native.Ranked(*native)


def _rows_per_scale(t: IndexedTensor) -> int:
    return t.scale.rows if t.scale is not None else max(1, t.shape[0])


def _group_scales(t: IndexedTensor, scale: Array) -> Array:
    """Return the bytes of (groups, out_features) scales: a view if every row has its own."""
    assert t.scale is not None
    scales = scale.reshape(t.groups, -1)
    if t.scale.rows != 1:
        scales = np.ascontiguousarray(scales[:, np.arange(t.rows) // t.scale.rows])
    return scales.view(np.uint8)


def quantize_int8(x: FloatArray) -> tuple[Int8Array, FloatArray]:
    """Quantize each row of x, float32 (b, n), by its largest magnitude, as BitNet b1.58 does.

    Returns:
        q, int8 (b, n), and s, float32 (b, 1), with x ~ q / s; s is NaN for a row that is not
        finite.
    """
    q = np.empty(x.shape, np.int8)
    s = np.empty((len(x), 1), np.float32)
    _native.quantize_i8(x, q, s)
    return q, s


def quantize_groups_int8(x: FloatArray, columns: int) -> tuple[Int8Array, FloatArray]:
    """Quantize each row of x, float32 (b, n), by groups of columns; see `Matrix.linear`.

    Returns:
        q, int8 (b, n), and steps, float32 (b, groups), with x ~ q * step; steps are NaN for groups
        that are not finite.
    """
    q = np.empty(x.shape, np.int8)
    steps = np.empty((len(x), -(-x.shape[1] // columns)), np.float32)
    _native.quantize_groups_i8(x, columns, q, steps)
    return q, steps


def share_tables(indices: Sequence[Index]) -> Groups:
    """Group the indices whose products can share tables of partial sums.

    Returns:
        For each group its ranked indices and their positions in `indices`. A permuted index uses
        no tables and is a group by itself.
    """
    if len(indices) == 1:
        index = indices[0]
        return [(index if isinstance(index, PermutedIndex) else [index], [0])]
    groups: Groups = []
    for j, index in enumerate(indices):
        if isinstance(index, PermutedIndex):
            groups.append((index, [j]))
            continue
        for group, members in groups:
            if isinstance(group, list) and group[0].shares_input(index):
                group.append(index)
                members.append(j)
                break
        else:
            groups.append(([index], [j]))
    return groups


def multiply(groups: Groups, x: Array, outputs: Sequence[Array], plus_plus: bool = True) -> None:
    """Compute outputs[j][i] = W[j] x[i] for the rows of x.

    Args:
        groups: the matrices W[j], all with the same in_features, as `share_tables` groups them.
        x: (b, in_features), float32 or int8.
        outputs: (b, out_features) each: float32, scaled, for float32 x; int32, exact and unscaled,
            for int8 x.
        plus_plus: whether permuted products use RSR++ in step 2, or RSR.
    """
    kernel = _native.multiply_i8 if x.dtype.char == "b" else _native.multiply_f32
    for group, members in groups:
        if isinstance(group, PermutedIndex):
            group.multiply(x, outputs[members[0]], plus_plus)
        else:
            # A single group has all members in order; the comprehension would cost 0.2 us.
            kernel(group, x, outputs if len(groups) == 1 else [outputs[j] for j in members])


def multiply_columns(groups: Groups, x: Array, outputs: Sequence[Array]) -> None:
    """Compute outputs[j] = W[j] @ x.

    Args:
        groups: the matrices W[j], all with the same in_features, as `share_tables` groups them.
        x: (in_features, b), float32 or int8, C- or F-contiguous.
        outputs: (out_features, b) each, of dtypes as for `multiply`.
    """
    for group, members in groups:
        if isinstance(group, PermutedIndex):
            y = outputs[members[0]]
            rows = np.empty(y.shape[::-1], y.dtype)
            group.multiply(np.ascontiguousarray(x.T), rows)
            y[...] = rows.T
        else:
            _native.multiply_columns(group, x, [outputs[j] for j in members])


def multiply_quantizing(groups: Groups, x: FloatArray, outputs: Sequence[FloatArray]) -> None:
    """Compute outputs[j][i] = W[j] x[i], x[i] quantized to int8, as `Matrix.linear` defines it.

    Args:
        groups: the matrices W[j], all with the same in_features, as `share_tables` groups them.
        x: float32 (b, in_features).
        outputs: float32 (b, out_features) each.
    """
    for group, members in groups:
        if isinstance(group, PermutedIndex):
            group.multiply_quantized(*quantize_int8(x), outputs[members[0]])
        else:
            _native.multiply_quantizing(group, x, [outputs[j] for j in members])


def multiply_group_quantizing(groups: Groups, x: FloatArray, outputs: Sequence[FloatArray]) -> None:
    """Compute outputs[j][i] = W[j] x[i], x quantized by groups as `Matrix.linear` defines it.

    Args:
        groups: the matrices W[j], all with the same in_features, as `share_tables` groups them.
        x: float32 (b, in_features).
        outputs: float32 (b, out_features) each.
    """
    quantized: dict[int, tuple[Array, FloatArray]] = {}  # by columns of a group
    for group, members in groups:
        if isinstance(group, PermutedIndex):
            columns = group.step_columns
            if columns not in quantized:
                quantized[columns] = quantize_groups_int8(x, columns)
            group.multiply_group_quantized(*quantized[columns], outputs[members[0]])
        else:
            _native.multiply_group_quantizing(group, x, [outputs[j] for j in members])
