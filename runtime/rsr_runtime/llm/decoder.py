"""The decoder: from tokens to logits, for every architecture of `rsr_formats.architectures`.

`Decoder` reads top to bottom as a decoder runs: embed_tokens, layers of whatever kinds, norm,
lm_head. A pass over a model is some 300 native calls, so Python does not make them: it records
them once for a number of tokens as a program that native code repeats.

Each row is summed in a fixed order, so the result for a token does not depend on the other tokens
of a pass, as far as the matrix products guarantee that (those with int8 activations do).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from os import getpid
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import ClosedError
from ..matrix import Matrix
from .config import Config
from .kv_cache import KVCache
from .layers.layer import DecoderLayer
from .layers.sublayer import HEAD, PHASES, PRODUCTS, REST, Item, Part, Pass, Place
from .linear import Adapted, LinearGroup, QuantizedInputs, Workspace, short_steps
from .rope import Rope, no_rotation
from .turns import Turns
from .weights import Weights

FloatArray = npt.NDArray[np.float32]
MAX_ROWS = 512  # tokens in a pass; more would only take memory
LOGIT_ROWS = 32  # rows of logits kept at a time: 0.5 MB each with a vocabulary of 128,256
_LEAST_ROWS = 16  # of a part of attention: fewer do not pay for the conversion of the cache
_STEP_ROWS = 16  # tokens of a text in a pass that may be needed again; more are of a prompt
_KEPT_PASSES = 64  # recorded passes, of 0.1 MB each; recording one takes as long as 5 % of a token


Adapters = tuple[str, ...]


class BatchItem(NamedTuple):
    """Consecutive tokens of one sequence."""

    tokens: Sequence[int]
    cache: KVCache
    start: int  # position of the first token
    variant: int = 0  # of RoPE, see `Decoder.rope_variant`
    adapters: Adapters = ()  # names of those that it takes


class Decoder:
    """Computes logits; keys and values go to the caches of the sequences.

    Its buffers serve one thread at a time: `hidden` and `logits` are called in a `turn`, which
    lasts until their results were used.
    """

    def __init__(self, config: Config, weights: Weights, context: int) -> None:
        """Prepare for positions 0 to context - 1.

        Raises:
            ModelError, OptionError: as for `Rope.tables`.
        """
        self.phase_timer = PhaseTimer()
        self._is_closed = False
        self._config = config
        self._weights = weights
        self._workspace = Workspace()
        self._layers = self._prepared(context)
        self._lm_head = None
        if weights.lm_head is not None:
            self._lm_head = LinearGroup([weights.lm_head], self._workspace)
        self._turns = Turns("the model")
        self._process = getpid()
        # By what their items depend on; the last was used most recently.
        self._steps: dict[tuple[_Length, ...], _RecordedPass] = {}
        self._last_prompt: _RecordedPass | None = None
        self._heads: dict[int, _RecordedHead] = {}  # by rows; the last was used most recently
        self._most_rows = 0  # of a recorded pass

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other thread uses the decoder, and use it for the block.

        Raises:
            ClosedError: the decoder was closed.
            BusyError: this thread uses it already.
        """
        try:
            with self._turns.turn():
                self.check_open()
                if self._process != getpid():
                    # A thread of the parent may have been running the programs.
                    self._forget_all()
                    self._process = getpid()
                yield
        finally:
            if self._is_closed:  # meanwhile
                self._turns.if_free(self._release)

    def _prepared(self, context: int) -> list[DecoderLayer]:
        c, weights = self._config, self._weights
        tables: dict[int, list[tuple[FloatArray, FloatArray]]] = {}
        layers = []
        for place, number in enumerate(c.layers_of_a_pass):
            settings = c.layer(number)
            rope = settings.rope
            if id(rope) not in tables:
                tables[id(rope)] = self._tables(rope, context)
            layers.append(
                DecoderLayer(
                    Place(c, settings, place, self._workspace, tables[id(rope)]),
                    weights.layers[number],
                )
            )
        return layers

    def _tables(self, rope: Rope | None, context: int) -> list[tuple[FloatArray, FloatArray]]:
        """Return cosines and sines by variant."""
        if rope is None:
            return [no_rotation(context)]
        # Divisors in the file are those of the layers that attend to all positions.
        factors = self._weights.rope_factors if rope is self._config.rope else None
        return [
            rope.tables(context, factors, variant) for variant in range(rope.variant(context) + 1)
        ]

    def hidden(self, batch: Sequence[BatchItem]) -> FloatArray:
        """Return the hidden states of all tokens after the last layer, before the final norm.

        Args:
            batch: at least one item; no two share a cache.

        Returns:
            float32 (tokens, hidden_size), item after item: a buffer that the next call overwrites.

        Raises:
            CacheMemoryError: there is not enough memory for keys and values; no cache has changed.
            ClosedError: the decoder was closed.
        """
        self.check_open()
        for item in batch:
            item.cache.check_room(item.start + len(item.tokens))
        self.phase_timer.start()
        recorded = self._recorded([_Length.of(item) for item in batch])
        for part in recorded.parts:
            part.start[:] = batch[part.item].start + part.offset
        tokens = np.concatenate([np.asarray(item.tokens, np.int64) for item in batch])
        self._embed(tokens, recorded.x)
        if self._config.embedding_factor != 1:
            np.multiply(recorded.x, np.float32(self._config.embedding_factor), out=recorded.x)
        self.phase_timer.lap(REST)
        for item in batch:
            item.cache.begin(len(item.tokens))
        recorded.program.run(self.phase_timer.times)
        return recorded.x

    def states(self, hidden: FloatArray) -> FloatArray:
        """Return hidden states after the final norm, which embeddings are made of.

        Args:
            hidden: float32 (rows, hidden_size), as `hidden` returns them; not changed.

        Returns:
            float32 (rows, hidden_size): a buffer that the next call overwrites.

        Raises:
            ClosedError: the decoder was closed.
        """
        self.check_open()
        self.phase_timer.start()
        states = self._workspace.take("states", *hidden.shape)
        norm, eps = self._weights.norm, self._config.rms_norm_eps
        _native.normalize(hidden, None, norm, eps, states, None, None)
        self.phase_timer.lap(REST)
        return states

    def logits(self, hidden: FloatArray) -> FloatArray:
        """Return the logits of hidden states; the model has an output head.

        Args:
            hidden: float32 (rows, hidden_size), as `hidden` returns them; not changed.

        Returns:
            float32 (rows, vocab_size): a buffer that the next call overwrites.

        Raises:
            ClosedError: the decoder was closed.
        """
        self.check_open()
        self.phase_timer.start()
        rows = len(hidden)
        head = self._heads.pop(rows, None) or self._record_head(rows)
        _keep(self._heads, rows, head)
        norm, eps = self._weights.norm, self._config.rms_norm_eps
        _native.normalize(hidden, None, norm, eps, *head.inputs)
        self.phase_timer.lap(REST)
        head.program.run(self.phase_timer.times)
        if self._config.logits_factor != 1:
            np.multiply(head.logits, np.float32(self._config.logits_factor), out=head.logits)
        return head.logits

    def _record_head(self, rows: int) -> _RecordedHead:
        assert self._lm_head is not None
        program = _native.Program()
        logits = self._lm_head.record(program, HEAD, rows)[0]
        return _RecordedHead(self._lm_head.inputs(rows), logits, program)

    def _recorded(self, lengths: list[_Length]) -> _RecordedPass:
        """Return the layers as a program, which is kept if it may be needed again.

        A text takes the same step for each of its tokens, or one of a few with speculation, and
        several texts may take turns.
        """
        rows = sum(length.tokens for length in lengths)
        if rows > self._most_rows:  # buffers grow: do not keep the smaller ones
            self._forget_all()
            self._most_rows = rows
        if rows > _STEP_ROWS * len(lengths):
            recorded = self._last_prompt
            if recorded is None or recorded.lengths != lengths:
                recorded = self._last_prompt = self._record(lengths)
            return recorded
        step = tuple(lengths)
        recorded = self._steps.pop(step, None) or self._record(lengths)
        _keep(self._steps, step, recorded)
        return recorded

    def _embed(self, tokens: npt.NDArray[np.int64], x: FloatArray) -> None:
        embed_tokens = self._weights.embed_tokens
        if isinstance(embed_tokens, Matrix):
            x[:] = embed_tokens.rows(tokens)
        elif embed_tokens.data.dtype == np.uint16:  # BF16, the upper half of a float32
            found = embed_tokens.data[tokens]
            np.left_shift(found, 16, out=x.view(np.uint32), dtype=np.uint32)
        else:
            x[:] = embed_tokens.data[tokens]
        rotation = embed_tokens.rotation
        if rotation is not None:
            _native.rotate_back(x, rotation.factors, rotation.block, x)

    def rope_variant(self, length: int) -> int:
        """Return which of RoPE's tables a sequence of this many tokens takes for all positions.

        Keys in a cache are valid only with the tables that they were computed with.
        """
        return self._config.rope.variant(length)

    def _record(self, lengths: list[_Length]) -> _RecordedPass:
        """Record all layers for items of the given numbers of tokens."""
        rows = sum(length.tokens for length in lengths)
        x = self._workspace.take("x", rows, self._config.hidden_size)
        items = [Item(length.cache.states, length.variant) for length in lengths]
        current = Pass(_native.Program(), items, self._parts(lengths), x, _adapted(lengths))
        delta = None
        for layer in self._layers:
            delta = layer.record(current, delta)
        if delta is not None:
            current.program.normalize(REST, x, delta, None, 0.0, x, None, None)  # only adds
        return _RecordedPass(lengths, current.parts, x, current.program)

    def _parts(self, lengths: list[_Length]) -> list[Part]:
        """Cut items into parts whose attention takes one step each, below 0.1 s."""
        parts, first = [], 0
        for item, length in enumerate(lengths):
            products = 2 * self._config.queries_width * length.reach  # of a row, at most
            for rows in short_steps(length.tokens, products, least=_LEAST_ROWS):
                start = np.zeros(1, np.int64)
                parts.append(
                    Part(item, rows.start, slice(first + rows.start, first + rows.stop), start)
                )
            first += length.tokens
        return parts

    @property
    def weights(self) -> Weights:
        """The tensors of the model.

        Raises:
            ClosedError: the decoder was closed.
        """
        self.check_open()
        try:
            return self._weights
        except AttributeError:  # another thread closed it just now
            raise self._closed() from None

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def check_open(self) -> None:
        """Raise ClosedError if the decoder was closed."""
        if self._is_closed:
            raise self._closed()

    def _closed(self) -> ClosedError:
        return ClosedError("the model was closed")

    def forget(self, cache: KVCache) -> None:
        """Drop the recorded passes of a cache that no thread uses."""
        for step in self._steps.copy():
            if any(cache is length.cache for length in step):
                self._steps.pop(step, None)
        prompt = self._last_prompt
        if prompt is not None and any(cache is length.cache for length in prompt.lengths):
            self._last_prompt = None

    def _forget_all(self) -> None:
        self._steps.clear()
        self._heads.clear()
        self._last_prompt = None

    def close(self) -> None:
        """Release the weights, at the end of a pass that another thread has begun.

        Later calls raise `ClosedError`.
        """
        self._is_closed = True
        self._turns.if_free(self._release)

    def _release(self) -> None:
        self._forget_all()
        if "_weights" in vars(self):  # not yet released
            del self._weights, self._layers, self._lm_head


