"""Chooses tokens one after another."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from ...errors import InputShapeError
from ..errors import ModelError
from .chain import chain_of
from .draws import drawn
from .processors import Scores, Tokens
from .settings import Sampling


class Sampler:
    """Chooses the tokens of one text, with its own random numbers.

    Args:
        sampling: the settings.
        prompt: tokens of the prompt.
        end_tokens: tokens that end the text.
        limit: number of tokens, prompt and text, at which the text ends in any case, or None.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int] = (),
        end_tokens: Collection[int] = (),
        limit: int | None = None,
    ) -> None:
        self._sampling = sampling
        self._chain = chain_of(sampling, prompt, sorted(end_tokens), limit)
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))

    def __call__(self, logits: npt.NDArray[np.float32], tokens: Tokens = ()) -> int:
        """Return the id of the next token; draws one random number unless sampling is greedy.

        Args:
            logits: float32 (vocab_size,); not changed. A token with -inf is never chosen.
            tokens: ids of prompt and text so far; ids outside the vocabulary are ignored.

        Returns:
            An id, 0 to vocab_size - 1. Greedy sampling takes the lowest of equally likely ids.

        Raises:
            InputShapeError: the logits are not a vector with at least one entry.
            ModelError: the largest logit is NaN or infinite, or the settings forbid all tokens.
        """
        scores = self._scores(logits, tokens)
        best = int(scores.argmax())  # a NaN if there is one
        if not math.isfinite(scores[best]):
            raise self._nothing(logits, scores[best], best)
        if self._sampling.temperature == 0:
            return best
        return drawn(scores, best, self._sampling, self._random.random())

    def _scores(self, logits: npt.NDArray[np.float32], tokens: Tokens) -> Scores:
        """Return the logits as the settings change them."""
        scores = np.asarray(logits, np.float32)
        if scores.ndim != 1 or not len(scores):
            raise InputShapeError(f"logits have shape {scores.shape}, expected (vocabulary,)")
        if self._chain:
            scores = scores.copy()
            with np.errstate(all="ignore"):  # the caller reports infinity
                for process in self._chain:
                    process(scores, tokens)
        return scores

    def _nothing(
        self, logits: npt.NDArray[np.float32], largest: np.float32, best: int
    ) -> ModelError:
        """Return the error for scores of which none can be chosen."""
        if self._chain and math.isfinite(np.max(logits)):
            if largest == -math.inf:
                return ModelError(
                    "no token can be chosen: the settings of generation forbid all of them "
                    "(as suppress_tokens, bad_words_ids or no_repeat_ngram_size may)"
                )
            return ModelError(
                "no token can be chosen: the settings of generation make the logit of token "
                f"{best} {largest} (as a repetition_penalty near 0 may)"
            )
        return ModelError(
            f"no token can be chosen: the largest logit is {largest} (token {best}); "
            "the model's weights or its input are damaged"
        )
