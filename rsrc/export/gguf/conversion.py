"""How a tensor of Hugging Face becomes one of GGUF: values and orders that llama.cpp expects.

`rsrc.source.gguf.open` does the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import Architecture, of_gguf
from rsr_formats.records import FLOAT_DTYPES, IndexedTensor, Tensor

from ...common.errors import ExportError
from ...source.gguf.names import gguf_rows, permuted_heads
from ...source.gguf.tensor import Order
from ...source.gguf.value_heads import ValueHeads
from .settings import GgufSettings

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

_CONVOLUTION = ".conv1d.weight"


@dataclass(frozen=True)
class Conversion:
    """What changes, in this order.

    Attributes:
        value: computes the stored values; None: they stay.
        shape: another shape; None: it stays.
        rows: the source row of each output row; None: rows keep their order.
        columns: the source column of each output column; None: as for rows.
        is_float32: the tensor must be F32, whatever its dtype in the source.
    """

    value: Callable[[Floats], Floats] | None = None
    shape: tuple[int, ...] | None = None
    rows: Indices | None = None
    columns: Indices | None = None
    is_float32: bool = False

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the values of a dense tensor as GGUF has them; float32 if there is a `value`."""
        if self.value is not None:
            with np.errstate(over="ignore"):
                values = self.value(values)
        if self.shape is not None:
            values = values.reshape(self.shape)
        if self.rows is not None:
            values = values[self.rows]
        return values if self.columns is None else values[:, self.columns]


def conversion(t: Tensor, usual: str, name: str, settings: GgufSettings) -> Conversion:
    """Return what changes in a tensor.

    Args:
        t: the tensor.
        usual: its name in a class with a head.
        name: its name in GGUF.
        settings: those of the model.

    Raises:
        ExportError: its shape contradicts config.json, or its dtype its name.
    """
    known = of_gguf(settings.architecture)
    if known is None or 0 in t.shape or not t.shape:
        return Conversion()
    heads = ValueHeads.of_metadata(settings.metadata, f"{settings.architecture}.")
    if heads is None:
        return Conversion(_value(t, usual, known), rows=_of_attention(t, name, settings))
    is_convolution = usual.endswith(_CONVOLUTION) and len(t.shape) == 3
    return Conversion(
        _value(t, usual, known),
        (t.shape[0], t.shape[2]) if is_convolution and t.shape[1] == 1 else None,
        _of_value_heads(t, 0, heads.rows(name)),
        _of_value_heads(t, 1, heads.columns(name)),
        is_convolution,
    )


def _value(t: Tensor, usual: str, known: Architecture) -> Callable[[Floats], Floats] | None:
    is_norm = known.is_zero_centered(usual.removeprefix("model."))
    if not is_norm and not usual.endswith(".A_log"):
        return None
    if isinstance(t, IndexedTensor) or t.dtype not in FLOAT_DTYPES:
        raise ExportError(f"{t.name!r} holds no floats, of which GGUF stores others")
    return _one_more if is_norm else _decay


def _one_more(x: Floats) -> Floats:
    return x + np.float32(1)


def _decay(x: Floats) -> Floats:
    return -np.exp(x)


def _of_attention(t: Tensor, name: str, settings: GgufSettings) -> Indices | None:
    """Return the rows of q_proj or k_proj in llama.cpp's order."""
    architecture, metadata = settings.architecture, settings.metadata
    heads = int(metadata.get(f"{architecture}.attention.head_count", 0))
    kv_heads = int(metadata.get(f"{architecture}.attention.head_count_kv", heads))
    permuted = permuted_heads(name, architecture, heads, kv_heads)
    if permuted is None:
        return None
    if not permuted or t.shape[0] % (2 * permuted):
        raise ExportError(
            f"{t.name!r} has {t.shape[0]} rows, expected a multiple of 2 for each of the "
            f"{permuted} heads in config.json"
        )
    return gguf_rows(t.shape[0], permuted)


def _of_value_heads(t: Tensor, axis: int, order: Order | None) -> Indices | None:
    """Return the rows (axis 0) or columns (1) of a gated delta net in llama.cpp's order."""
    if order is None:
        return None
    if len(t.shape) <= axis or t.shape[axis] != order.total:
        raise ExportError(
            f"{t.name!r} is {list(t.shape)}, but the value heads in config.json need "
            f"{order.total} {'columns' if axis else 'rows'}"
        )
    return order.sources
