"""The forms in which `decompile` writes a model, and `unpack`.

To add a form, write a module with its `export`, list it in `FORMS`, and test it.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import bitnet, floats, int8, source
from .gguf.blocks import TYPES
from .tensors import Form

# The forms in safetensors, by their names on the command line.
FORMS: Mapping[str, Form] = {
    "source": source.export,
    "bitnet": bitnet.export,
    "int8": int8.export,
    "float": floats.export,
}
GGUF = "gguf"
GGUF_TYPES = tuple(TYPES)
NAMES = (*FORMS, GGUF)
