"""A gated delta net: linear attention whose state has a fixed size (arXiv 2412.06464)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsr_formats.architectures import DeltaNet as Sizes

from ... import _native
from ..config import Config
from ..layer_settings import LayerSettings
from ..linear import LinearGroup, QuantizedInputs
from .declared import Declared, DeclaredFloats, LayerTensors, linear
from .state import LayerState
from .sublayer import ATTENTION, PRODUCTS, REST, FloatArray, Mixer, Pass, Place
from .summed_state import SummedState

LANES = 16  # columns of a head's state that are side by side

_INPUTS = tuple(f"linear_attn.in_proj_{name}" for name in ("qkv", "z", "b", "a"))
_OUTPUT = "linear_attn.out_proj"
_CONVOLUTION = "linear_attn.conv1d.weight"
_DT_BIAS, _A_LOG = "linear_attn.dt_bias", "linear_attn.A_log"
_NORM = "linear_attn.norm.weight"


def _sizes(config: Config) -> Sizes:
    assert config.delta_net is not None
    return config.delta_net


class DeltaState(SummedState):
    """The state of a gated delta net after one sequence, float32, and the last rows before it.

    The arrays are `rows`, (taps - 1, channels), the last inputs of the convolution, and `heads`,
    (value heads, columns / 16, key features, 16): for each head a matrix that maps keys to values,
    with 16 columns side by side. Both are zero before the first token.
    """

    def __init__(self, config: Config) -> None:
        """Reserve the memory; see `Mixer.state`."""
        s = _sizes(config)
        blocks = -(-s.linear_value_head_dim // LANES)
        self.rows: FloatArray = np.zeros((s.linear_conv_kernel_dim - 1, s.channels), np.float32)
        self.heads: FloatArray = np.zeros(
            (s.linear_num_value_heads, blocks, s.linear_key_head_dim, LANES), np.float32
        )
        super().__init__((self.rows, self.heads))

    @property
    def native(self) -> _native.DeltaState:
        """The arrays as the native module takes them."""
        return _native.DeltaState(self.rows, self.heads)


class DeltaNet(Mixer):
    """A convolution over the last rows, and a state that each row changes and reads."""

    def __init__(self, place: Place, tensors: LayerTensors) -> None:
        self._place = place
        self._inputs = LinearGroup([tensors.linear(name) for name in _INPUTS], place.workspace)
        self._output = LinearGroup([tensors.linear(_OUTPUT)], place.workspace)
        self._norm = tensors.floats(_NORM)
        self._weights = _native.DeltaWeights(
            np.ascontiguousarray(tensors.floats(_CONVOLUTION).T),
            -np.exp(tensors.floats(_A_LOG)),
            tensors.floats(_DT_BIAS),
        )

    @staticmethod
    def declared(config: Config, settings: LayerSettings) -> Iterator[Declared]:
        """Yield projections of the input, the convolution, gates, the norm, and the output."""
        s = _sizes(config)
        for name in _INPUTS:
            yield linear(config, name)
        yield DeclaredFloats(_CONVOLUTION, (s.channels, s.linear_conv_kernel_dim))
        yield DeclaredFloats(_DT_BIAS, (s.linear_num_value_heads,))
        yield DeclaredFloats(_A_LOG, (s.linear_num_value_heads,))
        yield DeclaredFloats(_NORM, (s.linear_value_head_dim,))  # multiplies by itself, not 1 + it
        yield linear(config, _OUTPUT)

    @staticmethod
    def state(config: Config, settings: LayerSettings, context: int, dtype: str) -> LayerState:
        """Reserve a state, float32 and of the same size for any context."""
        return DeltaState(config)

    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the inputs of the first projections."""
        return self._inputs.inputs(rows)

    def record(self, current: Pass) -> FloatArray:
        """Add projections, the net itself item by item, and the gated norm of what it returns."""
        c, s, program = self._place.config, _sizes(self._place.config), current.program
        take, number = self._place.workspace.take, self._place.number
        qkv, z, b, a = self._inputs.record(program, PRODUCTS, current.rows, current.adapted)
        mixed = take("attended", current.rows, s.values_width)
        convolved = take("convolved", current.rows, s.channels)
        states = [self._native_state(item.states[number]) for item in current.items]
        for part in current.parts:
            arrays = qkv[part.rows], a[part.rows], b[part.rows]
            program.delta_net(
                ATTENTION,
                *arrays,
                self._weights,
                states[part.item],
                convolved[part.rows],
                mixed[part.rows],
            )
        o = self._output.inputs(current.rows)
        program.norm_gated(REST, mixed, z, self._norm, c.rms_norm_eps, *o)
        return self._output.record(program, PRODUCTS, current.rows, current.adapted)[0]

    @staticmethod
    def _native_state(state: LayerState) -> _native.DeltaState:
        assert isinstance(state, DeltaState)
        return state.native
