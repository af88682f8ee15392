"""Linear layers of one input, computed together: q, k and v; gate and up; or one alone.

Matrices that exist only as their index multiply by RSR; what stayed dense in the file multiplies as
it lies there. A layer of a BitNet takes activations quantized to int8, row by row, any other
float32: `QuantizedInputs` holds the input in whichever forms the layers ask for, so that it is made
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..matrix import Matrix
from ..products import PermutedIndex, share_tables
from .workspace import Workspace

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]

DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16"}  # as stored: as the file names it


@dataclass(frozen=True)
class Dense:
    """A weight that is no index, as it lies in the file: float32, float16 or BF16 as uint16."""

    stored: npt.NDArray[Any]  # (out_features, in_features)

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def dtype(self) -> str:
        """How the file names what is stored."""
        return DTYPES[self.stored.dtype.name]

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays a product reads."""
        return (self.stored,)

    @property
    def nbytes(self) -> int:
        """Bytes a product reads."""
        return self.stored.nbytes


class Int8Head(NamedTuple):
    """Rows of int8 with a float32 scale each: what `rsrc compile --head int8` makes."""

    stored: Int8Array  # (out_features, in_features)
    scale: FloatArray  # (out_features,)

    @property
    def dtype(self) -> str:
        """How the file names what is stored."""
        return "I8"

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays a product reads."""
        return tuple(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes a product reads."""
        return self.stored.nbytes + self.scale.nbytes


@dataclass(frozen=True)
class Linear:
    """y = x W^T + bias, of x or of its norm."""

    name: str
    weight: Matrix | Dense | Int8Head
    int8_activations: bool = False
    bias: FloatArray | None = None  # (out_features,)
    norm: FloatArray | None = None  # (in_features,): an RMS norm inside the layer
    norm_eps: float = 0.0

    @property
    def out_features(self) -> int:
        """Length of y."""
        return self.weight.shape[0]


class QuantizedInputs(NamedTuple):
    """The rows that layers multiply by, in the forms they ask for: buffers to be filled."""

    floats: FloatArray | None  # (b, in_features)
    q: Int8Array | None  # (b, in_features): floats ~ q / s
    s: FloatArray | None  # (b, 1)

    def for_floats(self) -> FloatArray:
        """The input of layers that take float32, which is there if one of them does."""
        assert self.floats is not None
        return self.floats

    def for_int8(self) -> tuple[Int8Array, FloatArray]:
        """The input of layers that take int8, which is there if one of them does."""
        assert self.q is not None
        assert self.s is not None
        return self.q, self.s


class LinearGroup:
    """Layers of one input."""

    def __init__(
        self, layers: Sequence[Linear], workspace: Workspace, head_dim: int | None = None
    ) -> None:
        """Prepare for products.

        Args:
            layers: they may differ in kind.
            workspace: where buffers come from.
            head_dim: outputs are (rows, heads, head_dim); None: (rows, out_features).
        """
        self._layers = tuple(layers)
        self._workspace = workspace
        self._head_dim = head_dim

    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the buffers that are to be filled before products with so many rows."""
        take, n = self._workspace.take, self._layers[0].weight.shape[1]
        kinds = {layer.int8_activations and layer.norm is None for layer in self._layers}
        return QuantizedInputs(
            take("floats", rows, n) if False in kinds else None,
            take("q", rows, n, dtype=np.int8) if True in kinds else None,
            take("s", rows, 1) if True in kinds else None,
        )

    def record(self, program: _native.Program, part: int, rows: int) -> list[FloatArray]:
        """Make the products of what is in `inputs(rows)` a part of a program.

        Args:
            program: what is recorded.
            part: where it adds their time.
            rows: of each product.

        Returns:
            (rows, out_features) of each layer, or split into heads: buffers that later products
            overwrite.
        """
        x, take = self.inputs(rows), self._workspace.take
        y = [take(f"y{i}", rows, layer.out_features) for i, layer in enumerate(self._layers)]
        for int8_activations in (True, False):
            self._record_matrices(program, part, int8_activations, x, y)
        for layer, to in zip(self._layers, y, strict=True):
            if layer.norm is not None or not isinstance(layer.weight, Matrix):
                self._record_other(program, part, layer, x, to)
            if layer.bias is not None:
                program.call(part, np.add, to, layer.bias, to)
        return y if self._head_dim is None else [a.reshape(rows, -1, self._head_dim) for a in y]

    def _record_matrices(
        self,
        program: _native.Program,
        part: int,
        int8_activations: bool,
        x: QuantizedInputs,
        y: list[FloatArray],
    ) -> None:
        """Record the products of all matrices of one kind, in as few calls as there can be."""
        matrices, outputs = [], []
        for layer, to in zip(self._layers, y, strict=True):
            if layer.int8_activations != int8_activations or layer.norm is not None:
                continue
            if isinstance(layer.weight, Matrix):
                matrices.append(layer.weight)
                outputs.append(to)
        if matrices:
            _record_indexed(program, part, int8_activations, matrices, x, outputs)

    def _record_other(
        self, program: _native.Program, part: int, layer: Linear, x: QuantizedInputs, y: FloatArray
    ) -> None:
        """Record the product of a layer that is no index, or has an input of its own."""
        if layer.norm is not None:
            own = self._own_inputs(layer, len(y))
            program.normalize(part, x.for_floats(), None, layer.norm, layer.norm_eps, *own)
            x = own
        weight = layer.weight
        if isinstance(weight, Dense):
            program.multiply_dense(part, weight.stored, weight.dtype, x.for_floats(), y)
        elif isinstance(weight, Int8Head):
            program.multiply_rows_i8(part, weight.stored, weight.scale, *x.for_int8(), y)
        else:
            _record_indexed(program, part, layer.int8_activations, [weight], x, [y])

    def _own_inputs(self, layer: Linear, rows: int) -> QuantizedInputs:
        take, n = self._workspace.take, layer.weight.shape[1]
        if layer.int8_activations:
            return QuantizedInputs(
                None, take("own q", rows, n, dtype=np.int8), take("own s", rows, 1)
            )
        return QuantizedInputs(take("own floats", rows, n), None, None)


def _record_indexed(
    program: _native.Program,
    part: int,
    int8_activations: bool,
    matrices: list[Matrix],
    x: QuantizedInputs,
    y: list[FloatArray],
) -> None:
    """Record products with indices: those that share tables in one native call."""
    for group, members in share_tables([w.index for w in matrices]):
        outputs = [y[i] for i in members]
        if isinstance(group, PermutedIndex):
            if int8_activations:
                program.call(part, group.multiply_quantized, *x.for_int8(), *outputs)
            else:
                program.call(part, group.multiply, x.for_floats(), *outputs)
        elif int8_activations:
            program.multiply_quantized(part, group, *x.for_int8(), outputs)
        else:
            program.multiply_f32(part, group, x.for_floats(), outputs)
