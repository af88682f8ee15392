"""The text and the bytes of single tokens, for log-probabilities."""

from __future__ import annotations

import re
from functools import lru_cache

from ..llm.tokenizer import StreamingDetokenizer, Tokenizer
from ..llm.tokenizer.detokenizer import BYTES

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """What single tokens stand for. A token may be a part of a character.

    Args:
        tokenizer: the model's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        steps = {step["type"] for step in tokenizer.decoder_steps()}
        self._has_byte_letters = "ByteLevel" in steps
        self._has_byte_tokens = "ByteFallback" in steps
        # A token as it reads within a text: SentencePiece drops the space of a text's first word.
        self._before = tokenizer.encode("a", special=False)
        self.bytes = lru_cache(maxsize=1 << 16)(self._bytes)

    def text(self, token: int) -> str:
        r"""Return a token's text, or bytes:\xf0 for bytes that are not whole characters."""
        data = self.bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _bytes(self, token: int) -> bytes:
        """Return a token's bytes, those of its name if it is special."""
        name = self._tokenizer.token(token)
        if name is None:
            return b""
        if self._tokenizer.is_special(token):
            return name.encode()
        if self._has_byte_letters:
            try:
                return bytes(BYTES[letter] for letter in name)
            except KeyError:  # an added token, written as text
                return name.encode()
        if self._has_byte_tokens and (match := _BYTE_TOKEN.fullmatch(name)):
            return bytes([int(match[1], 16)])
        stream = StreamingDetokenizer(self._tokenizer, skip_special=False, after=self._before)
        return (stream.push(token) + stream.finish()).encode()
