"""Convert between text and tokens, whole or token by token."""

from .detokenizer import StreamingDetokenizer
from .special_tokens import special_tokens
from .stop_strings import StopStrings
from .tokenizer import Tokenizer

__all__ = ["StopStrings", "StreamingDetokenizer", "Tokenizer", "special_tokens"]
