"""Texts that are generated side by side: each pass extends all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from .decoder import LOGIT_ROWS, MAX_ROWS, Adapters, BatchItem, Decoder, FloatArray
from .errors import CacheMemoryError
from .pace import Pace
from .prefix_cache import PrefixCache
from .scheduler import Scheduler
from .session import MOST_DRAFTED, Session, common_prefix
from .slots import Slots

# A text waits for another one that is reading the same beginning if that saves so many rows, or at
# least half of those that it lacks.
_WORTH_WAITING = 64


class BatchText(Protocol):
    """A text of a batch.

    Attributes:
        ids: tokens of prompt and text.
        scored_from: number of the first token after which `score` takes the logits, at most that of
            the last token; None: it takes none. The tokens before it may be known already.
        adapters: that it takes.
    """

    ids: list[int]
    scored_from: int | None
    adapters: Adapters

    @property
    def is_speculating(self) -> bool:
        """Whether `logits` drafts further tokens now."""

    def score(self, number: int, logits: FloatArray) -> None:
        """Take the logits after a token of the prompt, but the last, whose `take` gets.

        Args:
            number: of the token in `ids`.
            logits: float32 (vocab_size,): a buffer.
        """

    def logits(self, session: Session) -> FloatArray:
        """Return the logits after the text, float32 (vocab_size,), which a session computes."""

    def take(self, logits: FloatArray) -> bool:
        """Choose the next token; return whether the text goes on.

        Args:
            logits: float32 (vocab_size,): a buffer that this function may change.
        """


T = TypeVar("T", bound=BatchText)


@dataclass
class Pass(Generic[T]):
    """What a pass did.

    Attributes:
        seconds: how long it took, without waiting for other threads.
        rows: number of tokens that it computed, by text.
        taken: texts that chose a token.
        failed: texts that could not, and why. They are not part of the batch any more.
    """

    seconds: float = 0.0
    rows: dict[T, int] = field(default_factory=dict)
    taken: list[T] = field(default_factory=list)
    failed: list[tuple[T, Exception]] = field(default_factory=list)


@dataclass
class _Place(Generic[T]):
    """The slot of a text."""

    session: Session
    leader: T | None  # is reading tokens that this text needs, too
    shared: int  # number of these


@dataclass(frozen=True)
class _Row(Generic[T]):
    """A row of a pass whose logits are needed."""

    index: int  # in the pass
    text: T
    number: int | None  # of the token that is scored; None: the next token is chosen


def _sharable(text: BatchText) -> list[int]:
    """Return the tokens of a text of which all but the last may be known already."""
    return text.ids if text.scored_from is None else text.ids[: text.scored_from + 1]


class Batch(Generic[T]):
    """Texts that wait, and those that are generated, each with a session of its own.

    One thread at a time may use it; each pass is a turn at the decoder.
    """

    def __init__(
        self,
        decoder: Decoder,
        create: Callable[[], Session],
        slots: int,
        kept: int = 0,
        longest_pass: float | None = None,
        longest_alone: float | None = None,
        stored: PrefixCache | None = None,
    ) -> None:
        """Start without texts.

        Args:
            decoder: computes the passes.
            create: makes a session.
            slots: number of texts that are computed side by side.
            kept: number of further sessions, which only keep what later texts may share.
            longest_pass: seconds that a pass should take at most where several texts wait for it;
                None: any.
            longest_alone: the same for a pass of one text.
            stored: what was saved of earlier sessions.
        """
        self._decoder = decoder
        self._scheduler: Scheduler[T] = Scheduler(slots)
        self._slots = Slots(create, slots + kept)
        self._stored = stored
        self._places: dict[T, _Place[T]] = {}  # in the order in which they came
        self._longest_pass, self._longest_alone = longest_pass, longest_alone
        self._paces = {False: Pace(), True: Pace()}  # by whether prompts are scored

    @property
    def waiting(self) -> int:
        """Number of texts without a slot."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Number of texts in slots."""
        return self._scheduler.running

    @property
    def sessions(self) -> list[Session]:
        """The sessions of all texts, and those that are kept."""
        return self._slots.sessions

    def add(self, text: T) -> None:
        """Append a text to those that wait."""
        self._scheduler.add(text)

    def remove(self, text: T) -> None:
        """Take out a text; what was computed for it is kept for others."""
        self._scheduler.remove(text)
        place = self._places.pop(text, None)
        if place is not None:
            self._slots.give_back(place.session)

    def save(self, is_needed: Callable[[], bool]) -> None:
        """Save the sessions for a later batch of the same model, until `is_needed` returns true."""
        if self._stored is not None:
            self._stored.save(reversed(self.sessions), is_needed)

    def admit(self) -> Iterator[tuple[T, int | CacheMemoryError]]:
        """Give free slots to waiting texts; yield these, and how many tokens are known already.

        A text for whose keys and values there is not enough memory comes with the error instead,
        and is not part of the batch any more.
        """
        for text in self._scheduler.admit():
            try:
                session = self._slots.take(_sharable(text), text.adapters)
            except CacheMemoryError as error:
                self._scheduler.remove(text)
                yield text, error
                continue
            self._places[text] = self._place(text, session)
            yield text, self._places[text].shared

    def _place(self, text: T, session: Session) -> _Place[T]:
        sharable = _sharable(text)
        if text.scored_from is not None:
            session.missing(sharable)  # forgets tokens that are to be scored
        if self._stored is not None:
            self._stored.restore(session, sharable, self._decoder.rope_variant(len(text.ids)))
        lacking = session.missing(text.ids)
        have = len(text.ids) - lacking
        leader: T | None = None
        shared = have
        for other, place in self._places.items():
            if other.adapters != text.adapters:
                continue
            reach = min(common_prefix(sharable, other.ids), len(sharable) - 1)
            if reach > shared and len(place.session.tokens) < reach:
                leader, shared = other, reach
        if shared - have < min(_WORTH_WAITING, (lacking + 1) // 2):
            leader, shared = None, have
        return _Place(session, leader, shared)

    def _is_ready(self, text: T, place: _Place[T]) -> bool:
        """Return whether no other text is about to compute what this one needs."""
        leader = place.leader
        if leader is None:
            return True
        found = self._places.get(leader)
        if found is not None and len(found.session.tokens) < place.shared:
            found.session.cache.plan(place.shared)  # again: it may have been truncated since
            return False
        place.session.adopt(self.sessions, _sharable(text))
        place.leader = None
        return True

    def step(self) -> Pass[T]:
        """Run one pass for texts in slots, at least one.

        Raises:
            ClosedError: the decoder was closed.
        """
        if len(self._places) == 1:
            ((text, place),) = self._places.items()
            if text.is_speculating:
                return self._speculate(text, place.session)
        missing = {
            text: place.session.missing(text.ids)
            for text, place in self._places.items()
            if self._is_ready(text, place)
        }
        is_scored = any(text.scored_from is not None and missing[text] > 1 for text in missing)
        pace, most = self._paces[is_scored], self._prompt_rows(is_scored)
        most = min(most, MAX_ROWS - sum(count == 1 for count in missing.values()))
        rows = {
            text: self._places[text].session.cache.until_planned(count)
            for text, count in self._scheduler.next_pass(missing, max(most, 1)).items()
        }
        done = Pass[T](rows=rows)
        for text in list(rows):
            if (lacking := self._room_for(text, rows[text])) is not None:
                self._fail(text, lacking, done)
        if not rows:
            return done
        # Adapters side by side take one product. The order lets a recorded pass be used again:
        # passes differ by sessions.
        texts = sorted(
            rows,
            key=lambda one: (one.adapters, missing[one] > 1, id(self._places[one].session)),
        )
        with self._decoder.turn():
            start = perf_counter()
            self._run(texts, missing, done)
            done.seconds = perf_counter() - start
        for text, place in self._places.items():
            self._is_ready(text, place)  # before `admit` gives away the session of its leader
        if sum(rows[text] for text in texts if missing[text] > 1) == most:
            pace.add(most, done.seconds)
        return done

    def _room_for(self, text: T, rows: int) -> CacheMemoryError | None:
        """Find memory for further tokens, if need be that of idle sessions; return what lacks."""
        cache = self._places[text].session.cache
        positions = len(self._places[text].session.tokens) + rows
        while not cache.has_room(positions) and (idle := self._slots.drop_idle()) is not None:
            self._decoder.forget(idle.cache)
        try:
            cache.check_room(positions)
        except CacheMemoryError as error:
            return error
        return None

    def _fail(self, text: T, error: Exception, done: Pass[T]) -> None:
        done.rows.pop(text, None)
        done.failed.append((text, error))
        self.remove(text)

    def _speculate(self, text: T, session: Session) -> Pass[T]:
        """Extend the only text, with drafts of further tokens in the same pass.

        Beside others, a pass has no room for drafts: its rows are better spent on their tokens.
        """
        before = session.last_pass
        most = len(text.ids) - len(session.tokens) + MOST_DRAFTED
        if (lacking := self._room_for(text, most)) is not None:
            done = Pass[T]()
            self._fail(text, lacking, done)
            return done
        logits = text.logits(session)
        is_known = session.last_pass is before  # from the pass in which it was drafted
        done = Pass(0.0 if is_known else session.last_pass[1], {text: 1})
        self._take(text, logits, done)
        return done

    def _prompt_rows(self, is_scored: bool) -> int:
        is_alone = self.running + self.waiting == 1
        longest = self._longest_alone if is_alone else self._longest_pass
        return MAX_ROWS if longest is None else self._paces[is_scored].rows(longest)

    def _run(self, texts: list[T], missing: dict[T, int], done: Pass[T]) -> None:
        sessions = [self._places[text].session for text in texts]
        items = []
        for text, session in zip(texts, sessions, strict=True):
            have = len(session.tokens)
            tokens = text.ids[have : have + done.rows[text]]
            items.append(BatchItem(tokens, session.cache, have, session.variant, session.adapters))
        hidden = self._decoder.hidden(items)
        end, rows = 0, list[_Row[T]]()
        for text, session, item in zip(texts, sessions, items, strict=True):
            session.append(item.tokens)
            first, end = end, end + len(item.tokens)
            is_complete = done.rows[text] == missing[text]
            if text.scored_from is not None:
                stop = len(session.tokens) - is_complete
                scored = range(max(item.start, text.scored_from), stop)
                rows += (_Row(first + number - item.start, text, number) for number in scored)
            if is_complete:
                rows.append(_Row(end - 1, text, None))
        for start in range(0, len(rows), LOGIT_ROWS):
            part = rows[start : start + LOGIT_ROWS]
            logits = self._decoder.logits(hidden[[row.index for row in part]])
            for row, found in zip(part, logits, strict=True):
                if row.number is None:
                    self._take(row.text, found, done)
                else:
                    row.text.score(row.number, found)

    def _take(self, text: T, logits: FloatArray, done: Pass[T]) -> None:
        try:
            goes_on = text.take(logits)
        except Exception as error:  # of this text alone, such as a constraint's
            done.failed.append((text, error))
            goes_on = False
        else:
            done.taken.append(text)
        if not goes_on:
            self.remove(text)
