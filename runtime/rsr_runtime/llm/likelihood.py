"""How likely a model finds continuations of contexts.

Requests become texts of a `Batch`, in the order of their tokens. So those that begin alike follow
one another, and what they share is computed once: examples before every question, the question
before each of its answers. Logits are reduced to a few numbers row by row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .batch import Batch
from .decoder import Adapters, FloatArray
from .errors import CacheMemoryError, ModelError
from .logprobs import log_normalizer
from .session import Progress, Session


class LogLikelihood(NamedTuple):
    """The log-likelihood of a continuation.

    Attributes:
        value: sum of the log-probabilities of its tokens, in nats.
        is_greedy: whether each token is the most likely one at its place.
    """

    value: float
    is_greedy: bool


@dataclass
class _Continuation:
    """A continuation that is being scored."""

    start: int  # number of its first token in context and continuation
    tokens: list[int]
    value: float = 0.0
    is_greedy: bool = True

    def take(self, number: int, logits: FloatArray, normalizer: float, best: int) -> None:
        """Score the token after token `number`, unless that is one of the context."""
        at = number + 1 - self.start
        if at >= 0:
            self.value += float(logits[self.tokens[at]]) - normalizer
            self.is_greedy &= self.tokens[at] == best


class _Input:
    """A text of a batch: a sequence of tokens, and the continuations that its logits score.

    Continuations that differ only in their last token have the same input.
    """

    is_speculating = False

    def __init__(
        self, ids: Sequence[int], continuations: list[_Continuation], adapters: Adapters
    ) -> None:
        self.adapters = adapters
        self.ids = list(ids)
        self.continuations = continuations
        self.scored_from: int | None = min(one.start for one in continuations) - 1

    def logits(self, session: Session) -> FloatArray:
        raise AssertionError("no tokens are drafted")

    def score(self, number: int, logits: FloatArray) -> None:
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is reported in the end
            normalizer, best = log_normalizer(logits), int(logits.argmax())
        for one in self.continuations:
            one.take(number, logits, normalizer, best)

    def take(self, logits: FloatArray) -> bool:
        self.score(len(self.ids) - 1, logits)
        return False


def log_likelihoods(
    batch: Batch[_Input],
    requests: Sequence[tuple[list[int], list[int]]],
    progress: Progress | None = None,
    adapters: Adapters = (),
) -> list[LogLikelihood]:
    """Return the log-likelihood of each continuation.

    Args:
        batch: without texts.
        requests: context and continuation, both with at least one token.
        progress: called with the number of requests that are done, and the number of all.
        adapters: that all take.

    Raises:
        CacheMemoryError: there is not enough memory.
        ModelError: logits are NaN or infinite.
    """
    every = [_Continuation(len(context), tokens) for context, tokens in requests]
    inputs: dict[tuple[int, ...], list[_Continuation]] = {}
    for (context, tokens), one in zip(requests, every, strict=True):
        inputs.setdefault((*context, *tokens[:-1]), []).append(one)
    for ids in sorted(inputs):
        batch.add(_Input(ids, inputs[ids], adapters))
    done = 0
    for finished in _run(batch):
        done += len(finished.continuations)
        if progress is not None:
            progress(done, len(every))
    if not all(math.isfinite(one.value) for one in every):
        raise ModelError("logits are NaN or infinite: the model's weights or its input are damaged")
    return [LogLikelihood(one.value, one.is_greedy) for one in every]


def _run(batch: Batch[_Input]) -> Iterator[_Input]:
    """Yield the texts of a batch as they are finished."""
    while batch.running or batch.waiting:
        for _, known in batch.admit():
            if isinstance(known, CacheMemoryError):
                raise known
        done = batch.step()
        for _, error in done.failed:
            raise error
        yield from done.taken