def _keep(recorded: dict[Any, Any], key: object, program: object) -> None:
    """Add the program that is used now, and drop those that were not used for longest."""
    recorded[key] = program
    for oldest in list(recorded)[:-_KEPT_PASSES]:
        recorded.pop(oldest, None)


class _Length(NamedTuple):
    """What the program of an item depends on."""

    tokens: int
    cache: KVCache
    variant: int  # of RoPE
    adapters: Adapters
    reach: int  # a power of two: no token sees more positions; 0 for few tokens

    @classmethod
    def of(cls, item: BatchItem) -> _Length:
        tokens = len(item.tokens)
        is_cut = tokens > _LEAST_ROWS
        reach = 1 << (item.start + tokens - 1).bit_length() if is_cut else 0
        return cls(tokens, item.cache, item.variant, item.adapters, reach)


def _adapted(lengths: Sequence[_Length]) -> list[Adapted]:
    """Return the rows that take adapters; items that follow each other may share a part."""
    parts: list[Adapted] = []
    first = 0
    for adapters, items in groupby(lengths, lambda length: length.adapters):
        last = first + sum(length.tokens for length in items)
        if adapters:
            parts.append(Adapted(slice(first, last), adapters))
        first = last
    return parts


class _RecordedPass(NamedTuple):
    """The layers as a program for certain caches and numbers of tokens."""

    lengths: list[_Length]
    parts: Sequence[Part]
    x: FloatArray  # (tokens, hidden_size), an input: embeddings; then hidden states
    program: _native.Program


class _RecordedHead(NamedTuple):
    """The output head as a program for a number of rows."""

    inputs: QuantizedInputs  # normalized hidden states
    logits: FloatArray  # (rows, vocab_size)
    program: _native.Program


class PhaseTimer:
    """Adds up seconds by phase. It always runs: its cost is below what can be measured."""

    def __init__(self) -> None:
        self.times: npt.NDArray[np.float64] = np.zeros(len(PHASES))  # programs add theirs here
        self._last = perf_counter()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each of `PHASES`."""
        return dict(zip(PHASES, self.times.tolist(), strict=True))

    def product_seconds(self) -> float:
        """Return the seconds of products, those of the output head included."""
        return float(self.times[PRODUCTS] + self.times[HEAD])

    def start(self) -> None:
        """Start a lap; the time before it counts as no phase."""
        self._last = perf_counter()

    def lap(self, phase: int) -> None:
        """Add the time since the start or the last lap to a phase."""
        now = perf_counter()
        self.times[phase] += now - self._last
        self._last = now
