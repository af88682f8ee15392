"""Keys of GGUF metadata. `ARCHITECTURE` has those after `general.architecture` and a dot."""

from __future__ import annotations

from .key import Keys

GENERAL: Keys = {}  # general.*, split.*, quantize.*, ...: whole keys, or prefixes that end with a dot
TOKENIZER: Keys = {}  # tokenizer.*
ARCHITECTURE: Keys = {}
