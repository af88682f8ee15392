"""What differs between the layers of a decoder, by config.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsr_formats.architectures import Architecture
from rsr_formats.experts import Experts
from rsr_formats.text import quoted, shown

from .errors import ModelError
from .json_object import JsonObject
from .rope import Rope

SLIDING, FULL = "sliding_attention", "full_attention"  # under layer_types
_OLDER_FULL = "attention"  # in older files
_MOST_LAYERS = 100_000  # whose settings are listed; more than any file has


@dataclass(frozen=True)
class LayerSettings:
    """What may differ between the layers of a decoder.

    Attributes:
        mixer: kind of mixer, a key of `layers.layer.MIXERS`.
        mlp: kind of MLP, a key of `layers.layer.MLPS`.
        window: positions that a token attends to, its own included; None: all.
        rope: of queries and keys; None in a layer that does not rotate.
    """

    mixer: str
    mlp: str
    window: int | None = None
    rope: Rope | None = None


def read_layers(
    config: JsonObject,
    architecture: Architecture,
    rope: Rope | None,
    local_rope: Rope | None,
    experts: Experts | None,
) -> tuple[LayerSettings, ...]:
    """Return the settings of the layers: one for each, or a pattern that repeats.

    Args:
        config: the object in config.json.
        architecture: its class.
        rope: the rotation of layers that attend to all positions.
        local_rope: that of layers with a window.
        experts: those of the layers that have experts.

    Raises:
        ModelError: a setting has another type or is out of range, `layer_types` has an unknown
            kind, or a list has too few entries.
    """
    a = architecture
    window, rotates = _window(config, a), _rotating(config, a)
    kinds = _usual_kinds(config, a, window, rotates)
    if (given := _given_kinds(config, a)) is not None:
        full = next((kind for kind in given if kind in (FULL, _OLDER_FULL)), None)
        if kinds == [SLIDING] and full is not None:
            raise ModelError(
                f"config.json: layer_types has {full!r}, but all layers of {a.name} have the "
                "window of sliding_window"
            )
        kinds = given
    single = len(kinds) == len(rotates) == 1 and (experts is None or experts.are_everywhere)
    found = []
    for i in range(1 if single else _layers(config)):
        kind = kinds[i % len(kinds)]
        own_rope = local_rope if kind == SLIDING else rope
        found.append(
            LayerSettings(
                a.mixers[kind],
                a.mlp if experts is None or experts.are_in(i) else "mlp",
                window if kind == SLIDING else None,
                own_rope if rotates[i % len(rotates)] else None,
            )
        )
    return tuple(found)


def _layers(config: JsonObject) -> int:
    return min(config.size("num_hidden_layers"), _MOST_LAYERS)


def _window(config: JsonObject, a: Architecture) -> int | None:
    """Return the window of layers that have one; None: they attend to all positions."""
    if "sliding_window" not in a.own_keys:
        return None
    if "use_sliding_window" in a.own_keys and not config.flag("use_sliding_window", False):
        return None
    found = a.setting(config.values, "sliding_window")
    return None if found is None else config.size("sliding_window", found)


def _rotating(config: JsonObject, a: Architecture) -> Sequence[bool]:
    """Return whether layers rotate queries and keys: for each, or a pattern that repeats."""
    if "no_rope_layers" not in a.own_keys:
        return [True]
    found = config.values.get("no_rope_layers")
    if found is None:
        interval = config.size("no_rope_layer_interval", a.own_keys["no_rope_layer_interval"])
        return [(i + 1) % interval != 0 for i in range(min(interval, _layers(config)))]
    layers = config.size("num_hidden_layers")
    if not isinstance(found, list) or len(found) < layers or any(n not in (0, 1) for n in found):
        have = f"{len(found)} entries" if isinstance(found, list) else shown(found)
        raise ModelError(
            f"config.json: no_rope_layers has {have}, expected 1 or 0 for each of the {layers} "
            "layers: whether it rotates"
        )
    return [n == 1 for n in found]


def _given_kinds(config: JsonObject, a: Architecture) -> list[str] | None:
    """Return `layer_types`, or the pattern that stands for it in a class of several mixers."""
    if a.full_attention_interval is not None:
        config.size("full_attention_interval", a.full_attention_interval)
    kinds = a.layer_types(config.values)
    if kinds is None:
        return None
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
    return kinds


def _usual_kinds(
    config: JsonObject, a: Architecture, window: int | None, rotates: Sequence[bool]
) -> Sequence[str]:
    """Return what stands for `layer_types` in a class of one mixer."""
    if "sliding_window_pattern" in a.own_keys:
        size = config.size("sliding_window_pattern", a.own_keys["sliding_window_pattern"])
        return [SLIDING if (i + 1) % size else FULL for i in range(min(size, _layers(config)))]
    if window is None:
        return [FULL]
    if "max_window_layers" in a.own_keys:
        first = config.count("max_window_layers", a.own_keys["max_window_layers"])
        return [SLIDING if i >= first else FULL for i in range(_layers(config))]
    if "no_rope_layers" in a.own_keys:
        return [FULL if rotating else SLIDING for rotating in rotates]
    return [SLIDING]
