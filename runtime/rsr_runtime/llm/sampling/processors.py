"""Processors of scores, which ``transformers`` applies before it takes or draws a token.

Each changes scores, float32 (vocab_size,), in place. `tokens` are those of prompt and text so far.
Arithmetic is in float32, as there, so that the largest score is the same. -inf forbids a token.
Tokens outside the vocabulary are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int64]
Tokens = Sequence[int] | TokenArray
Processor = Callable[[Scores, Tokens], None]

_MAX = float(np.finfo(np.float32).max)


class Biases:
    """Biases of the last token of sequences, where the others precede it.

    Args:
        sequences: tokens, at least one, and the bias of the last. The last of equal ones counts.
    """

    def __init__(self, sequences: Iterable[tuple[Sequence[int], float]]) -> None:
        found: dict[tuple[int, ...], dict[int, float]] = {}
        for (*before, token), bias in sequences:
            found.setdefault(tuple(before), {})[token] = bias
        # By the number of tokens before the last one, then by those.
        self._groups: dict[int, dict[tuple[int, ...], tuple[TokenArray, Scores]]] = {}
        for key, biases in found.items():
            arrays = np.array([*biases], np.int64), np.array([*biases.values()], np.float32)
            self._groups.setdefault(len(key), {})[key] = arrays

    def after(self, tokens: Tokens) -> Iterator[tuple[TokenArray, Scores]]:
        """Yield tokens and their biases after `tokens`."""
        for length, group in self._groups.items():
            if length <= len(tokens):
                found = group.get(tuple(tokens[len(tokens) - length :]))
                if found is not None:
                    yield found


def add_biases(scores: Scores, tokens: Tokens, biases: Biases) -> None:
    """Add the biases of the tokens that may come next."""
    for ids, values in biases.after(tokens):
        known = ids < len(scores)
        scores[ids[known]] += values[known]


def penalize(scores: Scores, seen: Tokens, penalty: float) -> None:
    """Divide positive scores of the tokens `seen` by `penalty`, and multiply negative ones."""
    ids = _within(scores, seen)
    old, factor = scores[ids], np.float32(penalty)
    scores[ids] = np.where(old < 0, old * factor, old / factor)


def penalize_occurrence(
    scores: Scores, tokens: Tokens, start: int, presence: float, frequency: float
) -> None:
    """Subtract the penalties of OpenAI's API from the tokens from `start` on."""
    ids, counts = np.unique(_within(scores, tokens[start:]), return_counts=True)
    scores[ids] -= (presence + frequency * counts).astype(np.float32)


def forbid_ngrams(scores: Scores, tokens: Tokens, text: Tokens, size: int) -> None:
    """Forbid the tokens with which the last `size` tokens would occur in `text`."""
    if len(text) < size:
        return
    array, first = np.asarray(text, np.int64), len(tokens) + 1 - size
    starts = np.arange(len(array) - size + 1)
    for offset, token in enumerate(tokens[first:]):
        starts = starts[array[starts + offset] == token]
        if not len(starts):
            return
    forbid(scores, array[starts + size - 1])


def forbid(scores: Scores, ids: Tokens) -> None:
    """Forbid tokens."""
    scores[_within(scores, ids)] = -np.inf


def force(scores: Scores, ids: Tokens) -> None:
    """Forbid all tokens but these."""
    scores[:] = -np.inf
    scores[_within(scores, ids)] = 0


def remove_invalid(scores: Scores) -> None:
    """Take NaN as 0, and infinity as the largest number."""
    np.nan_to_num(scores, copy=False, nan=0.0, posinf=_MAX, neginf=-_MAX)


def favor_ends(scores: Scores, ends: Tokens, factor: float, n: int) -> None:
    """Raise the scores of the end tokens by a share of their size, `factor` ** `n` - 1."""
    try:
        growth = factor**n - 1
    except OverflowError:
        growth = float(_MAX)
    ids = _within(scores, ends)
    old = scores[ids]
    added = np.where(np.isfinite(old), np.abs(old) * np.float32(np.clip(growth, -_MAX, _MAX)), 0)
    scores[ids] = np.clip(old + added, None, _MAX)


def normalize(scores: Scores) -> None:
    """Turn scores into logarithms of probabilities."""
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())


def _within(scores: Scores, ids: Tokens) -> TokenArray:
    array: TokenArray = np.asarray(ids, np.int64)
    return array[(array >= 0) & (array < len(scores))]
