"""Linear layers of one input, computed together: q, k and v; gate and up; or one alone.

Matrices that exist only as their index multiply by RSR; what stayed dense in the file multiplies as
it lies there. A layer of a BitNet takes activations quantised to int8, row by row, any other
float32: `Inputs` holds the input in whichever forms the layers ask for, so that it is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..matrix import Matrix
from ..products import by_tables, multiply_quantized, multiply_rows
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


class Product:
    """The products of some layers with a number of rows, ready to be made: buffers and calls.

    Calling it makes them. It is prepared once, as looking buffers and kernels up takes longer than
    some of the products.
    """

    def __init__(self, rows: int, inputs: Inputs, outputs: list[FloatArray]) -> None:
        self.rows = rows
        self.inputs = inputs  # to be filled before each call
        self.outputs = outputs  # (rows, out_features) of each layer, or split into heads
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def add(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Make `call(*arguments)` a part of it."""
        self._calls.append((call, arguments))

    def __call__(self) -> list[FloatArray]:
        """Multiply what is in `inputs`; return `outputs`, which later products overwrite."""
        for call, arguments in self._calls:
            call(*arguments)
        return self.outputs


class Linears:
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
        self._product: Product | None = None

    def at(self, rows: int) -> Product:
        """Return the product with so many rows; the last one is kept."""
        if self._product is None or self._product.rows != rows:
            self._product = self._prepare(rows)
        return self._product

    def _prepare(self, rows: int) -> Product:
        x = self._inputs(rows)
        take = self._workspace.take
        y = [take(f"y{i}", rows, layer.out_features) for i, layer in enumerate(self._layers)]
        split = y if self._head_dim is None else [a.reshape(rows, -1, self._head_dim) for a in y]
        product = Product(rows, x, split)
        for takes_int8 in (True, False):
            self._add_matrices(product, takes_int8, y)
        for layer, to in zip(self._layers, y, strict=True):
            if layer.norm is not None or not isinstance(layer.weight, Matrix):
                self._add_other(product, layer, to)
            if layer.bias is not None:
                product.add(np.add, to, layer.bias, to)
        return product

    def _inputs(self, rows: int) -> Inputs:
        take, n = self._workspace.take, self._layers[0].weight.shape[1]
        kinds = {layer.takes_int8 and layer.norm is None for layer in self._layers}
        return Inputs(
            take("floats", rows, n) if False in kinds else None,
            take("q", rows, n, dtype=np.int8) if True in kinds else None,
            take("s", rows, 1) if True in kinds else None,
        )

    def _add_matrices(self, product: Product, takes_int8: bool, y: list[FloatArray]) -> None:
        """Add the products of all matrices of one kind, in as few calls as there can be."""
        matrices, outputs = [], []
        for layer, to in zip(self._layers, y, strict=True):
            weight = layer.weight
            is_plain = layer.norm is None and layer.takes_int8 == takes_int8
            if isinstance(weight, Matrix) and is_plain:
                matrices.append(weight)
                outputs.append(to)
        if matrices:
            _add_indexed(product, matrices, takes_int8, product.inputs, outputs)

    def _add_other(self, product: Product, layer: Linear, y: FloatArray) -> None:
        """Add the product of a layer that is no index, or has an input of its own."""
        x = product.inputs
        if layer.norm is not None:
            x = self._own_inputs(layer, product.rows)
            norm = layer.norm, layer.norm_eps
            product.add(_native.normalize, product.inputs.floats, None, *norm, *x)
        weight = layer.weight
        if isinstance(weight, Dense):
            product.add(_native.multiply_dense, weight.stored, weight.dtype, x.floats, y)
        elif isinstance(weight, Int8Head):
            product.add(_native.multiply_rows_i8, weight.stored, weight.scale, x.q, x.s, y)
        else:
            _add_indexed(product, [weight], layer.takes_int8, x, [y])

    def _own_inputs(self, layer: Linear, rows: int) -> Inputs:
        take, n = self._workspace.take, layer.weight.shape[1]
        if layer.takes_int8:
            return Inputs(None, take("own q", rows, n, dtype=np.int8), take("own s", rows, 1))
        return Inputs(take("own floats", rows, n), None, None)


def _add_indexed(
    product: Product, matrices: list[Matrix], takes_int8: bool, x: Inputs, y: list[FloatArray]
) -> None:
    """Add products with matrices that are indices: those that share tables in one native call."""
    for native, members in by_tables(matrices):
        outputs = [y[i] for i in members]
        permuted = [matrices[i] for i in members]
        if takes_int8 and native:
            product.add(_native.multiply_quantized, native, x.q, x.s, outputs)
        elif takes_int8:
            product.add(multiply_quantized, permuted, x.q, x.s, outputs)
        elif native:
            product.add(_native.multiply_f32, native, x.floats, outputs)
        else:
            product.add(multiply_rows, permuted, x.floats, outputs)
