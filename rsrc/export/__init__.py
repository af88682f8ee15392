"""What `decompile` writes: the source again, or the same matrices as other software stores them.

A module for each form: add one, list it in `FORMS`, write its test.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import bitnet, floats, int8, source
from .tensors import Form

# Those that safetensors holds, by their name on the command line; GGUF is a file of its own.
FORMS: Mapping[str, Form] = {
    "source": source.export,
    "bitnet": bitnet.export,
    "int8": int8.export,
    "float": floats.export,
}
GGUF = "gguf"
GGUF_TYPES = ("TQ1_0", "TQ2_0")
NAMES = (*FORMS, GGUF)

__all__ = ["FORMS", "GGUF", "GGUF_TYPES", "NAMES"]
