"""Linear layers that share an input: q, k and v; gate and up; or a single one.

Indexed matrices are multiplied by RSR, dense weights as stored in the file. Layers of a BitNet take
activations quantized to int8 row by row; other layers take float32, or int8 by groups of columns if
asked to. Layers whose weights are in a rotated basis take a rotated input. An input is rotated and
quantized once for all layers that take it in the same form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..dense import DenseTensor
from ..matrix import Matrix
from ..products import PermutedIndex, share_tables
from ..rotation import Rotation

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


class Form(NamedTuple):
    """How a layer takes its input."""

    rotation: Rotation | None  # the basis of its weights
    group_columns: int | None  # that are quantized together; 0: all of a row; None: none, float32


class LowRank(NamedTuple):
    """What an adapter adds to a linear layer: scale * B (A x), of the input before its norm.

    A and B are float32, float16, or bfloat16 as uint16; sums are float32.
    """

    a: npt.NDArray[Any]  # (rank, in_features)
    b: npt.NDArray[Any]  # (out_features / 16 rounded up, rank, 16): tiles of rows, zero-padded
    scale: float


class Adapted(NamedTuple):
    """Rows of a pass that take the same adapters."""

    rows: slice
    adapters: Sequence[str]  # names; their products are added up


@dataclass(frozen=True)
class Linear:
    """A linear layer: y = x W^T + bias, where a layer with a norm first applies RMS norm to x."""

    name: str
    weight: Matrix | DenseTensor  # (out_features, in_features)
    activations: str = "float32"  # as of `Matrix.linear`; of a dense int8 weight "int8"
    bias: FloatArray | None = None  # (out_features,)
    norm: FloatArray | None = None  # (in_features,)
    norm_eps: float = 0.0
    row_scale: FloatArray | None = None  # (out_features,), of a dense int8 weight
    share: Fraction = Fraction(1)  # of the tokens that take it
    adapters: Mapping[str, LowRank] = field(default_factory=dict)  # by name

    @property
    def group_columns(self) -> int | None:
        """Columns that are quantized together; 0: all of a row; None: the layer takes float32."""
        if self.activations == "int8-group":
            assert isinstance(self.weight, Matrix)
            return self.weight.step_columns
        return 0 if self.activations == "int8" else None

    @property
    def form(self) -> Form:
        """How the layer takes its input."""
        return Form(self.weight.rotation, self.group_columns)

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
    """The rows that layers multiply by, as the last arguments of `_native.normalize`."""

    floats: FloatArray | None  # (b, in_features)
    q: Int8Array | None  # (b, in_features)
    s: FloatArray | None  # (b, 1), floats ~ q / s; with groups (b, groups), floats ~ q * s
    group_columns: int = 0  # that are quantized together; 0: all of a row

    def part(self, rows: slice) -> QuantizedInputs:
        """Return views of some rows."""
        return QuantizedInputs(
            None if self.floats is None else self.floats[rows],
            None if self.q is None else self.q[rows],
            None if self.s is None else self.s[rows],
            self.group_columns,
        )

    def for_floats(self) -> FloatArray:
        """The input of the layers of the group that take float32."""
        assert self.floats is not None
        return self.floats

    def for_int8(self) -> tuple[Int8Array, FloatArray]:
        """The input of the layers of the group that take int8 in this form."""
        assert self.q is not None
        assert self.s is not None
        return self.q, self.s


_FLOATS = Form(None, None)


class LinearGroup:
    """Linear layers that share an input."""

    def __init__(self, layers: Sequence[Linear], workspace: Workspace) -> None:
        """Prepare products.

        Args:
            layers: may differ in kind; all have the same in_features.
            workspace: provides the buffers.
        """
        self._layers = tuple(layers)
        self._workspace = workspace
        # What layers without a norm of their own take, each form once.
        self._forms = [*dict.fromkeys(one.form for one in layers if one.norm is None)]
        # One form is computed together with the input; the others from its floats, which layers
        # with a norm read, too.
        plain = [form for form in self._forms if form.rotation is None]
        self._first = next((form for form in plain if form.group_columns is not None), _FLOATS)
        reads_floats = any(layer.norm is not None or layer.adapters for layer in layers)
        self._takes_floats = reads_floats or any(form != self._first for form in self._forms)
        self._takes_floats = self._takes_floats or self._first == _FLOATS

    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the buffers to fill before products with that many rows."""
        return self._buffers("", self._takes_floats, self._first.group_columns, rows)

    def _buffers(
        self, prefix: str, has_floats: bool, group_columns: int | None, rows: int
    ) -> QuantizedInputs:
        take, columns = self._workspace.take, self._layers[0].weight.shape[1]
        floats = take(f"{prefix}floats", rows, columns) if has_floats else None
        if group_columns is None:
            return QuantizedInputs(floats, None, None)
        groups = -(-columns // group_columns) if group_columns else 1
        q = take(f"{prefix}q", rows, columns, dtype=np.int8)
        return QuantizedInputs(floats, q, take(f"{prefix}s", rows, groups), group_columns)

    def _input_in(self, prefix: str, form: Form, rows: int) -> QuantizedInputs:
        """Return the buffers of one form."""
        return self._buffers(prefix, form.group_columns is None, form.group_columns, rows)

    def record_inputs(
        self, program: _native.Program, phase: int, rows: int
    ) -> dict[Form, QuantizedInputs]:
        """Add the conversion of `inputs(rows)`, and return it in each form that a layer takes."""
        x = self.inputs(rows)
        inputs = {self._first: x, _FLOATS: x}
        for i, form in enumerate(self._forms):
            if form not in inputs:
                inputs[form] = self._input_in(f"{i} ", form, rows)
                _convert(program, phase, x.for_floats(), form, inputs[form])
        return inputs

    def record(
        self, program: _native.Program, phase: int, rows: int, adapted: Sequence[Adapted] = ()
    ) -> list[FloatArray]:
        """Add the products with `inputs(rows)` to a program.

        Args:
            program: the program.
            phase: the phase their time counts as.
            rows: number of rows.
            adapted: which of them take adapters.

        Returns:
            A buffer for each layer, (rows, out_features), which later products overwrite.
        """
        x, take = self.inputs(rows), self._workspace.take
        y = [take(f"y{i}", rows, layer.weight.shape[0]) for i, layer in enumerate(self._layers)]
        recorder = _Recorder(program, phase)
        inputs = self.record_inputs(program, phase, rows)
        for form in self._forms:
            indexed = [
                (layer.weight, to)
                for layer, to in zip(self._layers, y, strict=True)
                if layer.form == form and layer.norm is None and isinstance(layer.weight, Matrix)
            ]
            if indexed:
                matrices, outputs = zip(*indexed, strict=True)
                recorder.indexed(matrices, form.group_columns, inputs[form], outputs)
        for layer, to in zip(self._layers, y, strict=True):
            form = layer.form
            if layer.norm is not None:
                plain = form if form.rotation is None else _FLOATS
                normed = self._input_in("normed ", plain, rows)
                program.normalize(phase, x.for_floats(), None, layer.norm, layer.norm_eps, *normed)
                if form.rotation is not None:
                    floats, normed = normed.for_floats(), self._input_in("rotated ", form, rows)
                    _convert(program, phase, floats, form, normed)
                recorder.single(layer, normed, to)
            elif not isinstance(layer.weight, Matrix):
                recorder.single(layer, inputs[form], to)
            if layer.bias is not None:
                program.call(phase, np.add, to, layer.bias, to)
        for part in adapted:
            for adapter in part.adapters:
                self._adapt(program, phase, adapter, x, y, part.rows)
        return y

    def _adapt(
        self,
        program: _native.Program,
        phase: int,
        adapter: str,
        x: QuantizedInputs,
        y: Sequence[FloatArray],
        rows: slice,
    ) -> None:
        """Add what an adapter adds to some rows of the outputs y."""
        layers = zip(self._layers, y, strict=True)
        found = [(one.adapters[adapter], to) for one, to in layers if adapter in one.adapters]
        if found:
            products, outputs = zip(*found, strict=True)
            floats = x.for_floats()[rows]
            size = len(floats) * sum(len(product.a) for product in products)
            program.add_low_rank(
                phase,
                floats,
                [product.a for product in products],
                [product.b for product in products],
                [product.scale for product in products],
                self._workspace.take("low rank", size),
                [to[rows] for to in outputs],
            )


def _convert(
    program: _native.Program, phase: int, floats: FloatArray, form: Form, to: QuantizedInputs
) -> None:
    """Record the conversion of rows of floats to another form."""
    if form.rotation is None:
        program.normalize(phase, floats, None, None, 0.0, *to)
    else:
        program.rotate(phase, floats, form.rotation.factors, form.rotation.block, *to)


@dataclass(frozen=True)
class _Recorder:
    """Adds products to a program."""

    program: _native.Program
    phase: int

    def single(self, layer: Linear, x: QuantizedInputs, y: FloatArray) -> None:
        program, phase, weight, scale = self.program, self.phase, layer.weight, layer.row_scale
        if isinstance(weight, Matrix):
            self.indexed([weight], layer.form.group_columns, x, [y])
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
        group_columns: int | None,
        x: QuantizedInputs,
        y: Sequence[FloatArray],
    ) -> None:
        for group, members in share_tables([w.index for w in matrices]):
            products = sum(math.prod(matrices[i].shape) for i in members)
            least = _LEAST_FLOAT if group_columns is None else _LEAST_INT8
            for rows in short_steps(len(y[0]), products, least):
                outputs = [y[i][rows] for i in members]
                self._multiply(group, group_columns, x.part(rows), outputs)

    def _multiply(
        self,
        group: list[_native.Ranked] | PermutedIndex,
        group_columns: int | None,
        x: QuantizedInputs,
        outputs: list[FloatArray],
    ) -> None:
        program, phase = self.program, self.phase
        if isinstance(group, PermutedIndex):
            if group_columns is None:
                program.call(phase, group.multiply, x.for_floats(), *outputs)
            elif group_columns == 0:
                program.call(phase, group.multiply_quantized, *x.for_int8(), *outputs)
            else:
                program.call(phase, group.multiply_group_quantized, *x.for_int8(), *outputs)
        elif group_columns is None:
            program.multiply_f32(phase, group, x.for_floats(), outputs)
        elif group_columns == 0:
            program.multiply_quantized(phase, group, *x.for_int8(), outputs)
        else:
            program.multiply_group_quantized(phase, group, *x.for_int8(), outputs)
