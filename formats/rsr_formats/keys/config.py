"""Keys of config.json, of its rope_parameters and of its quantization_config."""

from __future__ import annotations

from .key import Keys

CONFIG: Keys = {}
ROPE: Keys = {}
QUANTIZATION: Keys = {}
