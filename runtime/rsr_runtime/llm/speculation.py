"""Speculation: tokens that repeat an earlier part of the text are drafted, and one pass checks all.

A pass over several tokens of a text reads the weights once, so it takes less time than a pass for
each. `NgramDraft` guesses that a text goes on as it did where its last tokens occurred before. The
pass gives the logits after each guessed token, and the sampler chooses from them as it would
without a guess: a guess that it did not choose is dropped together with all after it. What is
chosen, and the random numbers that this takes, are therefore those of a text without speculation.

How many tokens are drafted is decided anew for each pass, from how often such guesses were right
and from how long passes take. It may be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .session import FloatArray, Session

# Rows of a pass: few numbers, because each is recorded as a program and timed.
ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)

_LONGEST_MATCH = 32  # tokens that are compared; more say nothing new
_KINDS = (
    _LONGEST_MATCH.bit_length() + 1
)  # of matches: each is up to twice as long as the one before

_FIRST_GUESS = 0.3  # probability that a guess is right before any was seen
_WEIGHT = 2.0  # of what is known from shorter matches, in guesses
_MEMORY = 0.97  # what a guess counts after the next one of its kind: some 30 guesses count

_GAIN = 1.06  # what a draft must promise: estimates are uncertain
_LEAST_SLOPE = 0.05  # of the time of one row that a further one takes at least, as far as is known
_AGING = 0.9997  # of a time, per pass: one that is never confirmed is tried again at some time
_DOWN, _UP = 0.5, 0.1  # shares by which a time follows a new one: few are too short, some too long


class PassTimes:
    """How long a pass of so many rows takes, compared to others.

    Args:
        assumed: the time of a further row, in passes of one row, which replaces all measurement;
            None: times are measured.
    """

    def __init__(self, assumed: float | None = None) -> None:
        self._assumed = assumed
        self._seconds: dict[int, float] = {}
        self._begun: set[int] = set()

    def add(self, rows: int, seconds: float) -> None:
        """Take note of the time of a pass."""
        if rows not in self._begun:  # it was recorded, too, and its buffers were new
            self._begun.add(rows)
            return
        for other in list(self._seconds):  # a copy: other threads may add a time
            self._seconds[other] *= _AGING
        known = self._seconds.get(rows, seconds)
        share = _DOWN if seconds < known else _UP
        self._seconds[rows] = known + share * (seconds - known)

    def relative(self) -> list[float]:
        """Return estimates for the first of `ROWS`, up to one that is to be tried next.

        They are relative to one row. As long as the time of that is unknown, there is just 1.
        """
        if self._assumed is not None:
            return [1 + self._assumed * (rows - 1) for rows in ROWS]
        seconds = self._seconds.copy()
        found, slope = [1.0], 2 * _LEAST_SLOPE
        for before, rows in pairwise(ROWS):
            if before not in seconds:
                break
            # A pass takes no longer than one of more rows: what says otherwise was disturbed.
            known = [time / seconds[1] for more, time in seconds.items() if more >= rows]
            # A guess on the low side, so that it is tried.
            guess = found[-1] + slope / 2 * (rows - before)
            least = found[-1] + _LEAST_SLOPE * (rows - before)
            found.append(max(least, min(known, default=guess)))
            slope = (found[-1] - 1) / (rows - 1)
        return found


class Speculation:
    """The logits of one text, computed for several tokens at once where that pays.

    Attributes:
        drafted: number of tokens that were drafted.
        accepted: number of these that the sampler chose.
    """

    def __init__(self, times: PassTimes) -> None:
        self._times = times
        self._drafting = NgramDraft(times)
        self._length = 0  # of the text before the draft
        self._draft: list[int] = []
        self._logits: FloatArray = np.empty((0, 0), np.float32)  # before and in the draft
        self.drafted = self.accepted = 0

    def follow(
        self, session: Session, ids: list[int], tokens: npt.NDArray[np.int64], room: int
    ) -> FloatArray:
        """Return the logits after a text, float32 (vocab_size,).

        Args:
            session: computes what is not yet known.
            ids: the text.
            tokens: the same as int64 (n,).
            room: maximum tokens of a draft.
        """
        done = len(ids) - self._length
        if 0 <= done < len(self._logits) and ids[self._length :] == self._draft[:done]:
            self.accepted += done > 0
            known: FloatArray = self._logits[done]
            return known
        self._logits = self._logits[:0]  # if the pass is interrupted
        draft = self._drafting.draft(tokens, room)
        logits = session.verify(ids, draft)
        rows, seconds = session.last_pass
        if rows == len(logits):  # else the logits of some were not computed
            self._times.add(rows, seconds)
        self.drafted += len(logits) - 1
        self._length, self._draft, self._logits = len(ids), draft, logits
        first: FloatArray = logits[0]
        return first


class NgramDraft:
    """Drafts of one text."""

    def __init__(self, times: PassTimes) -> None:
        self._times = times
        self._right = [0.0] * _KINDS  # guesses by the kind of their match
        self._all = [0.0] * _KINDS
        self._guess: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._position = 0  # of the guess in the text
        self._match = 0  # number of tokens before it that occurred before

    def draft(self, tokens: npt.NDArray[np.int64], room: int) -> list[int]:
        """Return tokens to check in the next pass.

        Args:
            tokens: int64 (n,), the text so far.
            room: the largest number of tokens to return.
        """
        self._learn(tokens)
        source, self._match = longest_match(tokens)
        self._position = len(tokens)
        if not self._match:
            self._guess = tokens[:0]
            return []
        # The text after the match; it may reach the end of the text, and then repeats.
        self._guess = np.resize(tokens[source : source + ROWS[-1]], ROWS[-1])
        drafted: list[int] = self._guess[: self._best(room)].tolist()
        return drafted

    def _learn(self, tokens: npt.NDArray[np.int64]) -> None:
        """Compare the last guess, of which all or none may have been checked, with the text."""
        came = tokens[self._position :]
        for i, (guess, token) in enumerate(zip(self._guess, came, strict=False)):
            kind = _kind(self._match + i)
            is_right = bool(guess == token)
            self._right[kind] = self._right[kind] * _MEMORY + is_right
            self._all[kind] = self._all[kind] * _MEMORY + 1
            if not is_right:
                break

    def _best(self, room: int) -> int:
        """Return the number of tokens whose draft promises most tokens per second."""
        times = self._times.relative()
        odds = self._odds()
        best, most = 0, _GAIN
        expected, probability, drafted = 1.0, 1.0, 0
        for rows, time in zip(ROWS[1:], times[1:], strict=False):
            if rows - 1 > room:
                break
            while drafted < rows - 1:
                probability *= odds[_kind(self._match + drafted)]
                expected += probability
                drafted += 1
            if expected / time > most:
                best, most = drafted, expected / time
        return best

    def _odds(self) -> list[float]:
        """Return the probability that a guess is right, by the kind of its match.

        Where a kind is rare, matches that are shorter say what to expect.
        """
        odds, found = _FIRST_GUESS, []
        for right, count in zip(self._right, self._all, strict=True):
            odds = (right + _WEIGHT * odds) / (count + _WEIGHT)
            found.append(odds)
        return found


def longest_match(tokens: Sequence[int] | npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return where the last tokens of a text occurred before, and how many of them.

    Returns:
        The position after the longest earlier occurrence, the last one if there are several, and
        the number of tokens that it shares with the end of the text, at most 32; 0, 0 if there is
        none.
    """
    tokens = np.asarray(tokens, np.int64)
    last = len(tokens) - 1
    found = np.flatnonzero(tokens[:last] == tokens[last]) if last > 0 else np.empty(0, np.int64)
    if not len(found):
        return 0, 0
    length = 1
    while length < _LONGEST_MATCH:
        longer = found[found >= length]
        longer = longer[tokens[longer - length] == tokens[last - length]]
        if not len(longer):
            break
        found, length = longer, length + 1
    return int(found[-1]) + 1, length


def _kind(match: int) -> int:
    return min(match.bit_length(), _KINDS - 1)
