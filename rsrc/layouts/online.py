"""Float masters that their own model makes ternary in every forward pass: BitNet's absmean.

Which they are, config.json says: transformers' `quantization_mode` "online" (integrations/
bitnet.py), or the architecture and `weight_bits` of 1bitLLM's models. BitNet embedding models say
it by a norm of its own inside every such layer. Nothing is lost: this is what the model multiplies
by. So it comes before a look at the floats: where they are s times ternary already, their mean
magnitude is below s, and that is what the model multiplies by.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from rsr_formats.layout import MAX_NAME_BYTES

from ..checkpoint import Checkpoint, SourceTensor
from ..errors import SourceError
from .base import FLOATS, TernaryTensor
from .quantise import AbsMean

# The output layer by its usual names. transformers leaves it alone where config.json has no
# `modules_to_not_convert`; where there is such a list, the list is all that counts.
HEADS = ("lm_head", "embed_out", "output", "score", "classifier")

_REGULAR_EXPRESSION = frozenset("+?[](){}|^$\\")


class OnlineMaster(AbsMean):
    """Weights of linear layers that a model quantises by absmean, per tensor, each by itself."""

    def recognise(self, checkpoint: Checkpoint, tensor: SourceTensor) -> TernaryTensor | str | None:
        """Claim the weights of linear layers of a model that quantises them online.

        Raises:
            SourceError: config.json has a `modules_to_not_convert` that cannot be followed.
        """
        module, _, last = tensor.name.rpartition(".")
        if last != "weight" or tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            return None
        why = _config_says(checkpoint.config) or _own_norm(checkpoint, tensor)
        if why is None or _is_embedding(module) or _is_kept(checkpoint.config, module):
            return None
        return self.quantise(tensor, f", as the model computes: {why}")


def _config_says(config: dict[str, Any]) -> str | None:
    """Return in words what makes a model quantise its weights, or None."""
    quantization = _quantization(config)
    if quantization.get("quant_method") == "bitnet":
        online = quantization.get("quantization_mode") == "online"
        return "config.json says quantization_mode online" if online else None
    if quantization or config.get("weight_bits") != 1:
        return None
    names = [*_strings(config.get("architectures")), *_strings(config.get("auto_map"))]
    if any(name.rpartition(".")[2] == "BitnetForCausalLM" for name in names):
        return "config.json says BitnetForCausalLM with weight_bits 1"
    return None


def _own_norm(checkpoint: Checkpoint, tensor: SourceTensor) -> str | None:
    """Return in words that a layer has a norm for its inputs inside, or None."""
    norm = checkpoint.tensors.get(f"{tensor.name.removesuffix('weight')}norm.weight")
    if norm is None or norm.dtype not in FLOATS or norm.shape != tensor.shape[1:]:
        return None
    if f"{tensor.name}_scale" in checkpoint.tensors or _quantization(checkpoint.config):
        return None
    return "a norm of its own makes it a BitLinear layer"


def _is_embedding(module: str) -> bool:
    """Whether it looks values up rather than multiplies, by its name."""
    name = module.rpartition(".")[2].lower()
    return "embed" in name or name in ("wte", "wpe")


def _is_kept(config: dict[str, Any], module: str) -> bool:
    """Whether a module stays as it is, as transformers' should_convert_module says."""
    keys = _quantization(config).get("modules_to_not_convert")
    if keys is None:
        return module.rpartition(".")[2] in HEADS
    return any(_matches(key.removesuffix(".weight"), module) for key in _strings(keys))


def _matches(key: str, module: str) -> bool:
    """Whether a key matches a module, or one that it is part of, or is how its name ends.

    To transformers a key is a regular expression. Names and ".*" in them are followed, and so is
    "." for any letter; a stranger's pattern that can take for ever is not.
    """
    if _REGULAR_EXPRESSION.intersection(key) or key.count("*") > key.count(".*"):
        raise SourceError(
            f"config.json: modules_to_not_convert has {key[:64]!r}, a regular expression that is "
            "not followed; expected module names, or '.*' in them"
        )
    pattern = "*".join(part.replace(".", "?") for part in key.split(".*"))
    dots = [i for i, letter in enumerate(module[:MAX_NAME_BYTES]) if letter == "."]
    starts = {module, *(module[:i] for i in dots), *(module[: i + 1] for i in dots)}
    return module.endswith(key) or any(fnmatchcase(start, pattern) for start in starts)


def _quantization(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("quantization_config")
    return found if isinstance(found, dict) else {}


def _strings(value: Any) -> list[str]:
    """Return the strings of a list or a map of config.json, [] of anything else."""
    if isinstance(value, dict):
        value = list(value.values())
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
