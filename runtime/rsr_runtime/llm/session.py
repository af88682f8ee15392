"""Sequences of tokens whose keys and values are cached, and a pool of them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from .decoder import LOGIT_ROWS, MAX_ROWS, Adapters, BatchItem, Decoder
from .errors import ModelError
from .kv_cache import KVCache

Progress = Callable[[int, int], None]
FloatArray = npt.NDArray[np.float32]
_KEPT = 4  # idle sessions of a pool
MOST_DRAFTED = 16  # tokens that a pass may have added and the text has not
_LAST_TOKENS = 16  # of a prompt, which may differ in a longer one that begins with it
_WORTH_KEEPING = 32  # tokens before a position whose state is copied


class Session:
    """One sequence, which can be extended or replaced; a common prefix is not computed again.

    One thread at a time may use it. Several threads may use the sessions of one decoder: each pass
    is a turn of its own.
    """

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self.cache = cache
        self.tokens: list[int] = []  # tokens whose keys and values are in the cache
        self.variant = 0  # of RoPE, with which the keys were computed
        self.adapters: Adapters = ()  # with which keys and values were computed
        self.last_pass = 0, 0.0  # of `follow` or `verify`: tokens, and seconds without waiting

    def __repr__(self) -> str:
        return f"<Session: {len(self.tokens):,} of {self.cache.context:,} positions>"

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            "a session, with its keys and values, cannot be pickled: pickle the model, and give "
            "the tokens to a session of the other process"
        )

    def follow(self, tokens: list[int], progress: Progress | None = None) -> FloatArray:
        """Turn the sequence into `tokens` and return the logits after the last one.

        Args:
            tokens: the sequence.
            progress: called before and after each pass with the number of tokens whose keys and
                values are known, and the number of all.

        Returns:
            float32 (vocab_size,).
        """
        have = self._begin(tokens, len(tokens))
        if progress is not None:
            progress(have, len(tokens))
        while True:
            with self._decoder.turn(), self._timed():
                rows = self.cache.until_planned(MAX_ROWS)
                hidden = self._extend(tokens[have : have + rows])
                have = len(self.tokens)
                if have == len(tokens):
                    logits: FloatArray = self._decoder.logits(hidden[-1:])[0].copy()  # of a buffer
            if progress is not None:
                progress(have, len(tokens))
            if have == len(tokens):
                return logits

    def verify(self, tokens: list[int], draft: list[int]) -> FloatArray:
        """Turn the sequence into `tokens` and `draft`, in one pass if it is short.

        What follows may keep the draft, or a part of it, or drop it.

        Args:
            tokens: the sequence.
            draft: further tokens. A part of them is not computed if it reaches beyond the context
                or changes RoPE for the tokens before it.

        Returns:
            The logits after the last of `tokens` and after each computed token of the draft,
            float32 (1 to 1 + len(draft), vocab_size).
        """
        rope_variant, length = self._decoder.rope_variant, len(tokens)
        draft = draft[: self.cache.context - length]
        while draft and rope_variant(length + len(draft)) != rope_variant(length):
            del draft[-1]
        # A summed state goes back to before the last draft, and repeats what was accepted of it.
        again = tokens[self._begin(tokens, length) :]
        if len(again) > MOST_DRAFTED or not draft:
            return self.follow(tokens)[None]
        with self._decoder.turn(), self._timed():
            hidden = self._extend([*again, *draft])
            return self._decoder.logits(hidden[len(again) - 1 :]).copy()  # of a buffer

    @contextmanager
    def _timed(self) -> Iterator[None]:
        before, start = len(self.tokens), perf_counter()
        yield
        self.last_pass = len(self.tokens) - before, perf_counter() - start

    def use(self, adapters: Adapters) -> None:
        """Compute what follows with these adapters; forget all tokens if they were others."""
        if adapters != self.adapters:
            self.clear()
            self.adapters = adapters

    def clear(self) -> None:
        """Forget all tokens."""
        self._truncate(0)

    def missing(self, tokens: list[int]) -> int:
        """Keep what the sequence shares with `tokens`; return how many of them it lacks then.

        It lacks the last one at least, whose state is needed, and all if they take another RoPE.
        """
        if (
            len(self.tokens) == len(tokens) - 1
            and self.tokens[-MOST_DRAFTED:] == tokens[-1 - MOST_DRAFTED : -1]
            and self.cache.kept(len(self.tokens)) == len(self.tokens)
            and self._has_rope_of(len(tokens))
        ):
            return 1  # a text that grows: its beginning is the same, but for a draft
        return len(tokens) - self._begin(tokens, len(tokens))

    def _has_rope_of(self, length: int) -> bool:
        return self._decoder.rope_variant(length) == self.variant

    def logits(self, tokens: list[int]) -> Iterator[FloatArray]:
        """Compute the sequence `tokens` anew; yield the logits after each token.

        The decoder's turn lasts while the results of a pass are yielded.

        Yields:
            float32 (up to `LOGIT_ROWS`, vocab_size): a buffer that is overwritten for the next.
        """
        self.clear()
        self._begin(tokens, len(tokens))
        while len(self.tokens) < len(tokens):
            with self._decoder.turn():
                hidden = self._extend(tokens[len(self.tokens) : len(self.tokens) + MAX_ROWS])
                for first in range(0, len(hidden), LOGIT_ROWS):
                    yield self._decoder.logits(hidden[first : first + LOGIT_ROWS])

    def _begin(self, tokens: list[int], length: int) -> int:
        """Keep what the sequence shares with `tokens`, and return its length.

        `length` decides which RoPE the sequence takes.
        """
        variant = self._decoder.rope_variant(length)
        if variant != self.variant:
            self._truncate(0)
            self.variant = variant
        shared = self._shared(tokens)
        self._truncate(shared)  # first: an interrupted pass overwrites keys and values
        have = len(self.tokens)
        # Texts may begin alike: up to where this one left another, or to the end of its prompt, of
        # which a template may replace the last few tokens.
        for position in (shared, len(tokens) - _LAST_TOKENS):
            if position - have >= _WORTH_KEEPING:
                self.cache.plan(position)
        return have

    def _truncate(self, length: int) -> None:
        del self.tokens[self.cache.truncate(length) :]

    def _extend(self, tokens: list[int]) -> FloatArray:
        """Append tokens in one pass, and return their hidden states, a buffer."""
        hidden = self._decoder.hidden(
            [BatchItem(tokens, self.cache, len(self.tokens), self.variant, self.adapters)]
        )
        self.append(tokens)
        return hidden

    def append(self, tokens: Sequence[int]) -> None:
        """Count tokens of which a pass has written keys and values."""
        self.cache.append(len(tokens))
        self.tokens += tokens

    def adopt(self, others: Sequence[Session], tokens: list[int]) -> None:
        """Copy the longest prefix of `tokens` that another sequence has, if this one has less.

        All are of one decoder. The copy saves the passes over these tokens.
        """
        variant = self._decoder.rope_variant(len(tokens))
        shared = {
            one: one.common(tokens)
            for one in (self, *others)
            if one.variant == variant and one.adapters == self.adapters
        }
        best = max(shared, key=lambda one: shared[one], default=self)
        is_longer = best is not self and shared[best] > shared.get(self, 0)
        if is_longer and self.cache.has_room(shared[best]):
            self._truncate(0)
            self.variant = variant
            self.cache.copy_prefix(best.cache, shared[best])
            self.tokens += tokens[: shared[best]]
        elsewhere = max((one._shared(tokens) for one in shared), default=0)
        if elsewhere - self.common(tokens) >= _WORTH_KEEPING:  # and it cannot be copied
            self._truncate(self.common(tokens))
            self.cache.plan(elsewhere)

    def common(self, tokens: list[int]) -> int:
        """Return the length of the common prefix that the cache can keep.

        The last token does not count, because its state is needed.
        """
        return self.cache.kept(self._shared(tokens))

    def _shared(self, tokens: list[int]) -> int:
        """Return the length of the common prefix without the last token."""
        # A copy, because a pool asks about sessions that other threads may take meanwhile.
        own = self.tokens[: max(0, len(tokens) - 1)]
        if own == tokens[: len(own)]:  # true while generating, unless a draft was dropped
            return len(own)
        return common_prefix(own, tokens)


def common_prefix(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix of two lists."""
    same, different = 0, min(len(one), len(other)) + 1
    while same < different - 1:  # lists compare faster than a loop
        middle = (same + different) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            different = middle
    return same


