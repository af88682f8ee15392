"""The modules of a model that take their weights from a `.rsr` file, and what replaces them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rsr_formats.architectures import DecoderNames, canonical
from rsr_formats.text import listed

from ..errors import OptionError
from ..matrix import Matrix
from ..model import Model
from ..torch import NormalizedRsrLinear, RsrEmbedding, RsrLinear
from .config import RsrConfig

_MOST_LISTED = 3  # missing tensors that a message names
_HEAD = f"{DecoderNames().head}.weight"


@dataclass(frozen=True)
class Replacement:
    """A module of a model, and the matrix that stands for its weight.

    Attributes:
        name: of the module.
        old: the module, a `torch.nn.Linear` or `torch.nn.Embedding`.
        matrix: its weight.
        activations: what a linear layer takes.
        norm_eps: of a norm of its inputs; None: it has no such norm.
    """

    name: str
    old: torch.nn.Module
    matrix: Matrix
    activations: str
    norm_eps: float | None

    def begin(self, model: Any) -> None:
        """Have transformers load what the module has beside its weight: a bias, a norm."""
        if isinstance(self.old, torch.nn.Embedding):
            model.set_submodule(self.name, torch.nn.Identity())
            return
        self.old.register_parameter("weight", None)
        if self.norm_eps is not None:
            self.old.rms_norm = LlamaRMSNorm(self.old.in_features, eps=self.norm_eps)

    def end(self, model: Any) -> None:
        """Put the new module in the place of the old one."""
        model.set_submodule(self.name, self._new())

    def _new(self) -> torch.nn.Module:
        old, matrix = self.old, self.matrix
        if isinstance(old, torch.nn.Embedding):
            return RsrEmbedding(matrix, old.weight.dtype, old.padding_idx)
        if self.norm_eps is None:
            return RsrLinear(matrix, old.bias, self.activations)
        return NormalizedRsrLinear(old.rms_norm, matrix, old.bias, self.activations)


def find_replacements(
    model: Any, opened: Model, dense: set[str], settings: RsrConfig
) -> Iterator[Replacement]:
    """Yield the modules to replace, the tied output head included.

    A module whose weight is dense stays as it is. A head that is tied to a matrix is no longer
    tied: transformers has nothing to tie it to. A class without a head needs no matrix of one.

    Args:
        model: of transformers.
        opened: the .rsr file.
        dense: `dense_names` of the model.
        settings: of config.json.

    Raises:
        OptionError: the model has no module for a matrix, or one of another kind or shape.
    """
    names = DecoderNames.find(opened)
    modules = {canonical(f"{name}.weight"): name for name, _ in model.named_modules()}
    for matrix in opened.matrices():
        weight = names.usual(matrix.name)
        name = modules.get(weight)
        if name is None and weight == _HEAD and model.get_output_embeddings() is None:
            continue
        module = None if name is None else model.get_submodule(name)
        stays_dense = weight in dense
        if name is None or not _fits(module, matrix, stays_dense):
            raise OptionError(
                f"{matrix!r}: {type(model).__name__} has no linear layer of its shape for {weight}"
            )
        activations = settings.activations_of(weight.removesuffix(".weight"))
        is_normed = settings.use_rms_norm and activations == "int8"
        norm_eps = settings.rms_norm_eps if is_normed else None
        if not stays_dense:
            yield Replacement(name, module, matrix, activations, norm_eps)
        for head, tied_to in [*model.all_tied_weights_keys.items()]:
            if tied_to == f"{name}.weight":
                del model.all_tied_weights_keys[head]
                head = head.removesuffix(".weight")
                module = model.get_submodule(head)
                yield Replacement(head, module, matrix, "float32", None)


def _fits(module: torch.nn.Module, matrix: Matrix, stays_dense: bool) -> bool:
    """Return whether a matrix is the weight of a module, which can be replaced or stays dense."""
    if isinstance(module, torch.nn.Linear):
        return (module.out_features, module.in_features) == matrix.shape
    # A class derived from Embedding, such as Gemma's, may compute more than a lookup.
    if type(module) is torch.nn.Embedding or (
        stays_dense and isinstance(module, torch.nn.Embedding)
    ):
        return (module.num_embeddings, module.embedding_dim) == matrix.shape
    return False


def dense_names(paths: Sequence[str]) -> set[str]:
    """Return the names of tensors in safetensors files, as in a class with a head."""
    names: set[str] = set()
    for path in paths:
        with safe_open(path, framework="pt") as file:
            names.update(map(canonical, file.keys()))
    return names


def check_complete(model: Any, dense: set[str]) -> None:
    """Check that the decoder and its head lack no tensor, once all replacements have begun.

    transformers only warns about tensors that it does not find, and makes them up.

    Args:
        model: of transformers.
        dense: `dense_names` of the model.

    Raises:
        OptionError: a tensor is missing.
    """
    prefix = DecoderNames().prefix  # a class without a head writes names without it
    missing = [
        name
        for name in model.state_dict()
        if name not in model.all_tied_weights_keys
        and dense.isdisjoint((canonical(name), name.removeprefix(prefix)))
        and (canonical(name).startswith(prefix) or name == _HEAD)
    ]
    if missing:
        raise OptionError(
            f"neither model.rsr nor model.safetensors has {listed(missing, _MOST_LISTED)}: export "
            f"the model again, or load another class than {type(model).__name__}"
        )
