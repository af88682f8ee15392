"""Float masters that their own model quantizes by BitNet's absmean in every forward pass.

config.json says which: `quantization_mode` "online" of transformers (integrations/bitnet.py), or
the architecture and `weight_bits` of 1bitLLM's models. BitNet embedding models say so by a norm
inside every such layer. Compiling loses nothing: the ternary matrix is what the model multiplies
by.

Masters that are s times ternary already are quantized as well: their mean magnitude is below s, and
the model multiplies by the mean. So this layout is asked before `Floats`.

Floats in a GGUF file are not masters: its converters quantize, and llama.cpp multiplies by the
floats as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsr_formats.records import DenseTensor

from ..source.checkpoint import Checkpoint
from ..source.gguf.tensor import GgufTensor
from ..source.quantization import Quantization
from ..source.tensor import SourceTensor
from .base import TernaryTensor
from .float_bits import FLOAT_BYTES, is_float_matrix
from .quantize import AbsMean


class SelfQuantizing(AbsMean):
    """Weights of linear layers that a model quantizes by absmean, each tensor by itself."""

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim the float weights of linear layers in a self-quantizing model.

        Raises:
            SourceError: config.json has a `modules_to_not_convert` that cannot be interpreted.
        """
        if not tensor.name.endswith(".weight") or not is_float_matrix(tensor):
            return None
        if isinstance(tensor, GgufTensor):
            return None
        evidence = self_quantizing_evidence(
            checkpoint.config,
            checkpoint.quantization,
            checkpoint.tensors,
            tensor.name,
            tensor.shape[1],
        )
        if evidence is None:
            return None
        return self.quantize(tensor, f", as the model computes: {evidence}")


def self_quantizing_evidence(
    config: dict[str, Any],
    quantization: Quantization,
    tensors: Mapping[str, SourceTensor | DenseTensor],
    name: str,
    columns: int,
) -> str | None:
    """Return what shows that a model quantizes one of its float matrices; None if nothing does.

    Args:
        config: the config.json.
        quantization: what it says of quantization.
        tensors: all tensors of the model by name.
        name: of the matrix, a ".weight".
        columns: in_features of the matrix.

    Raises:
        SourceError: config.json has a `modules_to_not_convert` that cannot be interpreted.
    """
    evidence = config_evidence(config)
    if evidence is None and not quantization.is_given:
        evidence = _norm_evidence(tensors, name, columns)
    return evidence if evidence is not None and quantization.converts(name) else None


def config_evidence(config: dict[str, Any]) -> str | None:
    """Return what in config.json says that a model quantizes its weights, or None."""
    quantization = Quantization(config)
    if quantization.is_bitnet:
        online = quantization.mode == "online"
        return "config.json says quantization_mode online" if online else None
    if quantization.is_given or config.get("weight_bits") != 1:
        return None
    names = [*_strings(config.get("architectures")), *_strings(config.get("auto_map"))]
    if any(name.rpartition(".")[2] == "BitnetForCausalLM" for name in names):
        return "config.json says BitnetForCausalLM with weight_bits 1"
    return None


def _norm_evidence(
    tensors: Mapping[str, SourceTensor | DenseTensor], name: str, columns: int
) -> str | None:
    """Return the evidence that a norm of the inputs inside a layer gives, or None."""
    norm = tensors.get(f"{name.removesuffix('weight')}norm.weight")
    if norm is None or norm.dtype not in FLOAT_BYTES or norm.shape != (columns,):
        return None
    if f"{name}_scale" in tensors:
        return None
    return "the norm inside the layer makes it a BitLinear layer"


def _strings(value: Any) -> list[str]:
    """Return the strings among the items of a JSON list or the values of a JSON object."""
    if isinstance(value, dict):
        value = list(value.values())
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
