"""A sequence of tokens whose keys and values are cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .decoder import LOGIT_ROWS, MAX_ROWS, BatchItem, Decoder
from .kv_cache import KVCache

FloatArray = npt.NDArray[np.float32]


class Session:
    """One sequence, which can be extended or replaced; a common prefix is not computed again."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self.cache = cache
        self.tokens: list[int] = []  # tokens whose keys and values are in the cache
        self.variant = 0  # of RoPE, with which the keys were computed

    def follow(self, tokens: Sequence[int]) -> FloatArray:
        """Turn the sequence into `tokens` and return the logits after the last one.

        Returns:
            float32 (vocab_size,): a buffer that the decoder's next call overwrites.
        """
        last = None
        for hidden in self.hidden(tokens):
            last = hidden[-1:]
        assert last is not None
        logits: FloatArray = self._decoder.logits(last)[0]
        return logits

    def hidden(self, tokens: Sequence[int], length: int | None = None) -> Iterator[FloatArray]:
        """Turn the sequence into `tokens`; yield the hidden states that had to be computed.

        Args:
            tokens: the whole sequence.
            length: the length by which RoPE is chosen; None: that of `tokens`.

        Yields:
            float32 (up to `MAX_ROWS`, hidden_size) for each pass: a buffer.
        """
        variant = self._decoder.rope_variant(len(tokens) if length is None else length)
        if variant != self.variant:
            self.tokens.clear()
            self.variant = variant
        have = self._common(tokens)
        del self.tokens[have:]  # first: an interrupted pass overwrites their keys and values
        while have < len(tokens):
            part = tokens[have : have + MAX_ROWS]
            states = self._decoder.hidden([BatchItem(part, self.cache, have, self.variant)])
            self.tokens += part
            have += len(part)
            yield states

    def make_ready(self) -> None:
        """Compute the cached keys anew if one more token makes the sequence take another RoPE."""
        length = len(self.tokens) + 1
        if self._decoder.rope_variant(length) != self.variant:
            for _ in self.hidden(list(self.tokens), length):
                pass

    def logits(self, tokens: Sequence[int]) -> Iterator[FloatArray]:
        """Compute the sequence `tokens` anew; yield the logits after each token.

        Yields:
            float32 (up to `LOGIT_ROWS`, vocab_size): a buffer that the decoder's next call
            overwrites.
        """
        self.tokens.clear()
        for hidden in self.hidden(tokens):
            for first in range(0, len(hidden), LOGIT_ROWS):
                yield self._decoder.logits(hidden[first : first + LOGIT_ROWS])

    def _common(self, tokens: Sequence[int]) -> int:
        """Return the length of the common prefix without the last token, whose state is needed."""
        limit = min(len(self.tokens), len(tokens) - 1)
        if self.tokens[:limit] == list(tokens[:limit]):  # always true while generating
            return limit
        return next(i for i in range(limit) if self.tokens[i] != tokens[i])


def step(decoder: Decoder, sessions: Sequence[Session], tokens: Sequence[int]) -> FloatArray:
    """Append one token to each sequence, all in one pass.

    Returns:
        The logits after each token, float32 (sessions, vocab_size): a buffer.
    """
    for session in sessions:
        session.make_ready()
    batch = [
        BatchItem([token], session.cache, len(session.tokens), session.variant)
        for session, token in zip(sessions, tokens, strict=True)
    ]
    hidden = decoder.hidden(batch)
    for session, token in zip(sessions, tokens, strict=True):
        session.tokens.append(token)
    return decoder.logits(hidden)
