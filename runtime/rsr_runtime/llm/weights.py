"""The tensors of a decoder, taken from a model by their names in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import DecoderNames

from ..dense import DenseTensor
from ..matrix import Matrix
from ..model import Model
from .config import Config
from .errors import ModelError
from .layers.declared import DeclaredFloats, DeclaredLinear, LayerTensors
from .layers.layer import declared, final_norm
from .linear import Linear
from .tensors import ROPE_FACTORS, ModelFacts, find_problems, in_words, is_bitlinear

FloatArray = npt.NDArray[np.float32]

LM_HEAD = "lm_head"


@dataclass(frozen=True)
class Weights:
    """The weights of a decoder."""

    embed_tokens: Matrix | DenseTensor  # (vocab_size, hidden_size)
    layers: tuple[LayerTensors, ...]  # by their numbers in names of tensors
    norm: FloatArray  # (hidden_size,)
    lm_head: Linear | None  # None: the model embeds texts and generates none
    rope_factors: FloatArray | None  # (head_dim / 2,), see `Rope.tables`

    @property
    def linear(self) -> list[Linear]:
        """All linear layers in the order in which a pass runs them; the output head is the last."""
        layers = [one for layer in self.layers for one in layer.all_linear]
        return layers if self.lm_head is None else [*layers, self.lm_head]

    @property
    def linear_of_a_token(self) -> list[Linear]:
        """As many of them as a token takes: of experts not the chosen ones, but as many."""
        found, share = [], Fraction(0)
        for one in self.linear:
            share += one.share
            if share >= 1:
                found.append(one)
                share -= 1
        return found


def collect(model: Model, config: Config, activations: str = "trained") -> Weights:
    """Return the tensors that a config describes.

    Args:
        model: holds the tensors.
        config: describes them.
        activations: what indexed layers take, see `load`.

    Raises:
        ModelError: tensors are missing, or their shapes or dtypes contradict the config. The
            message lists them all.
    """
    facts = ModelFacts(model)
    problems = find_problems(facts, config)
    found = _Finder(model, config, activations)
    names = DecoderNames.find(facts)
    rope_factors = None
    if not problems:
        rope_factors = found.optional(ROPE_FACTORS)
        if rope_factors is not None and not (rope_factors > 0).all():
            problems = [f"{ROPE_FACTORS} has values that are not positive"]
    if problems:
        raise ModelError(in_words(problems, config))
    head = names.head if f"{names.head}.weight" in model else None
    embedding = f"{names.prefix}embed_tokens"
    if f"{embedding}.weight" not in model and head is not None:
        embedding = head
    embed_tokens = found.weight(embedding)
    lm_head = None
    if config.architecture.has_head:
        lm_head = found.tied_head(embed_tokens) if head is None else found.lm_head(head)
    return Weights(
        embed_tokens,
        tuple(
            _layer(found, config, f"{names.prefix}layers.{i}.", i)
            for i in range(config.num_hidden_layers)
        ),
        found.floats(f"{names.prefix}norm.weight", final_norm(config)),
        lm_head,
        rope_factors,
    )


def _layer(found: _Finder, config: Config, prefix: str, number: int) -> LayerTensors:
    tensors: dict[str, Linear | FloatArray] = {}
    for one in declared(config, config.layer(number)):
        name = prefix + one.name
        tensors[one.name] = (
            found.linear(name, one) if isinstance(one, DeclaredLinear) else found.floats(name, one)
        )
    return LayerTensors(tensors)


class _Finder:
    """Takes tensors, which were checked, from a model."""

    def __init__(self, model: Model, config: Config, activations: str) -> None:
        self._model = model
        self._config = config
        self._wanted = activations

    def floats(self, name: str, declared: DeclaredFloats) -> FloatArray:
        found = self._vector(name).reshape(declared.shape)
        return found + np.float32(declared.offset) if declared.offset else found

    def linear(self, module: str, declared: DeclaredLinear) -> Linear:
        c, weight = self._config, self.weight(module)
        is_int8 = declared.is_converted and c.has_int8_activations(module)
        is_int8 = is_int8 or is_bitlinear(c, self._model, module)
        bias = self.optional(module + ".bias")
        if bias is not None and isinstance(weight, Matrix) and is_int8 and c.scales_biases:
            bias = bias * weight.scale
        # transformers' use_rms_norm calls it rms_norm, BitNet embedding models call it norm.
        norm = self.optional(module + ".rms_norm.weight")
        if norm is None:
            norm = self.optional(module + ".norm.weight")
        activations = self._activations(weight, is_int8) if declared.is_converted else "float32"
        eps = c.linear_norm_eps
        return Linear(module, weight, activations, bias, norm, eps, share=declared.share)

    def _activations(self, weight: Matrix | DenseTensor, is_trained_int8: bool) -> str:
        """Return what a layer takes that was trained with int8 activations or without."""
        if not isinstance(weight, Matrix) or self._wanted == "float32":
            return "float32"
        if is_trained_int8:
            return "int8"
        return "int8-group" if self._wanted == "int8-group" else "float32"

    def tied_head(self, weight: Matrix | DenseTensor) -> Linear:
        """Return the embedding as the output head."""
        return Linear(LM_HEAD, weight, self._activations(weight, is_trained_int8=False))

    def lm_head(self, module: str) -> Linear:
        """Return the output head of the file."""
        weight = self.weight(module)
        if isinstance(weight, DenseTensor) and weight.dtype == "I8":  # compiled so
            scale = self._vector(module + ".weight_scale")
            return Linear(LM_HEAD, weight, "int8", row_scale=scale)
        # A head is converted only if modules_to_not_convert is a list without it.
        is_int8 = isinstance(weight, Matrix) and weight.layout.startswith("bitnet")
        return Linear(LM_HEAD, weight, self._activations(weight, is_int8))

    def weight(self, module: str) -> Matrix | DenseTensor:
        name = module + ".weight"
        if self._model.is_indexed(name):
            return self._model.matrix(name)
        return self._model.dense(name)

    def optional(self, name: str) -> FloatArray | None:
        """Return a vector, or None if the model has none of that name."""
        return self._vector(name) if name in self._model else None

    def _vector(self, name: str) -> FloatArray:
        found = self._model.dense(name)
        if found.dtype == "F64":
            return found.data.reshape(-1).astype(np.float32)
        return np.ascontiguousarray(found.to_float32().reshape(-1))
