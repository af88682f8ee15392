"""How well a model predicts a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .session import Session


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood, in nats, of the predicted tokens."""

    value: float
    tokens: int  # number of predicted tokens: all but the first
    window: int  # tokens that a prediction sees at most


def measure(
    session: Session,
    tokens: list[int],
    window: int,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Return the perplexity of tokens.

    The tokens are cut into windows. Each starts with an empty cache and predicts the token after
    each token that it contains, so every token but the first is predicted once.

    Args:
        session: the session to work in.
        tokens: at least two.
        window: tokens in a window.
        progress: called with the number of tokens predicted so far and the number of all.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    total, done = 0.0, 0
    for first in range(0, len(tokens) - 1, window):
        targets = np.asarray(tokens[first + 1 : first + 1 + window])
        part = tokens[first : first + len(targets)]
        at = 0
        for logits in session.logits(part):
            total -= _log_likelihood(logits, targets[at : at + len(logits)])
            at += len(logits)
        done += len(targets)
        if progress is not None:
            progress(done, len(tokens) - 1)
    if np.isnan(total):
        raise ModelError("logits are NaN or infinite: the model's weights or its input are damaged")
    with np.errstate(over="ignore"):  # exp may overflow for a very poor model; inf is then right
        return Perplexity(float(np.exp(total / done)), done, window)


def _log_likelihood(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.integer]) -> float:
    """Return the sum of log softmax(logits)[target] over rows."""
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which the caller reports
        shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[:, None], axis=1)[:, 0]
    normalizers = np.log(np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64))
    return float((chosen - normalizers).sum(dtype=np.float64))
