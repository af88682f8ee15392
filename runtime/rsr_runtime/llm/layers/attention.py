"""Attention with grouped queries: its tensors, its keys and values, and its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.pages import available_memory, zeros_in_small_pages

from ... import _native
from ..config import Config
from ..layer_settings import LayerSettings
from ..linear import LinearGroup, QuantizedInputs
from .declared import Declared, LayerTensors, linear, norm
from .fused import split, split_heads
from .state import LayerState
from .sublayer import ATTENTION, PRODUCTS, REST, FloatArray, Mixer, Part, Pass, Place

LANES = 16  # positions in a block of keys; rows of values are padded to a multiple of it
DTYPES = {"float32": np.float32, "float16": np.uint16, "int8": np.int8}  # float16 as bits

_AMPLE = 32  # times the bytes of a cache that may be available to it, if memory is not scarce

_FUSED = "self_attn.qkv_proj"
_SINGLE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_OUTPUT = "self_attn.o_proj"


def _is_scarce(nbytes: int) -> bool:
    """Return whether memory that holds so many bytes should hold only those that are needed."""
    available = available_memory()
    return available is not None and nbytes * _AMPLE > available.nbytes


class KeysAndValues(LayerState):
    """Keys and values of one layer.

    Positions that are kept never change, so a snapshot needs no copy.

    The layout suits attention: keys are (num_key_value_heads, blocks, head_dim, 16), so that one
    load takes a feature of 16 positions; values are (num_key_value_heads, positions, head_dim
    rounded up to 16). In int8, keys and values have a float32 scale for each position of a head.
    All memory is reserved at once; the system provides pages when they are first written. These
    are small where memory is scarce: the first position of every head would take a huge page.

    Attributes:
        arrays: keys, values and, in int8, the scales of both.
    """

    def __init__(self, config: Config, context: int, dtype: str, window: int | None = None) -> None:
        """Reserve the memory; see `Mixer.state`, and `LayerSettings` for the window."""
        self._window = window
        blocks = -(-context // LANES)
        padded = -(-config.head_dim // LANES) * LANES
        heads, positions = config.num_key_value_heads, blocks * LANES
        cells = np.dtype(DTYPES[dtype])
        keys, values = (heads, blocks, config.head_dim, LANES), (heads, positions, padded)
        shapes: list[tuple[tuple[int, ...], npt.DTypeLike]] = [(keys, cells), (values, cells)]
        if dtype == "int8":
            shapes += [((heads, positions), np.float32)] * 2
        bytes_of_all = sum(math.prod(shape) * np.dtype(cell).itemsize for shape, cell in shapes)
        bytes_of_all *= sum(1 for _ in config.layers_of_a_pass)
        make = zeros_in_small_pages if _is_scarce(bytes_of_all) else np.zeros
        self.arrays: tuple[npt.NDArray[Any], ...] = tuple(make(*shape) for shape in shapes)

    def copy_prefix(self, source: LayerState, length: int) -> None:
        """Copy the first `length` positions."""
        for own, cells in zip(self.prefix(length), source.prefix(length), strict=True):
            own[:] = cells

    def prefix(self, length: int) -> list[npt.NDArray[Any]]:
        """Return views whose second dimension has the positions, or blocks of these."""
        blocks = -(-length // LANES)
        return [array[:, : blocks if array.ndim == 4 else length] for array in self.arrays]

    def read_at(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return views of the positions that a token sees, of all heads."""
        reserved = self.arrays[1].shape[1]
        first = 0 if self._window is None else max(0, positions - self._window)
        heads = [
            head.reshape(-1).view(np.uint8)  # contiguous in positions
            for array in self.arrays
            for head in array
        ]
        return [
            head[len(head) * first // reserved : len(head) * positions // reserved]
            for head in heads
        ]


class Attention(Mixer):
    """Attention over the positions before a token and its own, or over a window of these."""

    def __init__(self, place: Place, tensors: LayerTensors) -> None:
        c, a = place.config, place.config.architecture
        self._place = place
        self._is_fused = _FUSED in a.fused
        self._widths = (c.queries_width, c.keys_width, c.keys_width)
        self._has_gate = a.has_output_gate
        names = (_FUSED,) if self._is_fused else _SINGLE
        self._qkv_proj = LinearGroup([tensors.linear(name) for name in names], place.workspace)
        self._o_proj = LinearGroup([tensors.linear(_OUTPUT)], place.workspace)
        self._sub_norm = tensors.norm(a.attn_sub_norm)
        norms = a.qk_norms
        q_norm, k_norm = (
            (None, None)
            if norms is None
            else (tensors.norm(norms.queries), tensors.norm(norms.keys))
        )
        self._row_norms: tuple[FloatArray | None, ...] = (None, None)
        if norms is not None and norms.spans_heads:
            self._row_norms, q_norm, k_norm = (q_norm, k_norm), None, None
        eps, scale = c.rms_norm_eps, c.attention_factor
        self._ropes = [
            _native.Rope(
                cos,
                sin,
                q_norm=q_norm,
                k_norm=k_norm,
                eps=eps,
                scale=scale,
                norms_follow=norms is not None and norms.follow_rope,
            )
            for cos, sin in place.ropes
        ]

    @staticmethod
    def declared(config: Config, settings: LayerSettings) -> Iterator[Declared]:
        """Yield the projections, the norms of queries and keys, and that of a BitNet."""
        a = config.architecture
        for name in (_FUSED,) if _FUSED in a.fused else _SINGLE:
            yield linear(config, name)
        if (norms := a.qk_norms) is not None:
            head, spans = config.head_dim, norms.spans_heads
            yield from norm(config, norms.queries, config.queries_width if spans else head)
            yield from norm(config, norms.keys, config.keys_width if spans else head)
        yield from norm(config, a.attn_sub_norm, config.queries_width)
        yield linear(config, _OUTPUT)

    @staticmethod
    def state(config: Config, settings: LayerSettings, context: int, dtype: str) -> LayerState:
        """Reserve keys and values; see `Mixer.state`."""
        return KeysAndValues(config, context, dtype, settings.window)

    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the input of the projections of queries, keys and values."""
        return self._qkv_proj.inputs(rows)

    def record(self, current: Pass) -> FloatArray:
        """Add the projections, attention of all items, and the output projection."""
        c, program, workspace = self._place.config, current.program, self._place.workspace
        outputs = self._qkv_proj.record(program, PRODUCTS, current.rows, current.adapted)
        if self._is_fused:
            outputs = split(program, workspace, outputs[0], self._widths)
        q, k, v = outputs
        gate = None
        if self._has_gate:
            q, gate = split_heads(program, workspace, q, c.head_dim)
        for rows, weight in zip((q, k), self._row_norms, strict=True):
            if weight is not None:
                program.normalize(REST, rows, None, weight, c.rms_norm_eps, rows, None, None)
        attended = workspace.take("attended", current.rows, c.queries_width)
        self._attend(current, q, k, v, attended)
        o = self._o_proj.inputs(current.rows)
        if gate is None:
            program.normalize(REST, attended, None, self._sub_norm, c.rms_norm_eps, *o)
        else:
            eps = c.rms_norm_eps
            program.gated(REST, gate, attended, "sigmoid", self._sub_norm, eps, *o)
        return self._o_proj.record(program, PRODUCTS, current.rows, current.adapted)[0]

    def _attend(
        self, current: Pass, q: FloatArray, k: FloatArray, v: FloatArray, attended: FloatArray
    ) -> None:
        head_dim, number = self._place.config.head_dim, self._place.number
        caches = [self._cache(item.states[number]) for item in current.items]
        queries, keys, values = (a.reshape(current.rows, -1, head_dim) for a in (q, k, v))
        for part in current.parts:
            current.program.attend(
                ATTENTION,
                queries[part.rows],
                keys[part.rows],
                values[part.rows],
                self._rope(current, part),
                caches[part.item],
                part.start,
                attended[part.rows],
                self._place.settings.window,
            )

    def _rope(self, current: Pass, part: Part) -> _native.Rope:
        return self._ropes[min(current.items[part.item].rope_variant, len(self._ropes) - 1)]

    @staticmethod
    def _cache(state: LayerState) -> _native.KVCache:
        assert isinstance(state, KeysAndValues)
        return _native.KVCache(*state.arrays)