class SessionPool:
    """The sessions of a model. Each text, logits and so on takes one and gives it back.

    A pool creates a session when all are taken, so texts that are written at the same time do not
    overwrite what others computed. It keeps four idle ones, with their keys and values.

    No lock guards it, which a fork could leave locked: it changes by single operations of a
    container, each of which one thread wins.
    """

    def __init__(self, decoder: Decoder, create: Callable[[], Session]) -> None:
        self._decoder = decoder
        self._create = create
        self._idle: deque[Session] = deque()  # last: given back most recently
        # No finalizer gives a session back: Ctrl-C within one would be ignored.
        self._holders: dict[Session, weakref.ref[object]] = {}

    def take(self, tokens: list[int], holder: object = None, adapters: Adapters = ()) -> Session:
        """Return the idle session that shares the longest prefix with `tokens`, or a new one.

        Args:
            tokens: what will follow.
            holder: if this object ends, the session counts as given back.
            adapters: that the sequence takes.

        Raises:
            OptionError: there is not enough memory for a new one.
        """
        self._take_back()
        session = None
        while session is None and (idle := list(self._idle)):
            best = max(idle, key=lambda one: one.common(tokens) if one.adapters == adapters else -1)
            with suppress(ValueError):  # another thread was faster
                self._idle.remove(best)
                session = best
        session = session or self._create()
        session.use(adapters)
        if holder is not None:
            self._holders[session] = weakref.ref(holder)
        return session

    def _take_back(self) -> None:
        """Give back the sessions of holders that are no more."""
        for session, holder in self._holders.copy().items():
            if holder() is None and self._holders.pop(session, None) is not None:
                self.give_back(session)

    def give_back(self, session: Session) -> None:
        """Keep a session that was taken for later, or else drop it."""
        self._holders.pop(session, None)
        self._idle.append(session)
        self.trim()

    def trim(self) -> None:
        """Drop the idle sessions that are not kept: all of a closed decoder."""
        kept = 0 if self._decoder.is_closed else _KEPT
        with suppress(IndexError):  # another thread was faster
            while len(self._idle) > kept:
                self._decoder.forget(self._idle.popleft().cache)

    @contextmanager
    def taken(self, tokens: list[int], adapters: Adapters = ()) -> Iterator[Session]:
        """Take a session for the block."""
        session = self.take(tokens, adapters=adapters)
        try:
            yield session
        finally:
            self.give_back(session)
