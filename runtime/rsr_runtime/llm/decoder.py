"""The decoder: from tokens to logits, the same for every family but for what its table says.

Matrix products are the index's (linear.py); what lies between them is native too: a norm together
with the quantization of what it gives, the gate, and attention with its rotation and cache. Python
only records them, for a number of tokens, as a program that native code then repeats: one pass of a
model is some 300 calls. Sums are made in a fixed order for every row, so that a token's result does
not depend on which others are computed beside it, as far as the matrices promise that (int8 ones
do).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rsr_formats.bf16 import widen_bf16

from .. import _native
from ..errors import ClosedError
from ..matrix import Matrix
from .config import Config
from .kv_cache import KVCache
from .linear import Linear, LinearGroup, QuantizedInputs
from .phase_timer import ATTENTION, HEAD, PRODUCTS, REST, PhaseTimer
from .weights import Layer, Weights
from .workspace import Workspace

FloatArray = npt.NDArray[np.float32]
ROWS = 512  # of one pass: more gain nothing, and take memory
LOGIT_ROWS = 32  # whose logits are kept at a time: a row takes half a megabyte


class BatchItem(NamedTuple):
    """Tokens that follow one another in one sequence."""

    tokens: Sequence[int]
    cache: KVCache
    start: int  # position of the first


@dataclass(frozen=True)
class _Layer:
    """A layer's weights, and its linear layers by what they multiply."""

    weights: Layer
    qkv: LinearGroup
    o: LinearGroup
    gate_up: LinearGroup
    down: LinearGroup


class _RecordedPass(NamedTuple):
    """From embeddings to hidden states, for certain caches and numbers of tokens."""

    lengths: list[tuple[int, KVCache]]  # tokens of each span
    starts: npt.NDArray[np.int64]  # (spans,), to be filled
    x: FloatArray  # (tokens, hidden_size): embeddings, then hidden states
    program: _native.Program


class _RecordedHead(NamedTuple):
    """From normalized hidden states to logits, for a number of rows."""

    inputs: QuantizedInputs  # to be filled
    logits: FloatArray  # (rows, vocab_size)
    program: _native.Program


