"""Linear layers that share an input: q, k and v; gate and up; or a single one.

Indexed matrices are multiplied by RSR, dense weights as stored in the file. Layers of a BitNet take
activations quantized to int8 row by row, other layers take float32. `QuantizedInputs` holds the
input in each form that the layers of a group need, so that it is quantized once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..dense import DenseTensor
from ..matrix import Matrix
from ..products import PermutedIndex, share_tables

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]

# Ctrl-C waits for a step of a program, so steps are short: about this many products of a weight and
# an activation, which take some 0.1 s of one thread. Fewer rows than these would be slower.
_STEP = 1 << 31
_LEAST_INT8, _LEAST_FLOAT, _LEAST_DENSE = 128, 64, 8


def short_steps(rows: int, products: int, least: int) -> Iterator[slice]:
    """Cut rows into parts of nearly equal length, each of which is a step.

    Args:
        rows: number of rows.
        products: products that a row takes.
        least: rows of a part that may be longer than a step should be.
    """
    parts = -(-rows // max(least, _STEP // max(1, products)))
    for i in range(parts):
        yield slice(rows * i // parts, rows * (i + 1) // parts)


@dataclass(frozen=True)
class Linear:
    """A linear layer: y = x W^T + bias, where a layer with a norm first applies RMS norm to x."""

    name: str
    weight: Matrix | DenseTensor  # (out_features, in_features)
    int8_activations: bool = False
    bias: FloatArray | None = None  # (out_features,)
    norm: FloatArray | None = None  # (in_features,)
    norm_eps: float = 0.0
    row_scale: FloatArray | None = None  # (out_features,), of a dense int8 weight

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays that a product reads."""
        return self.weight.arrays + (() if self.row_scale is None else (self.row_scale,))


class Workspace:
    """Buffers by name, reused from token to token: allocating them takes longer than filling them.

    A name has one buffer, whatever the shape.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, npt.NDArray[np.uint8]] = {}
        self._taken: dict[tuple[Any, ...], npt.NDArray[Any]] = {}

    def take(self, name: str, *shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Return an uninitialized array; it overwrites what the name held before."""
        key = (name, shape, dtype)
        array = self._taken.get(key)
        if array is None:
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            buffer = self._buffers.get(name)
            if buffer is None or buffer.nbytes < nbytes:
                buffer = self._buffers[name] = np.empty(nbytes, np.uint8)
                self._taken = {k: v for k, v in self._taken.items() if k[0] != name}
            array = self._taken[key] = buffer[:nbytes].view(dtype).reshape(shape)
        return array


class QuantizedInputs(NamedTuple):
    """The rows that layers multiply by, in each form that they need."""

    floats: FloatArray | None  # (b, in_features)
    q: Int8Array | None  # (b, in_features), floats ~ q / s
    s: FloatArray | None  # (b, 1)

    def part(self, rows: slice) -> QuantizedInputs:
        """Return views of some rows."""
        return QuantizedInputs(
            None if self.floats is None else self.floats[rows],
            None if self.q is None else self.q[rows],
            None if self.s is None else self.s[rows],
        )

    def for_floats(self) -> FloatArray:
        """The input of the layers of the group that take float32."""
        assert self.floats is not None
        return self.floats

    def for_int8(self) -> tuple[Int8Array, FloatArray]:
        """The input of the layers of the group that take int8."""
        assert self.q is not None
        assert self.s is not None
        return self.q, self.s


