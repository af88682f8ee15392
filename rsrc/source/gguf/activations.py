"""Whether linear layers take int8 activations, which GGUF has no key for.

llama.cpp does not know these keys: it computes what suits the types of the tensors. rsrc writes
them where the architecture alone would mean the other kind, so that a model comes back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsr_formats.architectures import takes_int8_activations

from ...common.errors import SourceError

INT8 = "rsr.int8_activations"
KEPT = "rsr.modules_to_not_convert"
_MAX_MODULES = 1 << 14


def activation_metadata(
    config: Mapping[str, Any], made: Mapping[str, Any]
) -> dict[str, bool | list[str]]:
    """Return the keys that a file needs.

    Args:
        config: the model's config.json.
        made: what `hf_config` makes of the file without these keys, or its part on activations.
    """
    is_int8 = takes_int8_activations(config)
    if is_int8 == takes_int8_activations(made):
        return {}
    result: dict[str, bool | list[str]] = {INT8: is_int8}
    quantization = config.get("quantization_config")
    kept = quantization.get("modules_to_not_convert") if isinstance(quantization, dict) else None
    if is_int8 and isinstance(kept, list) and kept and all(isinstance(k, str) for k in kept):
        result[KEPT] = kept
    return result


def apply_activations(config: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Change a config.json made from metadata as the keys say, if the file has them.

    Raises:
        SourceError: a key has a value of another type.
    """
    is_int8 = metadata.get(INT8)
    if is_int8 is None:
        return
    if not isinstance(is_int8, bool):
        raise SourceError(f"{INT8} is not a boolean")
    if takes_int8_activations(config) == is_int8:
        return
    if not is_int8:
        config.pop("input_bits", None)
        return
    quantization: dict[str, Any] = {"quant_method": "bitnet"}
    kept = metadata.get(KEPT)
    if kept is not None:
        if isinstance(kept, str | np.ndarray) or not isinstance(kept, Sequence):
            raise SourceError(f"{KEPT} is not a list of strings")
        modules = list(kept[:_MAX_MODULES])
        if len(kept) > _MAX_MODULES or not all(isinstance(name, str) for name in modules):
            raise SourceError(f"{KEPT} is not a list of at most {_MAX_MODULES} strings")
        quantization["modules_to_not_convert"] = modules
    config["quantization_config"] = quantization
