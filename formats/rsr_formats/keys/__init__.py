"""What every key of config.json, generation_config.json and GGUF metadata means to inference.

Three kinds of keys are known: `USED` ones are read, `HARMLESS` ones change nothing in the text that
a model generates, `UNSUPPORTED` ones would change it and are not implemented. A key outside the
tables is not understood: `review` names it, and refuses it where it may change arithmetic.
"""

from __future__ import annotations

from .key import HARMLESS, UNSUPPORTED, USED, Key
from .review import Review, review, review_tensors

__all__ = ["HARMLESS", "UNSUPPORTED", "USED", "Key", "Review", "review", "review_tensors"]
