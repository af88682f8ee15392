"""Keys of generation_config.json."""

from __future__ import annotations

from .key import Keys

GENERATION: Keys = {}