class LinearGroup:
    """Linear layers that share an input."""

    def __init__(
        self, layers: Sequence[Linear], workspace: Workspace, head_dim: int | None = None
    ) -> None:
        """Prepare products.

        Args:
            layers: may differ in kind; all have the same in_features.
            workspace: provides the buffers.
            head_dim: if given, outputs are (rows, heads, head_dim), else (rows, out_features).
        """
        self._layers = tuple(layers)
        self._workspace = workspace
        self._head_dim = head_dim

    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the buffers to fill before products with that many rows."""
        int8 = {layer.int8_activations and layer.norm is None for layer in self._layers}
        return self._buffers("", int8, rows, self._layers[0].weight.shape[1])

    def _buffers(self, prefix: str, int8: set[bool], rows: int, columns: int) -> QuantizedInputs:
        take = self._workspace.take
        return QuantizedInputs(
            take(f"{prefix}floats", rows, columns) if False in int8 else None,
            take(f"{prefix}q", rows, columns, dtype=np.int8) if True in int8 else None,
            take(f"{prefix}s", rows, 1) if True in int8 else None,
        )

    def record(self, program: _native.Program, phase: int, rows: int) -> list[FloatArray]:
        """Add the products with `inputs(rows)` to a program.

        Args:
            program: the program.
            phase: the phase their time counts as.
            rows: number of rows.

        Returns:
            A buffer for each layer, (rows, out_features) or (rows, heads, head_dim), which later
            products overwrite.
        """
        x, take = self.inputs(rows), self._workspace.take
        y = [take(f"y{i}", rows, layer.weight.shape[0]) for i, layer in enumerate(self._layers)]
        recorder = _Recorder(program, phase)
        for int8_activations in (True, False):
            indexed = [
                (layer.weight, to)
                for layer, to in zip(self._layers, y, strict=True)
                if layer.int8_activations == int8_activations
                and layer.norm is None
                and isinstance(layer.weight, Matrix)
            ]
            if indexed:
                matrices, outputs = zip(*indexed, strict=True)
                recorder.indexed(matrices, int8_activations, x, outputs)
        for layer, to in zip(self._layers, y, strict=True):
            if layer.norm is not None:
                columns = layer.weight.shape[1]
                normed = self._buffers("normed ", {layer.int8_activations}, rows, columns)
                program.normalize(phase, x.for_floats(), None, layer.norm, layer.norm_eps, *normed)
                recorder.single(layer, normed, to)
            elif not isinstance(layer.weight, Matrix):
                recorder.single(layer, x, to)
            if layer.bias is not None:
                program.call(phase, np.add, to, layer.bias, to)
        return y if self._head_dim is None else [a.reshape(rows, -1, self._head_dim) for a in y]


@dataclass(frozen=True)
class _Recorder:
    """Adds products to a program."""

    program: _native.Program
    phase: int

    def single(self, layer: Linear, x: QuantizedInputs, y: FloatArray) -> None:
        program, phase, weight, scale = self.program, self.phase, layer.weight, layer.row_scale
        if isinstance(weight, Matrix):
            self.indexed([weight], layer.int8_activations, x, [y])
            return
        for rows in short_steps(len(y), math.prod(weight.shape), _LEAST_DENSE):
            part = x.part(rows)
            if scale is not None:
                program.multiply_rows_i8(phase, weight.data, scale, *part.for_int8(), y[rows])
            else:
                program.multiply_dense(phase, weight.data, weight.dtype, part.for_floats(), y[rows])

    def indexed(
        self,
        matrices: Sequence[Matrix],
        int8_activations: bool,
        x: QuantizedInputs,
        y: Sequence[FloatArray],
    ) -> None:
        for group, members in share_tables([w.index for w in matrices]):
            products = sum(math.prod(matrices[i].shape) for i in members)
            least = _LEAST_INT8 if int8_activations else _LEAST_FLOAT
            for rows in short_steps(len(y[0]), products, least):
                outputs = [y[i][rows] for i in members]
                self._multiply(group, int8_activations, x.part(rows), outputs)

    def _multiply(
        self,
        group: list[_native.Ranked] | PermutedIndex,
        int8_activations: bool,
        x: QuantizedInputs,
        outputs: list[FloatArray],
    ) -> None:
        program, phase = self.program, self.phase
        if isinstance(group, PermutedIndex):
            if int8_activations:
                program.call(phase, group.multiply_quantized, *x.for_int8(), *outputs)
            else:
                program.call(phase, group.multiply, x.for_floats(), *outputs)
        elif int8_activations:
            program.multiply_quantized(phase, group, *x.for_int8(), outputs)
        else:
            program.multiply_f32(phase, group, x.for_floats(), outputs)
