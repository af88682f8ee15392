"""How well a model predicts a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .decoder import LOGIT_ROWS, Decoder
from .errors import ModelError
from .session import Session


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood, in nats, of the tokens that were predicted."""

    value: float
    tokens: int  # predicted: all but the first
    window: int


def measure(
    decoder: Decoder,
    sequence: Session,
    tokens: Sequence[int],
    window: int,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Return the perplexity of tokens, at least two.

    They are cut into windows: each begins afresh with `window` tokens, and predicts the one after
    each of them. So every token but the first is predicted, once.

    Args:
        decoder: of the model.
        sequence: to be used for it.
        tokens: of the text.
        window: tokens that a prediction may look back on, at most.
        progress: called with the tokens predicted so far, and of all.

    Raises:
        ModelError: logits are NaN or infinite, so that nothing is predicted.
    """
    total, done = 0.0, 0
    for first in range(0, len(tokens) - 1, window):
        part = tokens[first : first + window]
        targets = np.asarray(tokens[first + 1 : first + 1 + window])
        part = part[: len(targets)]
        sequence.tokens.clear()
        at = 0
        for hidden in sequence.hidden(part):
            for row in range(0, len(hidden), LOGIT_ROWS):
                logits = decoder.logits(hidden[row : row + LOGIT_ROWS])
                total -= _log_likelihood(logits, targets[at : at + len(logits)])
                at += len(logits)
        done += len(targets)
        if progress is not None:
            progress(done, len(tokens) - 1)
    if np.isnan(total):
        raise ModelError("logits are NaN or infinite: the model's weights or its input are damaged")
    with np.errstate(over="ignore"):  # of a model that is surer than a float can say
        return Perplexity(float(np.exp(total / done)), done, window)


def _log_likelihood(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.integer]) -> float:
    """Return the sum of log softmax(logits)[target] over rows."""
    with np.errstate(invalid="ignore"):  # inf - inf: the caller refuses it
        shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[:, None], axis=1)[:, 0]
    normalizers = np.log(np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64))
    return float((chosen - normalizers).sum(dtype=np.float64))
