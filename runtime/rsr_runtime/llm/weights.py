"""The tensors of a decoder by their names in checkpoints, checked against the config."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsr_formats.records import FLOAT_DTYPES, MAX_QUANTIZED_COLUMNS
from rsr_formats.text import listed

from ..dense import DenseTensor
from ..matrix import Matrix
from ..model import Model
from .config import Config
from .errors import ModelError
from .linear import Linear

FloatArray = npt.NDArray[np.float32]

EMBED_TOKENS = "model.embed_tokens"
LM_HEAD = "lm_head"
ROPE_FACTORS = "rope_freqs.weight"  # its name in GGUF files of Llama 3.1 and later
_MAX_LISTED = 40  # problems that a message lists
_MAX_PROBLEMS = 10_000  # to stop early if a config claims a million layers


@dataclass(frozen=True)
class Layer:
    """The weights of a decoder layer; norms are float32, None if the architecture lacks them."""

    input_layernorm: FloatArray  # (hidden_size,)
    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    q_norm: FloatArray | None  # (head_dim,)
    k_norm: FloatArray | None  # (head_dim,)
    attn_sub_norm: FloatArray | None  # (num_attention_heads * head_dim,)
    o_proj: Linear
    post_attention_layernorm: FloatArray  # (hidden_size,)
    gate_proj: Linear
    up_proj: Linear
    ffn_sub_norm: FloatArray | None  # (intermediate_size,)
    down_proj: Linear


@dataclass(frozen=True)
class Weights:
    """The weights of a decoder."""

    embed_tokens: Matrix | DenseTensor  # (vocab_size, hidden_size)
    layers: tuple[Layer, ...]
    norm: FloatArray  # (hidden_size,)
    lm_head: Linear
    rope_factors: FloatArray | None  # (head_dim / 2,), see `Rope.tables`

    @property
    def linear(self) -> list[Linear]:
        """All linear layers in the order in which a pass runs them, ending with the output head."""
        found = []
        for x in self.layers:
            found += [x.q_proj, x.k_proj, x.v_proj, x.o_proj, x.gate_proj, x.up_proj, x.down_proj]
        return [*found, self.lm_head]


def collect(model: Model, config: Config) -> Weights:
    """Return the tensors that a config describes.

    Raises:
        ModelError: tensors are missing, or their shapes or dtypes contradict the config. The
            message lists them all.
    """
    found = _Finder(model, config)
    c = config
    embed_tokens = found.weight(EMBED_TOKENS, c.vocab_size, c.hidden_size)
    layers = []
    for i in range(c.num_hidden_layers):
        layers.append(_layer(found, c, f"model.layers.{i}."))
        if len(found.problems) > _MAX_PROBLEMS:
            break
    norm = found.norm("model.norm", c.hidden_size)
    lm_head = found.lm_head(embed_tokens)
    rope_factors = found.optional(ROPE_FACTORS, c.head_dim // 2)
    if rope_factors is not None and not (rope_factors > 0).all():
        found.problems.append(f"{ROPE_FACTORS} has values that are not positive")
    found.check()
    return Weights(embed_tokens, tuple(layers), norm, lm_head, rope_factors)


def _layer(found: _Finder, c: Config, prefix: str) -> Layer:
    def linear(module: str) -> Linear:
        return found.linear(prefix + module, *c.shape_of(module))

    def norm(module: str | None, size: int) -> FloatArray | None:
        return None if module is None else found.norm(prefix + module, size)

    a = c.architecture
    return Layer(
        input_layernorm=found.norm(prefix + "input_layernorm", c.hidden_size),
        q_proj=linear("self_attn.q_proj"),
        k_proj=linear("self_attn.k_proj"),
        v_proj=linear("self_attn.v_proj"),
        q_norm=norm("self_attn.q_norm" if a.has_qk_norms else None, c.head_dim),
        k_norm=norm("self_attn.k_norm" if a.has_qk_norms else None, c.head_dim),
        attn_sub_norm=norm(a.attn_sub_norm, c.num_attention_heads * c.head_dim),
        o_proj=linear("self_attn.o_proj"),
        post_attention_layernorm=found.norm(prefix + "post_attention_layernorm", c.hidden_size),
        gate_proj=linear("mlp.gate_proj"),
        up_proj=linear("mlp.up_proj"),
        ffn_sub_norm=norm(a.ffn_sub_norm, c.intermediate_size),
        down_proj=linear("mlp.down_proj"),
    )


class _Finder:
    """Takes tensors from a model and collects the problems with them.

    A tensor with a problem is replaced by an empty one, so that all problems are found.
    """

    def __init__(self, model: Model, config: Config) -> None:
        self._model = model
        self._config = config
        self.problems: list[str] = []

    def check(self) -> None:
        """Raise ModelError if there were problems."""
        if not self.problems:
            return
        text = listed(self.problems, _MAX_LISTED, separator="; ")
        raise ModelError(
            f"the tensors are not those that config.json ({self._config.architecture.name}) "
            f"describes: {text}"
        )

    def norm(self, module: str, size: int) -> FloatArray:
        return self._vector(module + ".weight", size)

    def linear(self, module: str, out_features: int, in_features: int) -> Linear:
        c = self._config
        weight = self.weight(module, out_features, in_features)
        int8_activations = isinstance(weight, Matrix) and c.has_int8_activations(module)
        if isinstance(weight, DenseTensor) and weight.data.size and c.is_self_quantizing(module):
            self.problems.append(
                f"{module}.weight is dense, but the model quantizes it: compile it, too"
            )
        bias = self.optional(module + ".bias", out_features)
        if bias is not None and int8_activations and c.scales_biases:
            assert isinstance(weight, Matrix)
            if weight.scale.shape in ((), bias.shape):
                bias = bias * weight.scale
            else:
                self.problems.append(
                    f"{module}.weight has scales of {list(weight.scale.shape)}, expected one for "
                    "each row, by which its bias has to be multiplied"
                )
        # transformers' use_rms_norm calls it rms_norm, BitNet embedding models call it norm.
        norm = self.optional(module + ".rms_norm.weight", in_features)
        if norm is None:
            norm = self.optional(module + ".norm.weight", in_features)
        return Linear(module, weight, int8_activations, bias, norm, c.linear_norm_eps)

    def lm_head(self, embed_tokens: Matrix | DenseTensor) -> Linear:
        """Return the output head: int8 if compiled so, else the embedding if they are tied."""
        c = self._config
        name = LM_HEAD + ".weight"
        dense = self._model.dense(name) if self._is_dense(name) else None
        if dense is not None and dense.dtype == "I8":
            scale = self._vector(name + "_scale", c.vocab_size)
            if dense.shape != (c.vocab_size, c.hidden_size):
                self._contradiction(name, dense.shape, (c.vocab_size, c.hidden_size))
            if c.hidden_size > MAX_QUANTIZED_COLUMNS:
                self.problems.append(
                    f"{name} is int8 with {c.hidden_size} columns, "
                    f"expected at most {MAX_QUANTIZED_COLUMNS}"
                )
            return Linear(LM_HEAD, dense, int8_activations=True, row_scale=scale)
        if c.tie_word_embeddings:
            return Linear(LM_HEAD, embed_tokens)
        weight = self.weight(LM_HEAD, c.vocab_size, c.hidden_size)
        # A head is converted only if modules_to_not_convert is a list without it.
        int8_activations = isinstance(weight, Matrix) and weight.layout.startswith("bitnet")
        bias = self.optional(LM_HEAD + ".bias", c.vocab_size)
        return Linear(LM_HEAD, weight, int8_activations, bias)

    def weight(self, module: str, rows: int, columns: int) -> Matrix | DenseTensor:
        name = module + ".weight"
        if name not in self._model:
            self.problems.append(f"{name} is missing")
            return DenseTensor(name, "F32", (0, 0), np.empty((0, 0), np.float32))
        weight: Matrix | DenseTensor
        weight = self._model.dense(name) if self._is_dense(name) else self._model.matrix(name)
        if weight.shape != (rows, columns):
            self._contradiction(name, weight.shape, (rows, columns))
        elif isinstance(weight, DenseTensor) and weight.dtype not in FLOAT_DTYPES:
            self.problems.append(f"{name} is {weight.dtype}, expected floats or ternary weights")
        return weight

    def optional(self, name: str, size: int) -> FloatArray | None:
        """Return a vector, or None if the model has none of that name."""
        return self._vector(name, size) if name in self._model else None

    def _is_dense(self, name: str) -> bool:
        return name in self._model and not self._model.is_indexed(name)

    def _vector(self, name: str, size: int) -> FloatArray:
        if name not in self._model:
            self.problems.append(f"{name} is missing")
        elif not self._is_dense(name):
            self._contradiction(name, self._model.matrix(name).shape, (size,))
        else:
            found = self._model.dense(name)
            if found.data.size != size:
                self._contradiction(name, found.shape, (size,))
            elif found.dtype in FLOAT_DTYPES:
                return np.ascontiguousarray(found.to_float32().reshape(-1))
            elif found.dtype == "F64":
                return found.data.reshape(-1).astype(np.float32)
            else:
                self.problems.append(f"{name} is {found.dtype}, expected floats")
        return np.empty(0, np.float32)

    def _contradiction(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        self.problems.append(f"{name} is {list(found)}, expected {list(expected)}")
