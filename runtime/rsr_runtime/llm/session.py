"""One sequence of tokens with its cache, and what comes next in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .decoder import ROWS, BatchItem, Decoder
from .kv_cache import KVCache

FloatArray = npt.NDArray[np.float32]


class Session:
    """Tokens whose keys and values are in a cache."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self.cache = cache
        self.tokens: list[int] = []  # what the cache holds

    def follow(self, tokens: Sequence[int]) -> FloatArray:
        """Become `tokens` and return the logits of what comes next, float32 (vocab_size,).

        Only what differs from the tokens that are there is computed. The result is a buffer that
        the decoder's next call overwrites.
        """
        last = None
        for hidden in self.hidden(tokens):
            last = hidden[-1:]
        assert last is not None
        logits: FloatArray = self._decoder.logits(last)[0]
        return logits

    def hidden(self, tokens: Sequence[int]) -> Iterator[FloatArray]:
        """Become `tokens`, and yield the hidden states of what was computed, pass by pass."""
        have = self._common(tokens)
        # Were it interrupted, the cache would hold what `tokens` says, and other things behind it.
        del self.tokens[have:]
        while have < len(tokens):
            part = tokens[have : have + ROWS]
            states = self._decoder.hidden([BatchItem(part, self.cache, have)])
            self.tokens += part
            have += len(part)
            yield states

    def _common(self, tokens: Sequence[int]) -> int:
        """Return how many first tokens are there already; the last one always is to be computed."""
        most = min(len(self.tokens), len(tokens) - 1)
        if self.tokens[:most] == list(tokens[:most]):  # from token to token it always is so
            return most
        return next(i for i in range(most) if self.tokens[i] != tokens[i])


def step(decoder: Decoder, sequences: Sequence[Session], tokens: Sequence[int]) -> FloatArray:
    """Append one token to each sequence, all in one pass.

    Returns:
        The logits of what comes next in each, float32 (sequences, vocab_size): a buffer.
    """
    spans = [
        BatchItem([token], one.cache, len(one.tokens))
        for one, token in zip(sequences, tokens, strict=True)
    ]
    hidden = decoder.hidden(spans)
    for one, token in zip(sequences, tokens, strict=True):
        one.tokens.append(token)
    return decoder.logits(hidden)
