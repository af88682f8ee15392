"""Text generation: one prompt as a stream, or several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt

from rsr_formats.text import counted

from .batch import Batch
from .constraint import Constraint
from .decoder import Adapters, FloatArray
from .errors import CacheMemoryError, ModelError, PromptError
from .sampling import Sampler, Sampling
from .session import Progress, Session, SessionPool
from .speculation import Speculation
from .tokenizer import StopStrings, StreamingDetokenizer, Tokenizer
from .turns import Turns

FinishReason = Literal["stop", "length", "context", "interrupted"]


@dataclass(frozen=True)
class StopCriteria:
    """When a generated text ends."""

    context: int  # positions for prompt and text
    end_tokens: frozenset[int]
    stop: Sequence[str]  # strings that end the text and are not part of it
    max_tokens: int | None = None  # tokens of the text
    max_length: int | None = None  # tokens of prompt and text, unless max_tokens is set
    max_time: float | None = None  # seconds
    stop_tokens: frozenset[int] = frozenset()  # end a text too, but have no part in its settings

    def length(self, prompt_tokens: int) -> int | None:
        """Return the number of tokens, prompt and text, that was asked for; None if there is none.

        Raises:
            PromptError: the prompt has as many tokens.
        """
        if self.max_tokens is not None:
            return prompt_tokens + self.max_tokens
        if self.max_length is not None and self.max_length <= prompt_tokens:
            raise PromptError(
                f"the prompt has {counted(prompt_tokens, 'token')}, but the setting max_length "
                f"allows {self.max_length:,} for prompt and text: shorten it, or set the maximum "
                "number of tokens of the text, which replaces max_length"
            )
        return self.max_length


@dataclass(frozen=True)
class Generation:
    """A generated text.

    Attributes:
        text: the text.
        tokens: its tokens, including one that ended it.
        finish_reason: "stop": an end token or a stop string; "length": max_tokens, or max_length
            or max_time of the settings; "context": the context is full; "interrupted": a stream
            was not read to its end.
        prompt_tokens: number of tokens of the prompt.
        prompt_seconds: seconds until the first token, or until the prompt was interrupted.
        seconds: seconds for all further tokens.
        drafted_tokens: number of tokens that speculation guessed.
        accepted_tokens: number of these that are in the text.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    prompt_seconds: float
    seconds: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first token; 0 if there are none."""
        return (len(self.tokens) - 1) / self.seconds if len(self.tokens) > 1 else 0.0


@dataclass(frozen=True)
class EncodedPrompt:
    """The tokens of a prompt."""

    ids: list[int]
    is_text: bool  # the generated text continues it; else it starts a text, as an answer does
    end_tokens: frozenset[int] = frozenset()  # further ones that end the text


class Text:
    """A text in progress: its tokens, the text that is final, and why it ended.

    Args:
        prompt: its tokens.
        tokenizer: the model's tokenizer.
        sampling: the settings.
        until: when the text ends.
        shown_special: special tokens that are part of the text, as they are spelled.
        constraint: which tokens may come next.
        speculation: drafts tokens for `logits`; None: no drafts.

    Raises:
        PromptError: as for `StopCriteria.length`, or a stop string is empty.
    """

    def __init__(
        self,
        prompt: EncodedPrompt,
        tokenizer: Tokenizer,
        sampling: Sampling,
        until: StopCriteria,
        shown_special: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self.speculation = speculation
        self.ids = list(prompt.ids)  # prompt and text
        self.finish_reason: FinishReason | None = None
        self._prompt_tokens = len(prompt.ids)
        self._until = replace(until, end_tokens=until.end_tokens | prompt.end_tokens)
        self._length = until.length(len(prompt.ids))
        limit = until.context if self._length is None else min(self._length, until.context)
        self._sampler = Sampler(sampling, prompt.ids, self._until.end_tokens, limit)
        self._array = np.empty(limit, np.int64)  # `ids`, as a list takes long to convert
        self._array[: len(prompt.ids)] = prompt.ids
        self._start = perf_counter()
        self._tokenizer = tokenizer
        self._shown_special = shown_special
        self._constraint = constraint
        self._detokenizer = StreamingDetokenizer(
            tokenizer, after=prompt.ids if prompt.is_text else ()
        )
        self._stop_strings = StopStrings(until.stop)
        self._shown: list[str] = []

    @property
    def count(self) -> int:
        """Number of sampled tokens."""
        return len(self.ids) - self._prompt_tokens

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Prompt and text, int64 (n,)."""
        return self._array[: len(self.ids)]

    def logits(self, session: Session) -> FloatArray:
        """Return the logits after the text so far, which a session computes."""
        if self.speculation is None:
            return session.follow(self.ids)
        room = len(self._array) - len(self.ids) - 1  # tokens that may follow the next one
        return self.speculation.follow(session, self.ids, self.tokens, room)

    def result(self, prompt_seconds: float, seconds: float) -> Generation:
        """Return the text so far; `finish_reason` is "interrupted" until it ends."""
        return Generation(
            "".join(self._shown),
            self.ids[self._prompt_tokens :],
            self.finish_reason or "interrupted",
            self._prompt_tokens,
            prompt_seconds,
            seconds,
            self.speculation.drafted if self.speculation else 0,
            self.speculation.accepted if self.speculation else 0,
        )

    def take(self, logits: npt.NDArray[np.float32]) -> str:
        """Sample the next token and return the text that is new.

        Args:
            logits: float32 (vocab_size,); a constraint changes them.
        """
        length = len(self.ids)
        if self._constraint is not None:
            self._constraint.mask(logits)
        token = self._array[length] = self._sampler(logits, self.tokens)
        self.ids.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        if token in self._until.end_tokens or token in self._until.stop_tokens:
            return self._finish("stop")
        text, stopped = self._stop_strings.push(self._decoded(token))
        self._shown.append(text)
        if stopped:
            self.finish_reason = "stop"
        elif len(self.ids) == self._length or self._is_late():
            text += self._finish("length")
        elif len(self.ids) == self._until.context:
            text += self._finish("context")
        return text

    def _decoded(self, token: int) -> str:
        if token not in self._shown_special:
            return self._detokenizer.push(token)
        text = self._detokenizer.finish() + (self._tokenizer.token(token) or "")
        self._detokenizer = StreamingDetokenizer(self._tokenizer, after=self.ids)
        return text

    def _is_late(self) -> bool:
        seconds = self._until.max_time
        return seconds is not None and perf_counter() - self._start > seconds

    def _finish(self, reason: FinishReason) -> str:
        """End the text and return what was held back."""
        text, stopped = self._stop_strings.push(self._detokenizer.finish())
        text += "" if stopped else self._stop_strings.finish()
        self.finish_reason = "stop" if stopped else reason
        self._shown.append(text)
        return text


