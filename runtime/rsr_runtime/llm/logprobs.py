"""Log-probabilities of tokens by logits."""

from __future__ import annotations

import math

import numpy as np

from .decoder import FloatArray
from .job import Logprob


def logprobs_of(logits: FloatArray, tokens: list[int], top: int) -> list[Logprob]:
    """Return the log-probability of a token for each row of logits.

    Args:
        logits: float32 (n, vocab_size); not changed.
        tokens: n tokens.
        top: how many of the most likely tokens to report with each. Of equally likely ones, those
            with the lowest ids come first.
    """
    return [_logprob(row, token, top) for row, token in zip(logits, tokens, strict=True)]


def _logprob(logits: FloatArray, token: int, top: int) -> Logprob:
    largest = logits.max()
    normalizer = float(largest) + math.log(np.exp(logits - largest).sum(dtype=np.float64))
    best = []
    if top > 0:
        top = min(top, len(logits))
        least = np.partition(logits, -top)[-top]
        ids = np.flatnonzero(logits >= least)
        ids = ids[np.argsort(-logits[ids], kind="stable")][:top]
        best = [(int(i), float(logits[i]) - normalizer) for i in ids]
    return Logprob(token, float(logits[token]) - normalizer, best)
