"""Sampling of the next token from logits.

The filters, their order and their edge cases are those of ``transformers``: repetition penalty,
temperature, top k, top p, min p. Tokens are drawn in float64 and in the order of their ids, so that
the same logits and seed give the same token on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputShapeError, OptionError
from .errors import ModelError

_DEFAULT_TOP_K = 50  # transformers' default if do_sample is true

# The nucleus is searched among weights above these fractions of the largest, one after the other.
# Most distributions have 95 % of their mass in a few hundred tokens, and only those are sorted.
_FLOORS = (math.exp(-4), math.exp(-8), math.exp(-16), 0.0)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: divisor of the logits; 0 always takes the most likely token (greedy).
        top_k: draw from the k most likely tokens, and any as likely as the k-th; 0 is off.
        top_p: draw from the smallest set of most likely tokens whose probabilities sum to at least
            this much; 1 is off.
        min_p: draw from tokens at least this fraction as likely as the most likely; 0 is off.
        repetition_penalty: positive logits of tokens seen before are divided by it, negative ones
            multiplied, for greedy sampling too; 1 is off.
        seed: seed of the draws; None takes a new one each time.

    Raises:
        OptionError: a value has the wrong type or is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, "0 (greedy) or more", lambda v: v >= 0)
        _check("top_p", self.top_p, "from 0 to 1 (off)", lambda v: 0 <= v <= 1)
        _check("min_p", self.min_p, "from 0 (off) to 1", lambda v: 0 <= v <= 1)
        _check("repetition_penalty", self.repetition_penalty, "above 0; 1 is off", lambda v: v > 0)
        _check("top_k", self.top_k, "0 (off) or more", lambda v: v >= 0, whole=True)
        if self.seed is not None:
            _check("seed", self.seed, "0 or more, or None", lambda v: v >= 0, whole=True)

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> Sampling:
        """Return the sampling of a generation_config.json, with the defaults of ``transformers``.

        Args:
            config: the object in the file; null is the same as absent. Unless `do_sample` is true,
                sampling is greedy and only the repetition penalty is used. If it is, `top_k` is 50
                by default. Settings of other methods are ignored.

        Raises:
            ModelError: a value has the wrong type or is out of range.
        """
        given = {key: value for key, value in config.items() if value is not None}
        do_sample = given.get("do_sample", False)
        if not isinstance(do_sample, bool):
            raise ModelError(
                f"generation_config.json: do_sample is {do_sample!r}, expected true or false"
            )
        names = ["repetition_penalty"]
        defaults: dict[str, Any] = {}
        if do_sample:
            names += ["temperature", "top_k", "top_p", "min_p"]
            defaults = {"temperature": 1.0, "top_k": _DEFAULT_TOP_K}
        try:
            return cls(**defaults | {name: given[name] for name in names if name in given})
        except OptionError as error:
            raise ModelError(f"generation_config.json: {error}") from error


def _check(
    name: str, value: object, expected: str, fits: Callable[[Any], bool], *, whole: bool = False
) -> None:
    kinds = (int,) if whole else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool)
    try:  # isfinite raises OverflowError for an int beyond the floats
        right = right and math.isfinite(value) and fits(value)  # type: ignore[arg-type]
    except OverflowError:
        right = False
    if not right:
        kind = "a whole number" if whole else "a number"
        raise OptionError(f"{name} is {value!r}, expected {kind}, {expected}")


class Sampler:
    """Chooses tokens one after another, with its own random numbers."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))

    def __call__(self, logits: npt.NDArray[np.float32], tokens: Sequence[int] = ()) -> int:
        """Return the id of the next token; draws one random number unless sampling is greedy.

        Args:
            logits: float32 (vocab_size,); not changed. A token with -inf is never chosen.
            tokens: ids of prompt and text so far, for the repetition penalty; ids outside the
                vocabulary are ignored.

        Returns:
            An id, 0 to vocab_size - 1. Greedy sampling takes the lowest of equally likely ids.

        Raises:
            InputShapeError: the logits are not a vector with at least one entry.
            ModelError: the largest logit is NaN or infinite.
        """
        scores = np.asarray(logits, np.float32)
        if scores.ndim != 1 or not len(scores):
            raise InputShapeError(f"logits have shape {scores.shape}, expected (vocabulary,)")
        s = self._sampling
        if s.repetition_penalty != 1:
            scores = _penalized(scores, tokens, s.repetition_penalty)
        best = int(scores.argmax())  # a NaN if there is one
        if not math.isfinite(scores[best]):
            raise ModelError(
                f"no token can be chosen: the largest logit is {scores[best]} (token {best}); "
                "the model's weights or its input are damaged"
            )
        if s.temperature == 0:
            return best
        ids = np.arange(len(scores)) if s.top_k == 0 else _most_likely(scores, s.top_k)
        # In place or on few tokens from here on: allocating memory for a large vocabulary takes
        # longer than the arithmetic.
        weights = (scores if s.top_k == 0 else scores[ids]).astype(np.float64)
        weights -= scores[best]
        with np.errstate(over="ignore"):  # a temperature near 0 gives -inf
            weights /= s.temperature
        np.exp(weights, out=weights)  # the largest is 1
        if s.top_p < 1:
            nucleus = _nucleus(weights, s.top_p)
            ids, weights = ids[nucleus], weights[nucleus]
        if s.min_p > 0:
            likely = np.flatnonzero(weights >= s.min_p)
            ids, weights = ids[likely], weights[likely]
        cumulative = np.cumsum(weights, out=weights)
        total = cumulative[-1]
        # The first entry above the drawn mass. Rounding may make that the total: then take the
        # first entry equal to it, the last token with a positive weight.
        drawn = np.searchsorted(cumulative, self._random.random() * total, side="right")
        return int(ids[min(drawn, np.searchsorted(cumulative, total, side="left"))])


def _most_likely(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.intp]:
    """Return the ids of the k largest scores and of any equal to the k-th, ascending."""
    k = min(k, len(scores))
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k])


def _penalized(
    scores: npt.NDArray[np.float32], tokens: Sequence[int], penalty: float
) -> npt.NDArray[np.float32]:
    """Return a copy of the logits with the repetition penalty applied to `tokens`."""
    ids = np.asarray(tokens, np.int64)
    ids = ids[(ids >= 0) & (ids < len(scores))]
    old, factor = scores[ids], np.float32(penalty)
    scores = scores.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # the caller reports infinity
        scores[ids] = np.where(old < 0, old * factor, old / factor)
    return scores


def _nucleus(weights: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.intp]:
    """Return the indices of the fewest largest weights with `top_p` of the sum, ascending.

    Among equal weights at the limit, the lowest indices are taken. The largest weight is 1.
    """
    enough = top_p * weights.sum()
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
    nucleus: npt.NDArray[np.intp] = places[kept]
    return nucleus
