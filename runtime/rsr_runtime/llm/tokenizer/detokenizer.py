"""Decode tokens one at a time."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Protocol

from .tokenizer import Tokenizer, clean_up


class _Decoding(Protocol):
    def push(self, token_id: int) -> str: ...
    def finish(self) -> str: ...


_BEFORE = 8  # tokens of the preceding text that decide how the first token is written


class StreamingDetokenizer:
    """Decodes tokens one at a time into pieces of text.

    The pieces together are exactly `tokenizer.decode` of all ids, and no piece ends within a
    character. The cost of a token does not depend on the number of tokens before it.

    Args:
        tokenizer: the model's tokenizer.
        skip_special: leave special tokens out.
        after: tokens of a text that this one continues. They decide how the first token is
            written: SentencePiece drops the space before the first word of a text.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special: bool = True, after: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        steps = [step["type"] for step in tokenizer.decoder_steps()]
        before = [token for token in after[-_BEFORE:] if not tokenizer.is_special(token)]
        self._decoding: _Decoding = (
            _ByteDecoding(tokenizer)
            if steps == ["ByteLevel"]
            else _WindowDecoding(tokenizer, before)
        )
        self._cleaning = _Cleaning() if tokenizer.cleans_up else None

    def push(self, token_id: int) -> str:
        """Append a token and return the text that can no longer change, which may be "".

        Raises:
            PromptError: the id is not an integer from 0 to 2^32 - 1.
        """
        if self._skip_special and self._tokenizer.is_special(token_id):
            return ""
        if self._tokenizer.token(token_id) is None:
            return ""
        text = self._decoding.push(token_id)
        return text if self._cleaning is None else self._cleaning.push(text)

    def finish(self) -> str:
        """Return the rest of the text; no token may follow."""
        text = self._decoding.finish()
        return text if self._cleaning is None else self._cleaning.push(text) + self._cleaning.rest()


class _ByteDecoding:
    """Byte-level BPE, in which a token stands for the same bytes next to any others."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        token = self._tokenizer.token(token_id) or ""
        try:
            data = bytes(BYTES[character] for character in token)
        except KeyError:  # an added token, written as text
            data = token.encode()
        return self._utf8.decode(data)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte for each character of a byte-level token (GPT-2's bytes_to_unicode).

    Printable bytes of Latin-1 stand for themselves, the others are numbered from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


BYTES = _byte_alphabet()
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class _WindowDecoding:
    """Any other decoder: decodes a window of the last tokens and returns the new text.

    A decoder may treat the first token differently (SentencePiece drops its space), so the window
    begins with tokens whose text was returned already.
    """

    _MAX_SPACES = 16  # tokens, all spaces, at the start of the window

    def __init__(self, tokenizer: Tokenizer, before: list[int]) -> None:
        self._tokenizer = tokenizer
        kinds = {step["type"] for step in tokenizer.decoder_steps()}
        self._has_byte_tokens = "ByteFallback" in kinds
        self._has_bytes = "ByteLevel" in kinds
        self._window = before
        self._done = len(before)  # tokens of the window whose text was returned
        self._known = self._decode(before)  # the text of those
        self._next = 1  # length of the window at which it is decoded again

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        # A run of byte tokens is UTF-8 only as a whole; another token ends it.
        if self._has_byte_tokens and _BYTE_TOKEN.fullmatch(self._tokenizer.token(token_id) or ""):
            return ""
        if len(self._window) < self._next:
            return ""
        text = self._decode(self._window)
        new = text[len(self._known) :]
        if not new or (self._has_bytes and text.endswith("\N{REPLACEMENT CHARACTER}")):
            # Each try decodes the whole window, so tries get rarer as it grows.
            self._next = len(self._window) + 1 + len(self._window) // 16
            return ""
        later = self._window[self._done :]
        own = self._decode(later)
        if own.strip(" ") or len(self._window) > self._MAX_SPACES:
            self._window, text = later, own
        self._done, self._known, self._next = len(self._window), text, 1
        return new

    def finish(self) -> str:
        return self._decode(self._window)[len(self._known) :]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode_raw(token_ids, skip_special=False)


class _Cleaning:
    """Applies `clean_up` to text that comes in pieces.

    A match is a space and up to three characters, so it can cross the end of a piece only if that
    ends with a space, perhaps followed by some of the characters held back here.
    """

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        text = self._held + text
        done = text.rstrip(" 'nvr")
        self._held = text[len(done) :]
        return clean_up(done)

    def rest(self) -> str:
        return clean_up(self._held)
