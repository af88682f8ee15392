"""A gated MLP: its tensors and its steps."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import Config
from ..layer_settings import LayerSettings
from ..linear import LinearGroup, QuantizedInputs
from .declared import Declared, LayerTensors, linear, norm
from .fused import split
from .sublayer import PRODUCTS, REST, FloatArray, Pass, Place, Sublayer

_FUSED = "mlp.gate_up_proj"
_SINGLE = ("mlp.gate_proj", "mlp.up_proj")
_DOWN = "mlp.down_proj"


class Mlp(Sublayer):
    """down_proj(activation(gate_proj(x)) * up_proj(x)), with a norm before down_proj in BitNets."""

    def __init__(self, place: Place, tensors: LayerTensors) -> None:
        a, workspace = place.config.architecture, place.workspace
        self._config = place.config
        self._workspace = workspace
        self._is_fused = _FUSED in a.fused
        names = (_FUSED,) if self._is_fused else _SINGLE
        self._gate_up_proj = LinearGroup([tensors.linear(name) for name in names], workspace)
        self._down_proj = LinearGroup([tensors.linear(_DOWN)], workspace)
        self._sub_norm = tensors.norm(a.ffn_sub_norm)

    @staticmethod
    def declared(config: Config, settings: LayerSettings) -> Iterator[Declared]:
        """Yield the projections, and the norm of a BitNet before the last."""
        a = config.architecture
        for name in (_FUSED,) if _FUSED in a.fused else _SINGLE:
            yield linear(config, name)
        yield from norm(config, a.ffn_sub_norm, config.intermediate_size)
        yield linear(config, _DOWN)

    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the input of the projections of gate and up."""
        return self._gate_up_proj.inputs(rows)

    def record(self, current: Pass) -> FloatArray:
        """Add the three projections and the activation."""
        c, program = self._config, current.program
        outputs = self._gate_up_proj.record(program, PRODUCTS, current.rows, current.adapted)
        if self._is_fused:
            outputs = split(program, self._workspace, outputs[0], (c.intermediate_size,) * 2)
        gate, up = outputs
        down = self._down_proj.inputs(current.rows)
        program.gated(REST, gate, up, c.hidden_act, self._sub_norm, c.rms_norm_eps, *down)
        return self._down_proj.record(program, PRODUCTS, current.rows, current.adapted)[0]
