"""A sequence of tokens whose keys and values are cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .decoder import LOGIT_ROWS, MAX_ROWS, BatchItem, Decoder
from .kv_cache import KVCache

Progress = Callable[[int, int], None]
FloatArray = npt.NDArray[np.float32]


class Session:
    """One sequence, which can be extended or replaced; a common prefix is not computed again."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self.cache = cache
        self.tokens: list[int] = []  # tokens whose keys and values are in the cache

    def follow(self, tokens: Sequence[int], progress: Progress | None = None) -> FloatArray:
        """Turn the sequence into `tokens` and return the logits after the last one.

        Args:
            tokens: the sequence.
            progress: called before and after each pass with the number of tokens whose keys and
                values are known, and the number of all.

        Returns:
            float32 (vocab_size,): a buffer that the decoder's next call overwrites.
        """
        if progress is not None:
            progress(self._common(tokens), len(tokens))
        last = None
        for hidden in self.hidden(tokens):
            last = hidden[-1:]
            if progress is not None:
                progress(len(self.tokens), len(tokens))
        assert last is not None
        logits: FloatArray = self._decoder.logits(last)[0]
        return logits

    def hidden(self, tokens: Sequence[int]) -> Iterator[FloatArray]:
        """Turn the sequence into `tokens`; yield the hidden states that had to be computed.

        Yields:
            float32 (up to `MAX_ROWS`, hidden_size) for each pass: a buffer.
        """
        have = self._common(tokens)
        del self.tokens[have:]  # first: an interrupted pass overwrites their keys and values
        while have < len(tokens):
            part = tokens[have : have + MAX_ROWS]
            states = self._decoder.hidden([BatchItem(part, self.cache, have)])
            self.tokens += part
            have += len(part)
            yield states

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
    batch = [
        BatchItem([token], session.cache, len(session.tokens))
        for session, token in zip(sessions, tokens, strict=True)
    ]
    hidden = decoder.hidden(batch)
    for session, token in zip(sessions, tokens, strict=True):
        session.tokens.append(token)
    return decoder.logits(hidden)