class Stream(Iterator[str]):
    """The pieces of a text as they are generated; `result` is the text as a whole.

    A loop over it may end early, also by an exception; the model stays usable, and another loop
    goes on with the text. Ctrl-C at the moment in which a token is chosen may change what follows
    or lose the token's text. Several threads may read one stream: each piece goes to one of them.

    From its first piece to its end, a stream has a KV cache of its own. If it is not read to its
    end, other texts can use the cache after `close`, or when the object is gone.
    """

    def __init__(
        self,
        sessions: SessionPool,
        prompt: EncodedPrompt,
        tokenizer: Tokenizer,
        sampling: Sampling,
        until: StopCriteria,
        progress: Progress | None = None,
        speculation: Speculation | None = None,
        adapters: Adapters = (),
    ) -> None:
        self._sessions = sessions
        self._adapters = adapters
        self._session: Session | None = None
        self._progress = progress
        self._is_closed = False
        self._turns = Turns("this stream")
        self._text = Text(prompt, tokenizer, sampling, until, speculation=speculation)
        self._prompt_seconds = self._seconds = 0.0

    def __next__(self) -> str:
        """Return the next piece of text, never empty.

        Raises:
            ClosedError: the model was closed.
            OptionError: there is not enough memory for a KV cache.
            ModelError: the model's weights are damaged.
            BusyError: a signal handler or callback interrupted this function, and calls it.
        """
        try:
            with self._turns.turn():
                while self._text.finish_reason is None and not self._is_closed:
                    piece = self._next()
                    if self._text.finish_reason is not None:
                        self._give_back()
                    if piece:
                        return piece
        finally:
            if self._is_closed:  # meanwhile
                self._turns.if_free(self._give_back)
        raise StopIteration

    def _next(self) -> str:
        """Sample the next token and return the text that is new."""
        if self._session is None:
            self._session = self._sessions.take(self._text.ids, self, self._adapters)
        is_first = self._text.count == 0
        start = perf_counter()
        try:
            return self._text.take(self._logits(self._session))
        finally:  # also if a prompt is interrupted
            elapsed = perf_counter() - start
            if is_first:
                self._prompt_seconds += elapsed
            else:
                self._seconds += elapsed

    def _logits(self, session: Session) -> npt.NDArray[np.float32]:
        """Return the logits after the text so far."""
        if self._text.count == 0:
            return session.follow(self._text.ids, self._progress)
        return self._text.logits(session)

    def close(self) -> None:
        """End the text here, or after the piece that is being read. Free the KV cache."""
        self._is_closed = True
        self._turns.if_free(self._give_back)

    def _give_back(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._sessions.give_back(session)

    def __repr__(self) -> str:
        text = self._text
        state = text.finish_reason or ("closed" if self._is_closed else "unfinished")
        return (
            f"<rsr_runtime.llm.Stream: {state}, {counted(text.count, 'token')} after a prompt of "
            f"{len(text.ids) - text.count:,}>"
        )

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            "a stream, whose text is being generated, cannot be pickled: pickle its `result`"
        )

    @property
    def result(self) -> Generation:
        """The text so far; `finish_reason` is "interrupted" until it ends."""
        return self._text.result(self._prompt_seconds, self._seconds)


