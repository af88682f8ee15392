"""Linear layers of one input, computed together: q, k and v; gate and up; or one alone.

Matrices that exist only as their index multiply by RSR; what stayed dense in the file multiplies as
it lies there. A layer of a BitNet takes activations quantised to int8, row by row, any other
float32: `Inputs` holds the input in whichever forms the layers ask for, so that it is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..matrix import Matrix
from ..products import multiply_quantized, multiply_rows
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
    def nbytes(self) -> int:
        """Bytes a product reads."""
        return self.stored.nbytes


class Int8Head(NamedTuple):
    """Rows of int8 with a float32 scale each: what `rsrc compile --head int8` makes."""

    stored: Int8Array  # (out_features, in_features)
    scale: FloatArray  # (out_features,)

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
    takes_int8: bool = False
    bias: FloatArray | None = None  # (out_features,)
    norm: FloatArray | None = None  # (in_features,): an RMS norm inside the layer
    norm_eps: float = 0.0

    @property
    def out_features(self) -> int:
        """Length of y."""
        return self.weight.shape[0]


class Inputs(NamedTuple):
    """The rows that layers multiply by, in the forms they ask for: buffers to be filled."""

    floats: FloatArray | None  # (b, in_features)
    q: Int8Array | None  # (b, in_features): floats ~ q / s
    s: FloatArray | None  # (b, 1)


class Linears:
    """Layers of one input."""

    def __init__(self, layers: Sequence[Linear], workspace: Workspace) -> None:
        """Layers may differ in kind; buffers come from `workspace`."""
        self._layers = tuple(layers)
        self._workspace = workspace
        self._in_features = layers[0].weight.shape[1]
        plain = [layer for layer in layers if layer.norm is None]
        self._int8 = _Matrices.of(self._layers, takes_int8=True)
        self._floats = _Matrices.of(self._layers, takes_int8=False)
        self._others = [
            (place, layer)
            for place, layer in enumerate(layers)
            if place not in self._int8.places and place not in self._floats.places
        ]
        self._needs_int8 = any(layer.takes_int8 for layer in plain)
        self._needs_floats = len(plain) < len(layers) or not all(x.takes_int8 for x in plain)

    def inputs(self, rows: int) -> Inputs:
        """Return the buffers that the next call multiplies by, to be filled before it."""
        take, n = self._workspace.take, self._in_features
        return Inputs(
            take("floats", rows, n) if self._needs_floats else None,
            take("q", rows, n, dtype=np.int8) if self._needs_int8 else None,
            take("s", rows, 1) if self._needs_int8 else None,
        )

    def __call__(self, x: Inputs, rows: int) -> list[FloatArray]:
        """Return y of every layer, (rows, out_features) each, in buffers of later calls too."""
        take = self._workspace.take
        y = [take(f"y{i}", rows, layer.out_features) for i, layer in enumerate(self._layers)]
        if self._int8.matrices:
            outputs = [y[i] for i in self._int8.places]
            multiply_quantized(self._int8.matrices, x.q, x.s, outputs)  # type: ignore[arg-type]
        if self._floats.matrices:
            outputs = [y[i] for i in self._floats.places]
            multiply_rows(self._floats.matrices, x.floats, outputs)  # type: ignore[arg-type]
        for i, layer in self._others:
            self._multiply(layer, x, y[i])
        for i, layer in enumerate(self._layers):
            if layer.bias is not None:
                y[i] += layer.bias
        return y

    def _multiply(self, layer: Linear, x: Inputs, y: FloatArray) -> None:
        """Multiply by what is no index, or has an input of its own."""
        if layer.norm is not None:
            x = self._normalized(layer, x.floats)  # type: ignore[arg-type]
        weight = layer.weight
        if isinstance(weight, Dense):
            assert x.floats is not None
            _native.multiply_dense(weight.stored, weight.dtype, x.floats, y)
        elif isinstance(weight, Int8Head):
            assert x.q is not None
            assert x.s is not None
            _native.multiply_rows_i8(weight.stored, weight.scale, x.q, x.s, y)
        elif layer.takes_int8:
            multiply_quantized([weight], x.q, x.s, [y])  # type: ignore[arg-type]
        else:
            multiply_rows([weight], x.floats, [y])  # type: ignore[arg-type]

    def _normalized(self, layer: Linear, floats: FloatArray) -> Inputs:
        take, (rows, n) = self._workspace.take, floats.shape
        if layer.takes_int8:
            x = Inputs(None, take("own q", rows, n, dtype=np.int8), take("own s", rows, 1))
        else:
            x = Inputs(take("own floats", rows, n), None, None)
        _native.normalize(floats, None, layer.norm, layer.norm_eps, *x)
        return x


class _Matrices(NamedTuple):
    """The matrices among layers that are multiplied by one input in one call, and their places."""

    matrices: list[Matrix]
    places: list[int]

    @classmethod
    def of(cls, layers: Sequence[Linear], *, takes_int8: bool) -> _Matrices:
        found = cls([], [])
        for place, layer in enumerate(layers):
            is_one = isinstance(layer.weight, Matrix) and layer.norm is None
            if is_one and layer.takes_int8 == takes_int8:
                found.matrices.append(layer.weight)  # type: ignore[arg-type]
                found.places.append(place)
        return found
