"""Generating text: one prompt as a stream, or several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt

from .decoder import Decoder
from .sampling import Sampler, Sampling
from .session import Session, step
from .tokenizer import StopStrings, StreamingDetokenizer, Tokenizer

FinishReason = Literal["stop", "length", "context", "interrupted"]


@dataclass(frozen=True)
class Limits:
    """When a text ends."""

    context: int  # positions of prompt and text together
    max_tokens: int | None  # of the text; None: as many as the context has room for
    end_tokens: frozenset[int]
    stop: tuple[str, ...]  # strings that end it, and are no part of it


@dataclass(frozen=True)
class Generation:
    """A generated text."""

    text: str
    tokens: list[int]  # of the text, with a token that ended it
    finish_reason: FinishReason  # an end token or stop string; max_tokens; the context is full
    prompt_tokens: int
    prompt_seconds: float  # until the first token was known
    seconds: float  # of all further tokens

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first."""
        return (len(self.tokens) - 1) / self.seconds if len(self.tokens) > 1 else 0.0


@dataclass(frozen=True)
class Tokens:
    """A prompt."""

    ids: list[int]
    is_text: bool  # which the generated text goes on from, word by word


class _Text:
    """A text under way: what was sampled, what of it may be shown, and whether it has ended."""

    def __init__(
        self, prompt: Tokens, tokenizer: Tokenizer, sampling: Sampling, limits: Limits
    ) -> None:
        self.ids = list(prompt.ids)  # of the prompt, then of the text
        self.finish_reason: FinishReason | None = None
        self._prompt_tokens = len(prompt.ids)
        self._sampler = Sampler(sampling)
        self._limits = limits
        self._stream = StreamingDetokenizer(tokenizer, after=prompt.ids if prompt.is_text else ())
        self._stop = StopStrings(limits.stop)
        self._shown: list[str] = []

    @property
    def count(self) -> int:
        """How many tokens were sampled."""
        return len(self.ids) - self._prompt_tokens

    def result(self, prompt_seconds: float, seconds: float) -> Generation:
        """The text so far; `finish_reason` is "interrupted" as long as more could come."""
        return Generation(
            "".join(self._shown),
            self.ids[self._prompt_tokens :],
            self.finish_reason or "interrupted",
            self._prompt_tokens,
            prompt_seconds,
            seconds,
        )

    def take(self, logits: npt.NDArray[np.float32]) -> str:
        """Sample the next token; return the text that is new."""
        token = self._sampler(logits, self.ids)
        self.ids.append(token)
        if token in self._limits.end_tokens:
            return self._finish("stop")
        text, stopped = self._stop.push(self._stream.push(token))
        self._shown.append(text)
        if stopped:
            self.finish_reason = "stop"
        elif self.count == self._limits.max_tokens:
            text += self._finish("length")
        elif len(self.ids) == self._limits.context:
            text += self._finish("context")
        return text

    def _finish(self, reason: FinishReason) -> str:
        """Return what was held back."""
        text, stopped = self._stop.push(self._stream.finish())
        text += "" if stopped else self._stop.finish()
        self.finish_reason = "stop" if stopped else reason
        self._shown.append(text)
        return text


class Stream(Iterator[str]):
    """Pieces of one text as they come; `result` tells the whole when they are at an end.

    A loop that reads it may end early, by an exception too: the model can go on with another.
    """

    def __init__(
        self,
        sequence: Session,
        prompt: Tokens,
        tokenizer: Tokenizer,
        sampling: Sampling,
        limits: Limits,
    ) -> None:
        self._sequence = sequence
        self._text = _Text(prompt, tokenizer, sampling, limits)
        self._prompt_seconds = self._seconds = 0.0

    def __next__(self) -> str:
        """Return the next piece of text, which is never empty."""
        while self._text.finish_reason is None:
            start = perf_counter()
            piece = self._text.take(self._sequence.follow(self._text.ids))
            elapsed = perf_counter() - start
            if self._text.count == 1:
                self._prompt_seconds = elapsed
            else:
                self._seconds += elapsed
            if piece:
                return piece
        raise StopIteration

    @property
    def result(self) -> Generation:
        """The text so far; `finish_reason` is "interrupted" as long as more could come."""
        return self._text.result(self._prompt_seconds, self._seconds)


def generate_all(
    decoder: Decoder,
    sequences: Sequence[Session],
    prompts: Sequence[Tokens],
    tokenizer: Tokenizer,
    sampling: Sampling,
    limits: Limits,
) -> list[Generation]:
    """Generate a text for each prompt, the tokens of all in one pass.

    Every text has a random generator of its own from the same seed: it is the text which its prompt
    would have alone.
    """
    start = perf_counter()
    texts = [_Text(prompt, tokenizer, sampling, limits) for prompt in prompts]
    for text, sequence in zip(texts, sequences, strict=True):
        text.take(sequence.follow(text.ids))
    prompt_seconds = perf_counter() - start
    while running := [i for i, text in enumerate(texts) if text.finish_reason is None]:
        last = [texts[i].ids[-1] for i in running]
        logits = step(decoder, [sequences[i] for i in running], last)
        for row, i in enumerate(running):
            texts[i].take(logits[row])
    seconds = perf_counter() - start - prompt_seconds
    return [text.result(prompt_seconds, seconds) for text in texts]
