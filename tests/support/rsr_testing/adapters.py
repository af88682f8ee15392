"""Random LoRA adapters, written as PEFT does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.numerics import narrow_bf16
from rsr_runtime.llm import LanguageModel

from .models import Tensor, safetensors

Tensors = dict[str, npt.NDArray[Any]]

ATTENTION = ("q_proj", "v_proj")
RANK = 4
_DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}


def stored(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Return values in the dtype of a file, as an adapter keeps them; BF16 as uint16."""
    if dtype == "BF16":
        return narrow_bf16(values)
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype])


def write_adapter(
    folder: Path,
    model: LanguageModel,
    seed: int = 0,
    targets: Sequence[str] = ATTENTION,
    change: Callable[[Tensors], None] | None = None,
    **settings: Any,
) -> Path:
    """Write an adapter of a model's layers that are called so, and return its folder.

    Args:
        folder: is created.
        model: the model.
        seed: of the values.
        targets: ends of the names of layers.
        change: changes the tensors before they are written; uint16 is BF16.
        settings: of adapter_config.json.
    """
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for layer in model.weights.linear:
        if layer.name.endswith(tuple(targets)):
            rows, columns = layer.weight.shape
            name = f"base_model.model.{layer.name}"
            a, b = rng.standard_normal((RANK, columns)), rng.standard_normal((rows, RANK))
            tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = b.astype(np.float32) * np.float32(0.1)
    if change is not None:
        change(tensors)
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": [*targets],
        "bias": "none", "modules_to_save": None, "use_dora": False, **settings,
    }  # fmt: skip
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    data = safetensors({k: Tensor(_DTYPES[v.dtype.name], v) for k, v in tensors.items()})
    (folder / "adapter_model.safetensors").write_bytes(data)
    return folder
