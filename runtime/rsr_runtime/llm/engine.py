"""An engine: many jobs at once, computed side by side by one thread."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from time import monotonic, perf_counter
from typing import NoReturn

from ..errors import ClosedError
from .arguments import whole_number
from .batch import Batch, Pass
from .decoder import Adapters, FloatArray
from .embedding import Embeddings, EmbedJob
from .errors import CacheMemoryError, ModelError, PromptError, QueueFullError
from .generate import Generation, Text
from .job import (
    Embedded,
    Event,
    Failed,
    Finished,
    Job,
    Logprob,
    PromptScored,
    Started,
    TextFinished,
    TokenAdded,
)
from .logprobs import logprob_of
from .model import LanguageModel
from .pace import Pace
from .session import Session
from .turns import Turns

_KEPT = 4  # sessions that keep what later jobs may share, beyond those of running texts
_LONGEST_PASS = 0.2  # seconds, where several texts wait for a pass
_LONGEST_ALONE = 0.5  # seconds, so that a job that comes next, or a cancel, need not wait longer
_IDLE_SECONDS = 2.0  # without a job, after which sessions are saved
_USUAL_SECONDS = 10.0  # of a job, before any has ended


@dataclass(frozen=True)
class EngineStats:
    """What an engine does, and did so far.

    Attributes:
        running: number of jobs that are computed.
        waiting: number of jobs in the queue.
        prompt_tokens: tokens of all prompts, without those that were cached.
        cached_tokens: tokens of prompts that were not computed again.
        generated_tokens: tokens that were chosen.
        prompt_seconds: seconds for prompts.
        generated_seconds: seconds for generated tokens. A pass counts by its rows of both kinds.
    """

    running: int
    waiting: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    prompt_seconds: float
    generated_seconds: float


class JobStream(Iterator[Event]):
    """The events of a job, if `submit` was given no function for them.

    The last one is `Failed` or `Finished`. `cancel` may be called by any thread.
    """

    def __init__(
        self, engine: Engine, worker: _Worker, on_event: Callable[[Event], None] | None
    ) -> None:
        self._engine = engine  # which lives as long as its jobs
        self._worker = worker
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._on_event = on_event
        self._is_over = on_event is not None
        self.is_canceled = False

    def __next__(self) -> Event:
        """Return the next event, and wait for it.

        Raises:
            ClosedError: the job belongs to the process that this one was forked from.
        """
        if self._is_over:
            raise StopIteration
        self._worker.check_process()
        event = self._events.get()
        self._is_over = isinstance(event, (Failed, Finished))
        return event

    def cancel(self) -> None:
        """End the job before the next pass; it has no effect on one that ended."""
        self.is_canceled = True
        self._worker.wake()

    def put(self, event: Event) -> None:
        """Hand over an event."""
        if self._on_event is None:
            self._events.put(event)
        else:
            self._on_event(event)

    def __reduce__(self) -> NoReturn:
        raise ModelError("a job that is computed cannot be pickled: pickle its events")


class Engine:
    """Computes many jobs at once; each pass extends all texts that are being generated.

    Jobs wait in a queue until a text ends. Prompts are read between the tokens of other texts, the
    shortest first. A prompt that begins like another one, token by token, shares what was computed
    for that. Passes over texts that are embedded alternate with those of other jobs. The model can
    be used beside its engine: both take turns, pass by pass.

    Of a BitNet with its trained activations, a text is the one that its job would yield alone.

    A thread of the engine does the work. It ends with `close`, or with the object. A process that
    is forked has an engine without jobs.

    Attributes:
        model: the language model.
        is_closed: whether `close` was called.
    """

    def __init__(
        self,
        model: LanguageModel,
        parallel: int = 4,
        queue: int = 64,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start without jobs.

        Args:
            model: the language model.
            parallel: number of texts that are computed side by side, and of `EmbedJob`s.
            queue: number of jobs that may wait.
            cache_dir: a folder in which the keys and values of prompts and texts are saved, when
                there is no job for 2 seconds and by `close`, for a later engine with the same model
                and settings. It is created if it is missing. It holds up to 8 GiB; the files that
                were not used for longest go first.

        Raises:
            OptionError: a number is below 1, or the folder cannot be used.
        """
        self.model = model
        self._parallel = whole_number("parallel", parallel, 1)
        self._queue = whole_number("queue", queue, 1)
        self._cache_dir = cache_dir
        self.is_closed = False
        self._workers: dict[int, _Worker] = {}  # by process: a forked child lacks the thread
        self._turns = Turns("the engine")
        self._worker()

    def _worker(self) -> _Worker:
        process = os.getpid()
        with self._turns.turn():
            worker = self._workers.get(process)
            if worker is None:
                worker = _Worker(self.model, self._parallel, self._queue, self._cache_dir)
                self._workers = {process: worker}
                weakref.finalize(self, worker.stop)
        return worker

    def submit(
        self,
        job: Job | EmbedJob,
        on_event: Callable[[Event], None] | None = None,
        *,
        beyond_queue: bool = False,
    ) -> JobStream:
        """Check a job, and append it to the queue.

        Args:
            job: what to do.
            on_event: takes the events. The thread of the engine calls it, so it must not take
                long. If it raises an exception, the job is canceled. None: the result yields them.
            beyond_queue: whether the job may wait although the queue is full, as it belongs to one
                that was taken.

        Raises:
            PromptError, ContextFullError, OptionError, ModelError: as for `LanguageModel.stream` or
                `embed`, or a number in the job is out of range.
            QueueFullError: too many jobs wait.
            ClosedError: the engine or the model was closed.
        """
        if self.is_closed:
            raise ClosedError("the engine was closed")
        worker = self._worker()
        stream = JobStream(self, worker, on_event)
        running: _Running | _RunningEmbedding
        if isinstance(job, EmbedJob):
            embeddings = self.model.prepared_embeddings(job)
            if not embeddings.texts:
                raise PromptError("found no texts, expected at least one to embed")
            running = _RunningEmbedding(embeddings, stream)
        else:
            adapters = self.model.chosen_adapters(job.adapter)
            running = _Running(*_checked(self.model, job), adapters, stream)
        worker.submit(running, beyond_queue)
        return stream

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs. It ends with `close`, or by an error."""
        return self._worker().is_alive

    def stats(self) -> EngineStats:
        """Return what the engine does, and did so far."""
        return self._worker().stats()

    def close(self, seconds: float = 0) -> None:
        """Take no more jobs, and end those that do not finish in time with `Failed`.

        Args:
            seconds: how long jobs may go on.
        """
        self.is_closed = True
        worker = self._workers.get(os.getpid())
        if worker is not None:
            worker.close(seconds)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise ModelError("an engine cannot be pickled: pickle the model")


def _checked(model: LanguageModel, job: Job) -> tuple[Job, list[Text], int]:
    """Return a job, its texts, and the number of tokens of its prompt."""
    texts_count = whole_number("texts", job.texts, 1)
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(job, name) is not None:
            whole_number(name, getattr(job, name), 0)
    if job.max_tokens is not None:
        whole_number("max_tokens", job.max_tokens, 0)
    prompt, sampling, until = model.prepared(job.prompt, job.max_tokens, job.sampling, job.stop)
    texts = []
    for i in range(texts_count):
        seed = sampling.seed
        own = sampling if seed is None or not i else replace(sampling, seed=seed + i)
        constraint = None if job.constraint is None else job.constraint()
        speculation = model.new_speculation(job.speculate)
        options = own, until, job.shown_special, constraint, speculation
        texts.append(Text(prompt, model.tokenizer, *options))
    return job, texts, len(prompt.ids)


class _Submitted:
    """A job that was submitted."""

    def __init__(self, prompt_tokens: int, stream: JobStream) -> None:
        self.prompt_tokens = prompt_tokens
        self.stream = stream
        self.submitted = perf_counter()
        self.started: float | None = None


class _Running(_Submitted):
    """A job whose texts are generated, and what it still has to do."""

    def __init__(
        self,
        job: Job,
        texts: list[Text],
        prompt_tokens: int,
        adapters: Adapters,
        stream: JobStream,
    ) -> None:
        super().__init__(prompt_tokens, stream)
        self.job = job
        self.adapters = adapters
        self.texts = [_JobText(self, i, text) for i, text in enumerate(texts)]
        self.unfinished = set(self.texts)


class _RunningEmbedding(_Submitted):
    """A job whose texts are embedded."""

    def __init__(self, embeddings: Embeddings, stream: JobStream) -> None:
        super().__init__(embeddings.tokens, stream)
        self.embeddings = embeddings
        self.seconds = 0.0  # of the passes so far


class _JobText:
    """A text of a job, as a text of a batch. It keeps its events until the pass is over."""

    def __init__(self, job: _Running, index: int, text: Text) -> None:
        self.of = job
        self.index = index
        self.text = text
        self.ids = text.ids
        self.adapters = job.adapters
        self.scored_from = 0 if job.job.prompt_logprobs is not None and index == 0 else None
        self.scores: list[Logprob | None] = [None]
        self.events: list[Event] = []
        self._admitted = self._first = perf_counter()

    @property
    def is_speculating(self) -> bool:
        return self.text.speculation is not None and self.text.count > 0

    def logits(self, session: Session) -> FloatArray:
        return self.text.logits(session)

    def begin(self) -> None:
        """Start the clock: the text has a slot."""
        self._admitted = perf_counter()

    def score(self, number: int, logits: FloatArray) -> None:
        top = self.of.job.prompt_logprobs or 0
        self.scores.append(logprob_of(logits, self.ids[number + 1], top))

    def take(self, logits: FloatArray) -> bool:
        text, job, is_first = self.text, self.of.job, self.text.count == 0
        if self.scored_from is not None and is_first:
            self.events.append(PromptScored(self.scores))
        if job.max_tokens == 0:
            text.finish_reason = "length"
        else:
            is_kept = job.logprobs is not None and job.constraint is not None
            before = logits.copy() if is_kept else logits
            piece = text.take(logits)
            token = self.ids[-1]
            logprob = None
            if job.logprobs is not None:
                logprob = logprob_of(before, token, job.logprobs)
            self.events.append(TokenAdded(self.index, token, piece, logprob))
        if is_first:
            self._first = perf_counter()
        if text.finish_reason is not None:
            self.events.append(TextFinished(self.index, self.result()))
        return text.finish_reason is None

    def result(self) -> Generation:
        """Return the text so far."""
        now = perf_counter()
        first = self._first if self.text.count else now
        return self.text.result(first - self._admitted, now - first)


@dataclass
class _Totals:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prompt_seconds: float = 0.0
    generated_seconds: float = 0.0
    job_seconds: float = _USUAL_SECONDS  # of a job that ended, roughly the mean of the last ones


@dataclass
class _Inbox:
    """What other threads ask of the engine's; guarded by `changed`."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    jobs: deque[_Running | _RunningEmbedding] = field(default_factory=deque)
    waiting: int = 0  # jobs that were submitted and have not started
    is_woken: bool = False
    ends_at: float | None = None  # after `close`, on the clock of `monotonic`