class Decoder:
    """Computes the logits of tokens, and keeps their keys and values in caches.

    One call at a time: buffers are its own.
    """

    def __init__(self, config: Config, weights: Weights, context: int) -> None:
        """Prepare for positions below `context`."""
        self.clock = PhaseTimer()
        self._is_closed = False
        self._config = config
        self._weights = weights
        self._embedding = weights.embedding
        self._norm = weights.norm
        self._workspace = Workspace()
        self._cos, self._sin = config.rope.tables(context, weights.rope_factors)
        self._layers = [self._prepare(layer) for layer in weights.layers]
        self._head = LinearGroup([weights.head], self._workspace)
        self._last_pass: _RecordedPass | None = None
        self._last_head: _RecordedHead | None = None

    def _prepare(self, layer: Layer) -> _Layer:
        def together(*layers: Linear, head_dim: int | None = None) -> LinearGroup:
            return LinearGroup(layers, self._workspace, head_dim)

        return _Layer(
            layer,
            qkv=together(layer.q, layer.k, layer.v, head_dim=self._config.head_dim),
            o=together(layer.o),
            gate_up=together(layer.gate, layer.up),
            down=together(layer.down),
        )

    def close(self) -> None:
        """Let go of the weights; every later call raises `ClosedError`."""
        if not self._is_closed:
            self._is_closed = True
            del self._weights, self._embedding, self._norm, self._layers, self._head
            del self._last_pass, self._last_head

    def forget(self) -> None:
        """Drop the recorded pass, which holds its caches."""
        if not self._is_closed:
            self._last_pass = None

    def check_open(self) -> None:
        """Raise ClosedError once it is closed."""
        if self._is_closed:
            raise ClosedError("the model was closed")

    @property
    def weights(self) -> Weights:
        """The tensors that it multiplies by."""
        self.check_open()
        return self._weights

    def hidden(self, spans: Sequence[BatchItem]) -> FloatArray:
        """Return the last hidden state of every token of all spans, before the final norm.

        Keys and values go to the caches. Each cache is in one span at most.

        Returns:
            float32 (tokens, hidden_size): a buffer that the next call overwrites.

        Raises:
            ClosedError: it was closed.
        """
        self.check_open()
        self.clock.start()
        lengths = [(len(span.tokens), span.cache) for span in spans]
        recorded = self._last_pass
        if recorded is None or recorded.lengths != lengths:
            recorded = self._last_pass = self._record(lengths)
        recorded.starts[:] = [span.start for span in spans]
        tokens = np.concatenate([np.asarray(span.tokens, np.int64) for span in spans])
        self._embed(tokens, recorded.x)
        self.clock.lap(REST)
        recorded.program.run(self.clock.times)
        return recorded.x

    def logits(self, hidden: FloatArray) -> FloatArray:
        """Return the logits of hidden states, float32 (rows, vocab_size): a buffer, as above."""
        self.check_open()
        self.clock.start()
        rows = len(hidden)
        head = self._last_head
        if head is None or len(head.logits) != rows:
            program = _native.Program()
            logits = self._head.record(program, HEAD, rows)[0]
            head = self._last_head = _RecordedHead(self._head.inputs(rows), logits, program)
        # The states stay as they are: they may be a part of what hidden() returned.
        _native.normalize(hidden, None, self._norm, self._config.norm_eps, *head.inputs)
        self.clock.lap(REST)
        head.program.run(self.clock.times)
        return head.logits

    def _record(self, lengths: list[tuple[int, KVCache]]) -> _RecordedPass:
        rows = sum(length for length, _ in lengths)
        starts = np.zeros(len(lengths), np.int64)
        x = self._workspace.take("x", rows, self._config.hidden_size)
        recorded = _RecordedPass(lengths, starts, x, _native.Program())
        delta = None  # what the last product adds to the residual stream
        for i, layer in enumerate(self._layers):
            delta = self._attention(recorded, layer, i, delta)
            delta = self._feed_forward(recorded, layer, delta)
        if delta is not None:
            recorded.program.call(REST, np.add, x, delta, x)
        return recorded

    def _embed(self, tokens: npt.NDArray[np.int64], x: FloatArray) -> None:
        if isinstance(self._embedding, Matrix):
            x[:] = self._embedding.rows(tokens)
            return
        found = self._embedding.stored[tokens]
        if found.dtype == np.uint16:
            found = widen_bf16(found)
        x[:] = found

    def _attention(
        self, recorded: _RecordedPass, layer: _Layer, number: int, delta: FloatArray | None
    ) -> FloatArray:
        """Record what attention adds to x, to which `delta` is added first."""
        c, w, program = self._config, layer.weights, recorded.program
        rows = len(recorded.x)
        program.normalize(
            REST, recorded.x, delta, w.input_layernorm, c.norm_eps, *layer.qkv.inputs(rows)
        )
        q, k, v = layer.qkv.record(program, PRODUCTS, rows)
        attended = self._workspace.take("attended", rows, c.heads * c.head_dim)
        rope = _native.Rope(
            self._cos,
            self._sin,
            q_norm=w.q_norm,
            k_norm=w.k_norm,
            eps=c.norm_eps,
            scale=c.head_dim**-0.5,
        )
        first = 0
        for i, (length, cache) in enumerate(recorded.lengths):
            part = slice(first, first + length)
            program.attend(
                ATTENTION,
                q[part],
                k[part],
                v[part],
                rope,
                _native.KVCache(*cache.layer(number)),
                recorded.starts[i : i + 1],
                attended[part],
            )
            first = part.stop
        program.normalize(REST, attended, None, w.attn_sub_norm, c.norm_eps, *layer.o.inputs(rows))
        return layer.o.record(program, PRODUCTS, rows)[0]

    def _feed_forward(
        self, recorded: _RecordedPass, layer: _Layer, delta: FloatArray
    ) -> FloatArray:
        """Record what the feed-forward network adds to x, to which `delta` is added first."""
        c, w, program = self._config, layer.weights, recorded.program
        rows = len(recorded.x)
        program.normalize(
            REST,
            recorded.x,
            delta,
            w.post_attention_layernorm,
            c.norm_eps,
            *layer.gate_up.inputs(rows),
        )
        gate, up = layer.gate_up.record(program, PRODUCTS, rows)
        program.gated(
            REST, gate, up, c.activation, w.ffn_sub_norm, c.norm_eps, *layer.down.inputs(rows)
        )
        return layer.down.record(program, PRODUCTS, rows)[0]
