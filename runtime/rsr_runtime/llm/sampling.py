"""The choice of the next token from logits: greedy, or drawn after the usual filters.

The filters, their order and their borders are those of ``transformers``: repetition penalty,
temperature, top k, top p, min p. The draw is made here, in float64 and in the order of the token
ids, so that the same logits and seed give the same token on every machine.
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

# Where transformers has another default than "off" once a model asks for sampling.
_DEFAULT_TOP_K = 50

# Parts of the largest weight above which the tokens of a nucleus are looked for, in turn: most
# distributions have 95 % of their mass in a few hundred tokens, and sorting those is enough.
_FLOORS = (math.exp(-4), math.exp(-8), math.exp(-16), 0.0)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: what logits are divided by; 0 takes the most likely token, always (greedy).
        top_k: draw only from the k most likely tokens, and those as likely as the k-th; 0 is off.
        top_p: draw only from the fewest most likely tokens that have this much probability
            together, at least one; 1 is off.
        min_p: draw only from tokens with at least this part of the most likely one's probability;
            0 is off.
        repetition_penalty: logits of tokens that were seen are divided by it where positive and
            multiplied where negative; 1 is off, and it holds for greedy choices too.
        seed: of the draws; None takes another one every time.

    Raises:
        OptionError: a value is not of its type or outside its range.
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
        """Return what a generation_config.json asks for, with the defaults of ``transformers``.

        Args:
            config: the file as a dictionary. Without a true `do_sample` the choice is greedy, and
                only the repetition penalty is kept. With it, an absent `top_k` means 50, and a
                null is as if absent. Settings of other methods are not looked at.

        Raises:
            ModelError: a value is not of its type or outside its range.
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
    # An int beyond the range of floats is no number of any use here: isfinite refuses it.
    try:
        right = right and math.isfinite(value) and fits(value)  # type: ignore[arg-type]
    except OverflowError:
        right = False
    if not right:
        kind = "a whole number" if whole else "a number"
        raise OptionError(f"{name} is {value!r}, expected {kind}, {expected}")


class Sampler:
    """Chooses tokens one after another; has its own random numbers, shared with no other.

    Args:
        sampling: how.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))

    def __call__(self, logits: npt.NDArray[np.float32], tokens: Sequence[int] = ()) -> int:
        """Return the id of the next token; one random number is drawn unless greedy.

        Args:
            logits: float32 (vocab,); not changed. -inf is a token that must not be chosen.
            tokens: ids of the prompt and of what was generated so far, for the repetition penalty;
                ids outside the vocabulary have no logit and do not matter.

        Returns:
            An id from 0 to vocab - 1: of equal logits the greedy choice is the lowest id.

        Raises:
            InputShapeError: the logits are not one vector with at least one entry.
            ModelError: the largest logit is NaN or infinite, so that there is nothing to choose.
        """
        scores = np.asarray(logits, np.float32)
        if scores.ndim != 1 or not len(scores):
            raise InputShapeError(f"logits have shape {scores.shape}, expected (vocabulary,)")
        s = self._sampling
        if s.repetition_penalty != 1:
            scores = _penalized(scores, tokens, s.repetition_penalty)
        best = int(scores.argmax())  # of a NaN, if there is one
        if not math.isfinite(scores[best]):
            raise ModelError(
                f"no token can be chosen: the largest logit is {scores[best]} (token {best}); "
                "the model's weights or its input are damaged"
            )
        if s.temperature == 0:
            return best
        ids = np.arange(len(scores)) if s.top_k == 0 else _most_likely(scores, s.top_k)
        # Every step below works in place or on few tokens: fresh memory for a large vocabulary
        # costs more than the arithmetic.
        weights = (scores if s.top_k == 0 else scores[ids]).astype(np.float64)
        weights -= scores[best]
        with np.errstate(over="ignore"):  # to -inf, by a temperature near 0
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
        # The first entry above the drawn mass; rounding may reach the total, whose first entry is
        # that of the last token with any weight.
        drawn = np.searchsorted(cumulative, self._random.random() * total, side="right")
        return int(ids[min(drawn, np.searchsorted(cumulative, total, side="left"))])


def _most_likely(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.intp]:
    """Return the ids of the k largest scores and of those equal to the k-th, in rising order."""
    k = min(k, len(scores))
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k])


def _penalized(
    scores: npt.NDArray[np.float32], tokens: Sequence[int], penalty: float
) -> npt.NDArray[np.float32]:
    """Return a copy with the logits of all `tokens` made less likely."""
    ids = np.asarray(tokens, np.int64)
    ids = ids[(ids >= 0) & (ids < len(scores))]
    old, factor = scores[ids], np.float32(penalty)
    scores = scores.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # inf: the caller refuses it
        scores[ids] = np.where(old < 0, old * factor, old / factor)
    return scores


def _nucleus(weights: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.intp]:
    """Return where in weights (n,) the fewest largest are that have `top_p` of the sum, rising.

    Of equal weights at the border those with the lowest index are taken. The largest weight is 1.
    """
    enough = top_p * weights.sum()
    for floor in _FLOORS:
        places = np.flatnonzero(weights >= floor)
        large = weights[places]
        if large.sum() >= enough:
            break
    falling = np.sort(large)[::-1]
    count = int(np.searchsorted(np.cumsum(falling), enough, side="left")) + 1
    least = falling[min(count, len(falling)) - 1]
    kept = large > least
    kept[np.flatnonzero(large == least)[: count - int(kept.sum())]] = True
    nucleus: npt.NDArray[np.intp] = places[kept]
    return nucleus
