"""Filters of unlikely tokens, in the order of ``transformers``: temperature, top_h, top_k, ...

Weights are probabilities times a constant, float64; the largest is 1, unless `typical_p` drops it.
Tokens stay in the order of their ids, and of equally likely ones the lowest ids are kept, so that
the same scores and seed give the same token on every machine.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .processors import Scores
from .settings import Sampling

Weights = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# The nucleus is searched among weights above these fractions of the largest, one after the other.
# Most distributions have 95 % of their mass in a few hundred tokens, and only those are sorted.
_FLOORS = (math.exp(-4), math.exp(-8), math.exp(-16), 0.0)

_TOP_H = 100  # tokens whose entropy top_h looks at


def candidates(scores: Scores, best: int, s: Sampling) -> tuple[Indices, Weights]:
    """Return the ids of the tokens that may be drawn, ascending, and their weights.

    Args:
        scores: float32 (vocab_size,); not changed.
        best: the id with the largest score, which must be finite.
        s: the settings, with a temperature above 0.
    """
    # In place or on few tokens, as allocating memory for a large vocabulary takes longer than the
    # arithmetic.
    largest = scores[best]
    if s.top_h is not None:
        ids = top_h(scores, largest, s.temperature, s.top_h)
        scores = scores[ids]
        if s.top_k:
            kept = top_k(scores, s.top_k)
            ids, scores = ids[kept], scores[kept]
    elif s.top_k:
        ids = top_k(scores, s.top_k)
        scores = scores[ids]
    else:
        ids = np.arange(len(scores))
    weights = weigh(scores, largest, s.temperature)
    for keep, limit, is_on in (
        (top_p, s.top_p, s.top_p < 1),
        (min_p, s.min_p, s.min_p > 0),
        (typical_p, s.typical_p, s.typical_p < 1),
        (epsilon_cutoff, s.epsilon_cutoff, 0 < s.epsilon_cutoff < 1),
        (eta_cutoff, s.eta_cutoff, 0 < s.eta_cutoff < 1),
    ):
        if is_on:
            kept = keep(weights, limit)
            ids, weights = ids[kept], weights[kept]
    return ids, weights


def weigh(scores: Scores, largest: np.float32, temperature: float) -> Weights:
    """Return the weights of scores."""
    weights = scores.astype(np.float64)
    weights -= largest
    with np.errstate(over="ignore"):  # a temperature near 0 gives -inf
        weights /= temperature
    np.exp(weights, out=weights)
    return weights


def top_k(scores: Scores, k: int) -> Indices:
    """Return the places of the k largest scores and of any equal to the k-th, ascending."""
    k = min(k, len(scores))
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k])


def top_h(scores: Scores, largest: np.float32, temperature: float, share: float) -> Indices:
    """Return the most likely of 100 tokens, up to a share of their entropy, ascending."""
    ids = top_k(scores, _TOP_H)
    weights = weigh(scores[ids], largest, temperature)
    order = np.argsort(-weights, kind="stable")[:_TOP_H]
    terms = _information(weights[order])
    count = int(np.searchsorted(np.cumsum(terms), share * terms.sum(), side="right"))
    return np.sort(ids[order[: max(count, 1)]])


def top_p(weights: Weights, mass: float) -> Indices:
    """Return the places of the fewest largest weights with `mass` of the sum, ascending."""
    enough = mass * weights.sum()
    for floor in _FLOORS:
        places = np.flatnonzero(weights >= floor)
        large = weights[places]
        if large.sum() >= enough:
            break
    descending = np.sort(large)[::-1]
    count = int(np.searchsorted(np.cumsum(descending), enough, side="left")) + 1
    smallest = descending[min(count, len(descending)) - 1]
    kept = large > smallest
    kept[np.flatnonzero(large == smallest)[: count - int(kept.sum())]] = True
    nucleus: Indices = places[kept]
    return nucleus


def min_p(weights: Weights, fraction: float) -> Indices:
    """Return the places of weights that are at least a fraction of the largest."""
    return np.flatnonzero(weights >= fraction)


def typical_p(weights: Weights, mass: float) -> Indices:
    """Return the places whose information is nearest to the expected one, with `mass` of the sum.

    The largest weight may be none of them.
    """
    probabilities = weights / weights.sum()
    with np.errstate(divide="ignore"):
        information = -np.log(probabilities)
    distance = np.abs(information - _information(weights).sum())
    order = np.argsort(distance, kind="stable")
    count = np.searchsorted(np.cumsum(probabilities[order]), mass, side="left")
    last = order[min(int(count), len(order) - 1)]
    return np.flatnonzero(distance <= distance[last])


def epsilon_cutoff(weights: Weights, least: float) -> Indices:
    """Return the places of probabilities of at least `least`, and of the largest."""
    return np.flatnonzero((weights >= least * weights.sum()) | (weights == weights.max()))


def eta_cutoff(weights: Weights, epsilon: float) -> Indices:
    """Return the places of probabilities above a limit that the entropy lowers."""
    entropy = float(_information(weights).sum())
    return epsilon_cutoff(weights, min(epsilon, math.sqrt(epsilon) * math.exp(-entropy)))


def _information(weights: Weights) -> Weights:
    """Return what each token adds to the entropy, in nats."""
    probabilities = weights / weights.sum()
    logarithms = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(weights))
    terms: Weights = -probabilities * logarithms
    return terms