class _Worker:
    """The engine's thread in one process, and all that it works on."""

    def __init__(
        self,
        model: LanguageModel,
        parallel: int,
        queue: int,
        cache_dir: str | os.PathLike[str] | None,
    ) -> None:
        self._process = os.getpid()
        self._parallel, self._queue = parallel, queue
        self._inbox = _Inbox()
        self._batch: Batch[_JobText] = model.new_batch(
            parallel, _KEPT, _LONGEST_PASS, _LONGEST_ALONE, cache_dir
        )
        self._embedding = model.new_embedding_passes(parallel)
        self._embedding_pace = Pace()
        self._embedded: dict[Embeddings, _RunningEmbedding] = {}
        # Those that the thread knows, in order.
        self._jobs: dict[_Running | _RunningEmbedding, None] = {}
        self._totals = _Totals()
        self._is_saved = True  # all that is in the sessions
        self._thread = threading.Thread(target=self._run, name="rsr engine", daemon=True)
        self._thread.start()

    # --- called by other threads ---

    def submit(self, job: _Running | _RunningEmbedding, beyond_queue: bool) -> None:
        inbox = self._inbox
        with inbox.changed:
            if inbox.ends_at is not None:
                raise ClosedError("the engine was closed")
            if not beyond_queue and inbox.waiting >= self._queue:
                seconds = self._totals.job_seconds * inbox.waiting / self._parallel
                raise QueueFullError(inbox.waiting, max(1, round(seconds)))
            inbox.waiting += 1
            inbox.jobs.append(job)
            inbox.changed.notify()

    def wake(self) -> None:
        """Let the thread look after jobs that were canceled."""
        if os.getpid() == self._process:
            with self._inbox.changed:
                self._inbox.is_woken = True
                self._inbox.changed.notify()

    def stop(self, seconds: float = 0) -> None:
        """End the thread after its pass; jobs may go on for some seconds."""
        if os.getpid() == self._process:  # else the lock may be another thread's of the parent
            with self._inbox.changed:
                self._inbox.ends_at = monotonic() + seconds
                self._inbox.changed.notify()

    def close(self, seconds: float) -> None:
        self.stop(seconds)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def check_process(self) -> None:
        if os.getpid() != self._process:
            raise ClosedError("the job belongs to another process, which this one was forked from")

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stats(self) -> EngineStats:
        totals, waiting = self._totals, self._inbox.waiting
        return EngineStats(
            sum(job.started is not None for job in tuple(self._jobs)),
            waiting,
            totals.prompt_tokens,
            totals.cached_tokens,
            totals.generated_tokens,
            totals.prompt_seconds,
            totals.generated_seconds,
        )

    # --- the thread ---

    def _run(self) -> None:
        try:
            while self._wait():
                self._cancel()
                try:
                    self._admit()
                    if self._batch.running:
                        self._pass()
                    if self._embedding:
                        self._embed()
                except Exception as error:  # of a pass: no text of it can go on
                    self._end_all(error)
        finally:
            with self._inbox.changed:
                self._inbox.ends_at = monotonic()  # if an error ends the thread: no more jobs
            self._end_all(ClosedError("the engine was closed"))
            self._batch.save(lambda: False)

    def _has_work(self) -> bool:
        inbox = self._inbox
        return bool(inbox.jobs or inbox.is_woken or self._jobs or inbox.ends_at is not None)

    def _wait(self) -> bool:
        """Wait for something to do, and take new jobs; return False to end the thread."""
        inbox = self._inbox
        with inbox.changed:
            is_idle = not inbox.changed.wait_for(
                self._has_work, None if self._is_saved else _IDLE_SECONDS
            )
        if is_idle:
            self._is_saved = True
            self._batch.save(self._has_work)
        with inbox.changed:
            inbox.changed.wait_for(self._has_work)
            inbox.is_woken = False
            self._take_in()
            return inbox.ends_at is None or (bool(self._jobs) and monotonic() < inbox.ends_at)

    def _take_in(self) -> None:
        """Take new jobs from the inbox."""
        while self._inbox.jobs:
            job = self._inbox.jobs.popleft()
            self._jobs[job] = None
            if isinstance(job, _RunningEmbedding):
                self._embedded[job.embeddings] = job
                self._embedding.add(job.embeddings)
                continue
            self._is_saved = False
            # Other texts come after the scores: cached ones would choose tokens before these.
            for text in job.texts[: None if job.texts[0].scored_from is None else 1]:
                self._batch.add(text)

    def _cancel(self) -> None:
        for job in [job for job in self._jobs if job.stream.is_canceled]:
            texts = job.unfinished if isinstance(job, _Running) else ()
            for text in sorted(texts, key=lambda one: one.index):
                if job.started is not None:
                    self._put(job, TextFinished(text.index, text.result()))
            self._end(job, Finished(canceled=True))

    def _admit(self) -> None:
        for text, known in list(self._batch.admit()):  # first all: a job that ends removes its own
            job = text.of
            if job not in self._jobs:
                continue
            if isinstance(known, CacheMemoryError):
                self._end(job, Failed(known))
                continue
            text.begin()
            if job.started is None:
                self._start(job, known)

    def _start(self, job: _Running | _RunningEmbedding, known: int) -> None:
        job.started = perf_counter()
        with self._inbox.changed:
            self._inbox.waiting -= 1
        self._totals.prompt_tokens += job.prompt_tokens - known
        self._totals.cached_tokens += known
        self._put(job, Started(job.prompt_tokens, known, job.started - job.submitted))

    def _pass(self) -> None:
        done = self._batch.step()
        if done.rows:
            self._count(done)
        for text in done.taken:
            events, text.events = text.events, []
            for event in events:
                self._put(text.of, event)
                if isinstance(event, PromptScored):
                    for other in text.of.texts[1:]:
                        self._batch.add(other)
            if text.text.finish_reason is not None:
                text.of.unfinished.discard(text)
                if not text.of.unfinished:
                    self._end(text.of, Finished())
        for text, error in done.failed:
            text.of.unfinished.discard(text)
            self._end(text.of, Failed(error))

    def _embed(self) -> None:
        """Run a pass over texts that are embedded."""
        longest = _LONGEST_PASS if self._batch.running else _LONGEST_ALONE
        rows = self._embedding_pace.rows(longest)
        done = self._embedding.step(rows)
        for embeddings, error in done.failed:
            self._end(self._embedded[embeddings], Failed(error))
        if done.rows == rows:
            self._embedding_pace.add(rows, done.seconds)
        self._totals.prompt_seconds += done.seconds
        for embeddings in done.computed:
            job = self._embedded[embeddings]
            job.seconds += done.seconds
            if job.started is None:
                self._start(job, 0)
        for embeddings in done.ended:
            job = self._embedded[embeddings]
            self._put(job, Embedded(embeddings.vectors(), job.seconds))
            self._end(job, Finished())

    def _count(self, done: Pass[_JobText]) -> None:
        totals, every, chosen = self._totals, sum(done.rows.values()), set(done.taken)
        generated = sum(
            rows for text, rows in done.rows.items() if text.text.count > (text in chosen)
        )
        totals.generated_tokens += sum(text.of.job.max_tokens != 0 for text in done.taken)
        totals.generated_seconds += done.seconds * generated / every
        totals.prompt_seconds += done.seconds * (every - generated) / every

    def _put(self, job: _Submitted, event: Event) -> None:
        try:
            job.stream.put(event)
        except BaseException:  # of the function that takes events: nobody listens
            job.stream.is_canceled = True

    def _end(self, job: _Running | _RunningEmbedding, event: Event) -> None:
        """Forget a job, free its slots, and put its last event."""
        if self._jobs.pop(job, self) is self:  # it ended already
            return
        if isinstance(job, _RunningEmbedding):
            self._embedding.remove(job.embeddings)
            del self._embedded[job.embeddings]
        else:
            for text in job.unfinished:
                self._batch.remove(text)
            job.unfinished.clear()
        now = perf_counter()
        if job.started is None:
            with self._inbox.changed:
                self._inbox.waiting -= 1
        else:
            self._totals.job_seconds += 0.1 * (now - job.started - self._totals.job_seconds)
        self._put(job, event)

    def _end_all(self, error: Exception) -> None:
        with self._inbox.changed:
            self._take_in()
        for job in list(self._jobs):
            self._end(job, Failed(error))
