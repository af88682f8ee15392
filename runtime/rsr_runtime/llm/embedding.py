"""Texts that are embedded: a pass computes the tokens of several of them, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import numpy as np
import numpy.typing as npt

from .decoder import MAX_ROWS, BatchItem, Decoder, FloatArray
from .errors import CacheMemoryError
from .kv_cache import KVCache
from .pooling import Pooler, Pooling, normalized

_TURN = 64  # tokens that a request gets before the next one has its turn


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
    """

    texts: Sequence[str | Sequence[int] | npt.NDArray[np.integer]]
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    pooling: str | None = None


class EmbeddingText:
    """A text whose states are computed and pooled."""

    def __init__(self, ids: list[int], pooling: Pooling, prompt_tokens: int) -> None:
        self.ids = ids
        self.needs_all = pooling.needs_all
        # The last token belongs to the text, whatever precedes it.
        self.pooler = Pooler(pooling, prompt_tokens if self.needs_all else 0)
        self.cache: KVCache | None = None  # while it is computed
        self.done = 0  # tokens that were computed


class Embeddings:
    """The texts of a request, and their vectors when all are computed.

    Attributes:
        texts: in the order of the request.
        waiting: those whose computation has not ended.
        tokens: number of tokens of all.
    """

    def __init__(self, texts: Sequence[EmbeddingText], dimensions: int, normalizes: bool) -> None:
        self.texts = tuple(texts)
        self.waiting = deque(self.texts)
        self.tokens = sum(len(text.ids) for text in texts)
        self._dimensions, self._normalizes = dimensions, normalizes

    def vectors(self) -> FloatArray:
        """Return the vectors, float32 (texts, dimensions)."""
        vectors: FloatArray = np.empty((len(self.texts), self._dimensions), np.float32)
        for text, vector in zip(self.texts, vectors, strict=True):
            vector[:] = text.pooler.vector()[: self._dimensions]
        return normalized(vectors) if self._normalizes else vectors


class EmbeddingPasses:
    """Computes the texts of requests. Each pass takes tokens of several texts, in turns.

    A text has a KV cache of its own length, and only until all its tokens are computed.

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
        self._requests.append(request)

    def remove(self, request: Embeddings) -> None:
        """Forget a request, which may have ended."""
        if request in self._requests:
            self._requests.remove(request)
            for text in request.waiting:
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
        with self._decoder.turn():
            start = perf_counter()
            self._run(chosen)
            seconds = perf_counter() - start
        computed, ended = [], []
        for request in list(self._requests):
            if request.waiting[0] in chosen:
                computed.append(request)
            while request.waiting and request.waiting[0].done == len(request.waiting[0].ids):
                self._release(request.waiting.popleft())
            if not request.waiting:
                self._requests.remove(request)
                ended.append(request)
        return EmbeddingPass(sum(chosen.values()), seconds, computed, ended, failed)

    def _reserve(
        self, chosen: Mapping[EmbeddingText, int]
    ) -> tuple[Embeddings, CacheMemoryError] | None:
        """Give texts their caches; return the request of one that there is no memory for."""
        for text in chosen:
            if text.cache is None:
                try:
                    text.cache = self._create(len(text.ids))
                except CacheMemoryError as error:
                    return next(r for r in self._requests if text in r.waiting), error
        return None

    def _choose(self, rows: int) -> dict[EmbeddingText, int]:
        """Return texts and how many tokens of each to compute: requests take turns."""
        chosen: dict[EmbeddingText, int] = {}
        lines = deque(deque(r.waiting) for r in islice(self._requests, self._most))
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
            elif text.done == len(text.ids):
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
