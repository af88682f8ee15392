"""Texts that are embedded: a pass computes the tokens of several of them, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from .decoder import MAX_ROWS, BatchItem, Decoder, FloatArray
from .errors import CacheMemoryError
from .kv_cache import KVCache
from .pooling import Pooler, Pooling, normalized

_TURN = 64  # tokens that a request gets before the next one has its turn
_LEAST_SAVED = 64  # tokens that need not be computed again, for which another pass pays


@dataclass(frozen=True)
class EmbedJob:
    """A request for the vectors of texts.

    Attributes:
        texts: texts, or the tokens of each.
        prompt: what precedes each text, None: as `prompt_name` says. Tokens have none.
        prompt_name: one of the model's prompts, None: its default prompt, if it has one.
        dimensions: how many of a vector's dimensions to keep, the first ones; None: all.
        normalize: whether vectors get length 1; None: as the model says.
        pooling: one of `MODES`; None: as the model says.
        truncate: whether texts that are too long for the model are cut, as sentence-transformers
            does, or refused. Tokens are refused.
    """

    texts: Sequence[str | Sequence[int] | npt.NDArray[np.integer]]
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    pooling: str | None = None
    truncate: bool = False


class EmbeddingText:
    """A text whose states are computed and pooled."""

    def __init__(self, ids: list[int], pooling: Pooling, prompt_tokens: int) -> None:
        self.ids = ids
        self.needs_all = pooling.needs_all
        # The last token belongs to the text, whatever precedes it.
        self.skipped = prompt_tokens if self.needs_all else 0
        self.pooler = Pooler(pooling, self.skipped)
        self.cache: KVCache | None = None  # while it is computed
        self.done = 0  # tokens whose states are known
        self._pooling = pooling
        self._beginning: EmbeddingText | None = None

    @property
    def is_computed(self) -> bool:
        """Whether the states of all tokens are known."""
        return self.done == len(self.ids)

    def beginning(self, length: int) -> EmbeddingText:
        """Return the first tokens as a text of its own, for `follow`."""
        return EmbeddingText(self.ids[:length], self._pooling, self.skipped)

    def follow(self, beginning: EmbeddingText) -> None:
        """Take over the states of a text that this one begins with, all of which are computed."""
        self._beginning = beginning
        self.done = len(beginning.ids)
        self.pooler = deepcopy(beginning.pooler)

    def reserve(self, create: Callable[[int], KVCache]) -> None:
        """Make the cache, unless there is one.

        Raises:
            CacheMemoryError: there is not enough memory.
        """
        if self.cache is None:
            self.cache = create(len(self.ids))
            if self._beginning is not None:
                assert self._beginning.cache is not None
                self.cache.copy_prefix(self._beginning.cache, self.done)


class Embeddings:
    """The texts of a request, and their vectors when all are computed.

    Attributes:
        texts: in the order of the request.
        waiting: those whose computation has not ended.
        beginning: what all texts begin with, if it is computed once.
        tokens: number of tokens of all.
        truncated: how many tokens texts had that were cut, by their numbers.
    """

    def __init__(
        self,
        texts: Sequence[EmbeddingText],
        dimensions: int,
        normalizes: bool,
        truncated: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.truncated = truncated
        self.texts = tuple(texts)
        self.waiting = deque(self.texts)
        self.beginning: EmbeddingText | None = None
        self.tokens = sum(len(text.ids) for text in texts)
        self._dimensions, self._normalizes = dimensions, normalizes

    @property
    def done(self) -> int:
        """Number of tokens whose states are known."""
        return sum(text.done for text in self.texts)

    @property
    def line(self) -> deque[EmbeddingText]:
        """The texts to compute next: what all begin with, else those that are waiting."""
        first = self.beginning
        return deque(self.waiting if first is None or first.is_computed else [first])

    def proceed(self) -> None:
        """Let all texts follow their beginning, once it is computed."""
        if self.beginning is not None and self.beginning.is_computed:
            for text in self.texts:
                if not text.done:
                    text.follow(self.beginning)

    def shared(self) -> int:
        """Return how many tokens all texts begin with; the last one of a text is its own."""
        ids = [text.ids for text in self.texts]
        if len({text.skipped for text in self.texts}) > 1:
            return 0
        first, last = min(ids), max(ids)  # in the order of a dictionary
        most = min(map(len, ids)) - 1
        pairs = zip(first[:most], last[:most], strict=True)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), most)

    def vectors(self) -> FloatArray:
        """Return the vectors, float32 (texts, dimensions)."""
        vectors: FloatArray = np.empty((len(self.texts), self._dimensions), np.float32)
        for text, vector in zip(self.texts, vectors, strict=True):
            vector[:] = text.pooler.vector()[: self._dimensions]
        return normalized(vectors) if self._normalizes else vectors


class EmbeddingPasses:
    """Computes the texts of requests. Each pass takes tokens of several texts, in turns.

    A text has a KV cache of its own length, and only until all its tokens are computed. What all
    texts of a request begin with, such as an instruction, is computed once and copied, where that
    saves more than the pass that it takes.

    Args:
        decoder: computes the passes.
        create: makes a cache of a number of positions.
        most: requests that are computed side by side; others wait.
    """

    def __init__(self, decoder: Decoder, create: Callable[[int], KVCache], most: int) -> None:
        self._decoder = decoder
        self._create = create
        self._most = most
        self._requests: deque[Embeddings] = deque()

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, request: Embeddings) -> None:
        """Append a request, which has at least one text."""
        length = request.shared()
        variants = {self._decoder.rope_variant(len(text.ids)) for text in request.texts}
        if length * (len(request.texts) - 1) >= _LEAST_SAVED and variants == {
            self._decoder.rope_variant(length)
        }:
            request.beginning = request.texts[0].beginning(length)
        self._requests.append(request)

    def remove(self, request: Embeddings) -> None:
        """Forget a request, which may have ended."""
        if request in self._requests:
            self._requests.remove(request)
            for text in (request.beginning, *request.waiting):
                if text is not None:
                    self._release(text)

    def step(self, rows: int = MAX_ROWS) -> EmbeddingPass:
        """Run one pass.

        Args:
            rows: the most tokens that it computes.

        Raises:
            ClosedError: the decoder was closed.
        """
        failed: list[tuple[Embeddings, CacheMemoryError]] = []
        chosen = self._choose(rows)
        while (lacking := self._reserve(chosen)) is not None:
            failed.append(lacking)
            self.remove(lacking[0])
            chosen = self._choose(rows)
        if not chosen:
            return EmbeddingPass(0, 0.0, [], [], failed)
        computed = [request for request in self._requests if request.line[0] in chosen]
        with self._decoder.turn():
            start = perf_counter()
            self._run(chosen)
            seconds = perf_counter() - start
        ended = []
        for request in list(self._requests):
            request.proceed()
            while request.waiting and request.waiting[0].is_computed:
                self._release(request.waiting.popleft())
            if not request.waiting:
                self.remove(request)
                ended.append(request)
        return EmbeddingPass(sum(chosen.values()), seconds, computed, ended, failed)

    def _reserve(
        self, chosen: Mapping[EmbeddingText, int]
    ) -> tuple[Embeddings, CacheMemoryError] | None:
        """Give texts their caches; return the request of one that there is no memory for."""
        for text in chosen:
            try:
                text.reserve(self._create)
            except CacheMemoryError as error:
                return next(r for r in self._requests if text in r.line), error
        return None

    def _choose(self, rows: int) -> dict[EmbeddingText, int]:
        """Return texts and how many tokens of each to compute: requests take turns."""
        chosen: dict[EmbeddingText, int] = {}
        lines = deque(request.line for request in islice(self._requests, self._most))
        while rows and lines:
            line = lines.popleft()
            text, taken = line[0], chosen.get(line[0], 0)
            missing = len(text.ids) - text.done - taken
            count = min(rows, missing, _TURN)
            chosen[text] = taken + count
            rows -= count
            if count == missing:
                line.popleft()
            if line:
                lines.append(line)
        return chosen

    def _run(self, chosen: Mapping[EmbeddingText, int]) -> None:
        items = []
        for text, count in chosen.items():
            assert text.cache is not None
            tokens = text.ids[text.done : text.done + count]
            variant = self._decoder.rope_variant(len(text.ids))
            items.append(BatchItem(tokens, text.cache, text.done, variant))
        hidden = self._decoder.hidden(items)
        end = 0
        for text, count in chosen.items():
            first, end = end, end + count
            assert text.cache is not None
            text.cache.append(count)
            text.done += count
            if text.needs_all:
                text.pooler.add(self._decoder.states(hidden[first:end]))
            elif text.is_computed:
                text.pooler.add(self._decoder.states(hidden[end - 1 : end]))

    def _release(self, text: EmbeddingText) -> None:
        if text.cache is not None:
            self._decoder.forget(text.cache)
            text.cache = None


@dataclass(frozen=True)
class EmbeddingPass:
    """What a pass did.

    Attributes:
        rows: tokens that it computed.
        seconds: how long it took, without waiting for other threads.
        computed: requests of which it computed tokens.
        ended: requests all of whose texts are computed now.
        failed: requests that were removed, as there is no memory for the keys and values of a text.
    """

    rows: int
    seconds: float
    computed: list[Embeddings]
    ended: list[Embeddings]
    failed: list[tuple[Embeddings, CacheMemoryError]]