class _BatchText:
    """A text of `generate_all`."""

    scored_from, is_speculating = None, False

    def __init__(self, text: Text, adapters: Adapters) -> None:
        self._text = text
        self.adapters = adapters
        self.ids = text.ids
        self.unread = len(text.ids)  # tokens of the prompt

    def score(self, number: int, logits: FloatArray) -> None:
        raise AssertionError("the prompt is not scored")

    def logits(self, session: Session) -> FloatArray:
        return self._text.logits(session)

    def take(self, logits: FloatArray) -> bool:
        self._text.take(logits)
        return self._text.finish_reason is None

    def read(self, count: int) -> int:
        """Count tokens that were computed or known; return how many of these are of the prompt."""
        count = min(count, self.unread)
        self.unread -= count
        return count


def generate_all(
    batch: Batch[_BatchText],
    prompts: Sequence[EncodedPrompt],
    tokenizer: Tokenizer,
    settings: Sequence[tuple[Sampling, StopCriteria]],
    adapters: Sequence[Adapters],
    progress: Progress | None = None,
) -> list[Generation]:
    """Generate a text for each prompt, side by side in an empty batch.

    Each text has its own random numbers, so it is the text that its prompt would yield alone.
    """
    start = perf_counter()
    texts = [Text(prompt, tokenizer, *own) for prompt, own in zip(prompts, settings, strict=True)]
    for text, own in zip(texts, adapters, strict=True):
        batch.add(_BatchText(text, own))
    total, read = sum(len(text.ids) for text in texts), 0
    prompt_seconds = 0.0
    if progress is not None and texts:
        progress(0, total)
    while batch.running or batch.waiting:
        before = read
        for admitted, known in batch.admit():
            if isinstance(known, CacheMemoryError):
                raise known
            read += admitted.read(known)
        done = batch.step()
        for _, error in done.failed:
            raise error
        read += sum(text.read(count) for text, count in done.rows.items())
        if before < read:
            prompt_seconds = perf_counter() - start
            if progress is not None:
                progress(read, total)
    seconds = perf_counter() - start - prompt_seconds
    return [text.result(prompt_seconds, seconds) for text in texts]
