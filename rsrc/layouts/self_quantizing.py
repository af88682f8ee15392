"""Float masters that their own model makes ternary in every forward pass: BitNet's absmean.

Which they are, config.json says: transformers' `quantization_mode` "online" (integrations/
bitnet.py), or the architecture and `weight_bits` of 1bitLLM's models. BitNet embedding models say
it by a norm of its own inside every such layer. Nothing is lost: this is what the model multiplies
by. So it comes before a look at the floats: where they are s times ternary already, their mean
magnitude is below s, and that is what the model multiplies by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsr_formats.records import DenseTensor

from ..source.checkpoint import Checkpoint
from ..source.quantization import Quantization
from ..source.tensor import SourceTensor
from .base import FLOATS, TernaryTensor
from .quantize import AbsMean


class OnlineMaster(AbsMean):
    """Weights of linear layers that a model quantizes by absmean, per tensor, each by itself."""

    def recognize(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim the weights of linear layers of a model that quantizes them online.

        Raises:
            SourceError: config.json has a `modules_to_not_convert` that cannot be followed.
        """
        if not tensor.name.endswith(".weight") or not _is_float_matrix(tensor):
            return None
        columns = tensor.shape[1]
        why = why_online(
            checkpoint.config, checkpoint.quantization, checkpoint.tensors, tensor.name, columns
        )
        if why is None:
            return None
        return self.quantize(tensor, f", as the model computes: {why}")


def why_online(
    config: dict[str, Any],
    quantization: Quantization,
    tensors: Mapping[str, SourceTensor | DenseTensor],
    name: str,
    columns: int,
) -> str | None:
    """Return in words why a model quantizes its float matrix `name` itself, or None: it does not.

    Raises:
        SourceError: config.json has a `modules_to_not_convert` that cannot be followed.
    """
    why = config_says(config)
    if why is None and not quantization.is_given:
        why = _own_norm(tensors, name, columns)
    return why if why is not None and quantization.converts(name) else None


def _is_float_matrix(tensor: SourceTensor) -> bool:
    return tensor.dtype in FLOATS and len(tensor.shape) == 2


def config_says(config: dict[str, Any]) -> str | None:
    """Return in words what makes a model quantize its weights, or None."""
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


def _own_norm(
    tensors: Mapping[str, SourceTensor | DenseTensor], name: str, columns: int
) -> str | None:
    """Return in words that a layer has a norm for its inputs inside, or None."""
    norm = tensors.get(f"{name.removesuffix('weight')}norm.weight")
    if norm is None or norm.dtype not in FLOATS or norm.shape != (columns,):
        return None
    if f"{name}_scale" in tensors:
        return None
    return "a norm of its own makes it a BitLinear layer"


def _strings(value: Any) -> list[str]:
    """Return the strings of a list or a map of config.json, [] of anything else."""
    if isinstance(value, dict):
        value = list(value.values())
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
