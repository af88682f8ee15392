"""The tensors of a decoder, by Hugging Face's names, checked against the config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import MAX_QUANTIZED_COLUMNS
from rsr_formats.text import listed

from ..matrix import Matrix
from ..model import Model
from .config import Config
from .errors import ModelError
from .linear import DTYPES, Dense, Int8Head, Linear

FloatArray = npt.NDArray[np.float32]

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
ROPE_FACTORS = "rope_freqs.weight"  # the name in GGUF files of the Llama 3.1 kind
_LISTED = 40  # tensors that a message names


@dataclass(frozen=True)
class Layer:
    """The weights of one decoder layer; norms are float32."""

    input_layernorm: FloatArray
    q: Linear
    k: Linear
    v: Linear
    q_norm: FloatArray | None  # (head_dim,)
    k_norm: FloatArray | None
    attn_sub_norm: FloatArray | None
    o: Linear
    post_attention_layernorm: FloatArray  # post_attention_layernorm
    gate: Linear
    up: Linear
    ffn_sub_norm: FloatArray | None
    down: Linear


@dataclass(frozen=True)
class Weights:
    """All weights of a decoder."""

    embedding: Matrix | Dense
    layers: tuple[Layer, ...]
    norm: FloatArray
    head: Linear
    rope_factors: FloatArray | None  # (head_dim / 2,): see `Rope.tables`

    @property
    def linear(self) -> list[Linear]:
        """What a token is multiplied by: all linear layers, and the head."""
        found = []
        for x in self.layers:
            found += [x.q, x.k, x.v, x.o, x.gate, x.up, x.down]
        return [*found, self.head]

    @property
    def nbytes(self) -> int:
        """Bytes that a token reads: all but the embedding, of which it looks one row up."""
        return sum(one.weight.nbytes for one in self.linear)


def collect(model: Model, config: Config) -> Weights:
    """Find every tensor that the config asks for.

    Raises:
        ModelError: some are missing, or have shapes that contradict it: all are listed at once.
    """
    found = _Finder(model, config)
    c, family = config, config.architecture
    layers = []
    embedding = found.weight(EMBEDDING, c.vocab_size, c.hidden_size)
    for i in range(c.layers):
        at = f"model.layers.{i}."

        def linear(module: str, at: str = at) -> Linear:
            return found.linear(at + module, *c.shape_of(module))

        layers.append(
            Layer(
                input_layernorm=found.norm(at + "input_layernorm", c.hidden_size),
                q=linear("self_attn.q_proj"),
                k=linear("self_attn.k_proj"),
                v=linear("self_attn.v_proj"),
                q_norm=found.optional(at + "self_attn.q_norm", c.head_dim, family.has_qk_norms),
                k_norm=found.optional(at + "self_attn.k_norm", c.head_dim, family.has_qk_norms),
                attn_sub_norm=found.optional(at, c.heads * c.head_dim, family.attn_sub_norm),
                o=linear("self_attn.o_proj"),
                post_attention_layernorm=found.norm(at + "post_attention_layernorm", c.hidden_size),
                gate=linear("mlp.gate_proj"),
                up=linear("mlp.up_proj"),
                ffn_sub_norm=found.optional(at, c.intermediate_size, family.ffn_sub_norm),
                down=linear("mlp.down_proj"),
            )
        )
        if len(found.wrong) > _MANY_WRONG:  # a config of a million layers has no more to say
            break
    norm = found.norm("model.norm", c.hidden_size)
    head = found.head(embedding)
    rope_factors = found.given(ROPE_FACTORS, c.head_dim // 2)
    if rope_factors is not None and not (rope_factors > 0).all():
        found.wrong.append(f"{ROPE_FACTORS} has values that are not positive")
    found.check()
    assert isinstance(embedding, Matrix | Dense)
    return Weights(embedding, tuple(layers), norm, head, rope_factors)


_MANY_WRONG = 10_000


class _Finder:
    """Takes tensors from a model and keeps account of what is wrong with them."""

    def __init__(self, model: Model, config: Config) -> None:
        self._model = model
        self._config = config
        self.wrong: list[str] = []

    def check(self) -> None:
        if not self.wrong:
            return
        text = listed(self.wrong, _LISTED, separator="; ")
        raise ModelError(
            f"the tensors are not those that config.json ({self._config.architecture.name}) "
            f"describes: {text}"
        )

    def norm(self, module: str, size: int) -> FloatArray:
        """Return the weight of a norm."""
        return self._vector(module + ".weight", size)

    def optional(self, module: str, size: int, given: str | bool | None) -> FloatArray | None:
        """Return that of a norm which the family has, or else None; a string goes on the name."""
        if not given:
            return None
        return self.norm(module + given if isinstance(given, str) else module, size)

    def linear(self, module: str, out_features: int, in_features: int) -> Linear:
        c = self._config
        weight = self.weight(module, out_features, in_features)
        int8_activations = isinstance(weight, Matrix) and c.has_int8_activations(module)
        if isinstance(weight, Dense) and weight.stored.size and c.is_self_quantizing(module):
            self.wrong.append(
                f"{module}.weight is dense, and the model quantizes it: compile it, too"
            )
        bias = self.given(module + ".bias", out_features)
        if bias is not None and int8_activations and c.scales_biases:
            assert isinstance(weight, Matrix)
            if weight.scale.shape in ((), bias.shape):
                bias = bias * weight.scale
            else:
                self.wrong.append(
                    f"{module}.weight has scales of {list(weight.scale.shape)}, and its bias "
                    "has to be multiplied by one for each row"
                )
        # transformers' use_rms_norm names it rms_norm, BitNet embedding models norm.
        norm = self.given(module + ".rms_norm.weight", in_features)
        if norm is None:
            norm = self.given(module + ".norm.weight", in_features)
        return Linear(module, weight, int8_activations, bias, norm, c.layer_norm_eps)

    def head(self, embedding: Matrix | Dense | Int8Head) -> Linear:
        """Return the output head: int8 where compiled so, the embedding where they are tied."""
        c = self._config
        name = HEAD + ".weight"
        stored = self._model.dense(name).data if self._is_dense(name) else None
        if stored is not None and stored.dtype == np.int8:
            scale = self._vector(name + "_scale", c.vocab_size)
            if stored.shape != (c.vocab_size, c.hidden_size):
                self._contradiction(name, stored.shape, (c.vocab_size, c.hidden_size))
            if c.hidden_size > MAX_QUANTIZED_COLUMNS:
                self.wrong.append(f"{name} is int8, of more than {MAX_QUANTIZED_COLUMNS} columns")
            return Linear(HEAD, Int8Head(stored, scale), int8_activations=True)
        if c.tie_word_embeddings:
            return Linear(HEAD, embedding)
        weight = self.weight(HEAD, c.vocab_size, c.hidden_size)
        # A head is converted only where modules_to_not_convert is a list without it.
        int8_activations = isinstance(weight, Matrix) and weight.layout.startswith("bitnet")
        return Linear(HEAD, weight, int8_activations, self.given(HEAD + ".bias", c.vocab_size))

    def weight(self, module: str, rows: int, columns: int) -> Matrix | Dense:
        name = module + ".weight"
        if name not in self._model:
            self.wrong.append(f"{name} is missing")
        elif not self._is_dense(name):
            matrix = self._model[name]
            assert isinstance(matrix, Matrix)
            if matrix.shape != (rows, columns):
                self._contradiction(name, matrix.shape, (rows, columns))
            return matrix
        else:
            stored = self._model.dense(name).data
            if stored.shape != (rows, columns):
                self._contradiction(name, stored.shape, (rows, columns))
            elif stored.dtype.name not in DTYPES:
                self.wrong.append(f"{name} is {stored.dtype}, expected floats or ternary weights")
            return Dense(stored)
        return Dense(np.empty((0, 0), np.float32))

    def _is_dense(self, name: str) -> bool:
        return name in self._model and not self._model.is_indexed(name)

    def given(self, name: str, size: int) -> FloatArray | None:
        """Return a vector, None if the model has none of that name."""
        return self._vector(name, size) if name in self._model else None

    def _vector(self, name: str, size: int) -> FloatArray:
        if name not in self._model:
            self.wrong.append(f"{name} is missing")
            return np.empty(0, np.float32)
        found: Any = self._model[name]
        if isinstance(found, Matrix) or found.size != size:
            self._contradiction(name, found.shape, (size,))
            return np.empty(0, np.float32)
        if found.dtype.kind != "f":
            self.wrong.append(f"{name} is {found.dtype}, expected floats")
            return np.empty(0, np.float32)
        return np.ascontiguousarray(found.reshape(-1), np.float32)

    def _contradiction(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        self.wrong.append(f"{name} is {list(found)}, expected {list(expected)}")
