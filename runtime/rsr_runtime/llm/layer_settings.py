"""The kinds of sublayers in each layer of a decoder, by config.json."""

from __future__ import annotations

from dataclasses import dataclass

from rsr_formats.architectures import Architecture
from rsr_formats.text import quoted, shown

from .errors import ModelError
from .json_object import JsonObject
from .rope import Rope


@dataclass(frozen=True)
class LayerSettings:
    """What may differ between the layers of a decoder.

    Attributes:
        mixer: kind of mixer, a key of `layers.layer.MIXERS`.
        mlp: kind of MLP, a key of `layers.layer.MLPS`.
        window: positions that a token attends to, its own included; None: all.
        rope: of queries and keys; None in a mixer that does not rotate.
    """

    mixer: str
    mlp: str
    window: int | None = None
    rope: Rope | None = None


def read_layers(
    config: JsonObject, architecture: Architecture, rope: Rope | None
) -> tuple[LayerSettings, ...]:
    """Return the settings of the layers: one for each, or a pattern that repeats.

    Args:
        config: the object in config.json.
        architecture: its class.
        rope: the rotation of attention.

    Raises:
        ModelError: `layer_types` has an unknown kind, or another number of entries than there are
            layers.
    """
    a, kinds = architecture, architecture.layer_types(config.values)
    if kinds is None:
        return (LayerSettings(next(iter(a.mixers.values())), a.mlp, rope=rope),)
    layers = config.size("num_hidden_layers")
    is_given = config.values.get("layer_types") is not None
    if not isinstance(kinds, list) or (is_given and len(kinds) != layers):
        have = f"{len(kinds)} entries" if isinstance(kinds, list) else shown(kinds)
        raise ModelError(
            f"config.json: layer_types has {have}, expected one for each of the {layers} layers"
        )
    unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in a.mixers]
    if unknown:
        raise ModelError(
            f"config.json: layer_types has {shown(unknown[0])}, which {a.name} does not have; "
            f"known are {quoted(list(a.mixers))}"
        )
    return tuple(LayerSettings(a.mixers[kind], a.mlp, rope=rope) for kind in kinds)
