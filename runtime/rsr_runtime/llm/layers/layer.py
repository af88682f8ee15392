"""A decoder layer: a mixer and an MLP with their norms, of whatever kinds the config names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..config import Config
from ..layer_settings import LayerSettings
from .attention import Attention
from .declared import Declared, DeclaredFloats, LayerTensors, norm
from .delta_net import DeltaNet
from .experts import Experts
from .mlp import Mlp
from .state import LayerState
from .sublayer import REST, FloatArray, Mixer, Pass, Place, Sublayer

MIXERS: dict[str, type[Mixer]] = {"attention": Attention, "delta_net": DeltaNet}
MLPS: dict[str, type[Sublayer]] = {"mlp": Mlp, "experts": Experts}


def declared(config: Config, settings: LayerSettings) -> Iterator[Declared]:
    """Yield the tensors of a layer, in the order in which a pass runs the linear ones."""
    norms, width = config.architecture.norms, config.hidden_size
    yield from norm(config, norms.before_mixer, width)
    yield from MIXERS[settings.mixer].declared(config, settings)
    yield from norm(config, norms.after_mixer, width)
    yield from norm(config, norms.before_mlp, width)
    yield from MLPS[settings.mlp].declared(config, settings)
    yield from norm(config, norms.after_mlp, width)


def final_norm(config: Config) -> DeclaredFloats:
    """Declare the norm after the last layer, by its name after the decoder's prefix."""
    return next(norm(config, "norm", config.hidden_size))


def state(config: Config, settings: LayerSettings, context: int, dtype: str) -> LayerState:
    """Reserve what a layer remembers of a sequence; see `Mixer.state`."""
    return MIXERS[settings.mixer].state(config, settings, context, dtype)


class DecoderLayer:
    """A layer, ready to be recorded."""

    def __init__(self, place: Place, tensors: LayerTensors) -> None:
        """Prepare its sublayers.

        Args:
            place: where in a decoder the layer is.
            tensors: those that `declared` names.
        """
        norms = place.config.architecture.norms
        self._eps = place.config.rms_norm_eps
        self._factor = np.float32(place.config.residual_factor)
        mixer = MIXERS[place.settings.mixer](place, tensors)
        mlp = MLPS[place.settings.mlp](place, tensors)
        self._sublayers: tuple[tuple[FloatArray | None, Sublayer, FloatArray | None], ...] = (
            (tensors.norm(norms.before_mixer), mixer, tensors.norm(norms.after_mixer)),
            (tensors.norm(norms.before_mlp), mlp, tensors.norm(norms.after_mlp)),
        )

    def record(self, current: Pass, delta: FloatArray | None) -> FloatArray:
        """Add the layer to a pass.

        `normalize` adds the output of one sublayer to the residual stream x before it computes the
        input of the next, so each takes and returns `delta`, which is not yet added to x.
        """
        program = current.program
        for before, sublayer, after in self._sublayers:
            inputs = sublayer.inputs(current.rows)
            program.normalize(REST, current.x, delta, before, self._eps, *inputs)
            delta = sublayer.record(current)
            if after is not None:
                program.normalize(REST, delta, None, after, self._eps, delta, None, None)
            if self._factor != 1:
                program.call(REST, np.multiply, delta, self._factor, delta)
        assert delta is not None
        return delta
