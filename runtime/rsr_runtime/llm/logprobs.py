"""Log-probabilities of tokens by logits."""

from __future__ import annotations

import math

import numpy as np

from .decoder import FloatArray
from .job import Logprob


def log_normalizer(logits: FloatArray) -> float:
    """Return log sum exp of logits, float32 (vocab_size,); a log-probability is a logit less it."""
    largest = logits.max()
    return float(largest) + math.log(np.exp(logits - largest).sum(dtype=np.float64))


def logprob_of(logits: FloatArray, token: int, top: int) -> Logprob:
    """Return the log-probability of a token.

    Args:
        logits: float32 (vocab_size,); not changed.
        token: the token.
        top: how many of the most likely tokens to report with it. Of equally likely ones, those
            with the lowest ids come first.
    """
    normalizer = log_normalizer(logits)
    best = []
    if top > 0:
        top = min(top, len(logits))
        least = np.partition(logits, -top)[-top]
        ids = np.flatnonzero(logits >= least)
        ids = ids[np.argsort(-logits[ids], kind="stable")][:top]
        best = [(int(i), float(logits[i]) - normalizer) for i in ids]
    return Logprob(token, float(logits[token]) - normalizer, best)
