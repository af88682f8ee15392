"""Draws a token by its weight, among those that the filters keep."""

from __future__ import annotations

import numpy as np

from ... import _native
from .filters import Weights, candidates, weigh
from .processors import Scores
from .settings import Sampling


def drawn(scores: Scores, best: int, s: Sampling, random: float) -> int:
    """Return the id of the token at a place in the mass of those that may be drawn.

    Args:
        scores: float32 (vocab_size,); not changed.
        best: the id with the largest score, which must be finite.
        s: the settings, with a temperature above 0.
        random: the place, 0 to below 1, in the order of the ids.
    """
    if not (s.top_k or s.top_h is not None or _has_late_filters(s)):
        weights = weigh(scores, scores[best], s.temperature)
        nucleus = _nucleus(weights, s)
        if nucleus is not None:
            return _native.draw(weights, *nucleus, random)
    ids, weights = candidates(scores, best, s)
    cumulative = np.cumsum(weights, out=weights)
    total = cumulative[-1]
    # The first entry above the drawn mass. Rounding may make that the total: then take the
    # first entry equal to it, the last token with a positive weight.
    place = np.searchsorted(cumulative, random * total, side="right")
    return int(ids[min(place, np.searchsorted(cumulative, total, side="left"))])


def _has_late_filters(s: Sampling) -> bool:
    """Return whether a filter follows `min_p`."""
    return s.typical_p < 1 or 0 < s.epsilon_cutoff < 1 or 0 < s.eta_cutoff < 1


def _nucleus(weights: Weights, s: Sampling) -> tuple[float, int] | None:
    """Return the smallest weight that `top_p` and `min_p` keep, and how many equal ones; or None.

    They are the same as in `candidates`, without sorting the weights or copying them.
    """
    found: tuple[float, int] | None = -1.0, 0
    if s.top_p < 1:
        found = _native.nucleus(weights, s.top_p * float(weights.sum()))
    if found is not None and s.min_p > max(0.0, found[0]):
        return s.min_p, len(weights)
    return found
