"""What `rsrc compile` refuses by name: checkpoints that look ternary, or like one, and are not.

A product with any of them would be wrong, or would be none of the model's. Each row of the table
says how such a checkpoint is known, what it is, and what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import SourceError
from .quantization import Quantization

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, SourceTensor

# transformers' names of quantization methods whose weights are no ternary matrices with scales.
FOREIGN_METHODS = frozenset(
    {
        "aqlm", "auto-round", "awq", "bitsandbytes", "compressed-tensors", "eetq", "fbgemm_fp8",
        "fouroversix", "fp8", "fp_quant", "gptq", "higgs", "hqq", "metal", "mxfp4", "mxfp8",
        "nvfp4", "quanto", "quark", "sinq", "spqr", "torchao", "vptq",
    }
)  # fmt: skip

# Entries that say in which rotated basis weights are (Prism ML's Bonsai 2).
_ROTATION = "prism.hadamard"


@dataclass(frozen=True)
class Evidence:
    """What is known of a checkpoint without reading a tensor."""

    folder: Path
    tensors: dict[str, SourceTensor]
    config: dict[str, Any]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Refusal:
    """A kind of checkpoint, how it is known (in words, or None) and what to say of it."""

    kind: str
    sign: Callable[[Evidence], str | None]
    advice: str


def _rotated(e: Evidence) -> str | None:
    if (e.folder / "hadamard.json").is_file():
        return "there is a hadamard.json"
    for where, keys in (("metadata", e.metadata), ("config.json", e.config)):
        for key in keys:
            if key.startswith(_ROTATION):
                return f"its {where} has the key {key[:64]!r}"
    return None


def _adapter(e: Evidence) -> str | None:
    for name in e.tensors:
        if ".lora_A" in name and name.replace(".lora_A", ".lora_B") in e.tensors:
            return f"there is a tensor {name[:120]!r}"
    files = {t.path.name for t in e.tensors.values()}
    only_adapter = all(name.startswith("adapter_model") for name in files)
    if only_adapter and (e.folder / "adapter_config.json").is_file():
        return "there is an adapter_config.json"
    return None


def _codes_and_offsets(e: Evidence) -> str | None:
    if all(any((e.folder / name).glob("*.bin")) for name in ("codes", "scales")):
        return "there are codes/*.bin and scales/*.bin"
    return None


def _zero_points(e: Evidence) -> str | None:
    for name in e.tensors:
        stem = name.removesuffix(".qweight")
        if stem != name and any(f"{stem}.{part}" in e.tensors for part in ("qzeros", "scales")):
            return f"there is a tensor {name[:120]!r}"
    return None


def _bitsandbytes(e: Evidence) -> str | None:
    for name in e.tensors:
        if ".quant_state.bitsandbytes__" in name:
            return f"there is a tensor {name[:120]!r}"
    return None


def _foreign_method(e: Evidence) -> str | None:
    method = Quantization(e.config).method
    return f"config.json says quant_method {method!r}" if method in FOREIGN_METHODS else None


def _complex(e: Evidence) -> str | None:
    classes = e.config.get("architectures")
    for value in [e.config.get("model_type"), *(classes if isinstance(classes, list) else [])]:
        if isinstance(value, str) and "fairy" in value.lower():
            return f"config.json says {value[:64]!r}"
    for name, tensor in e.tensors.items():
        if len(tensor.shape) != 2 or "weight" not in name:
            continue
        if tensor.dtype == "C64":
            return f"{name[:120]!r} is C64"
        if any(other in e.tensors for other in _imaginary(name)):
            return f"{name[:120]!r} has an imaginary part beside it"
    return None


def _imaginary(name: str) -> Iterator[str]:
    """List the names that the imaginary part of `name` may have, if that is a real part."""
    stem = name.removesuffix(".weight")
    for real, imaginary in (("real", "imag"), ("_re", "_im")):
        if stem.endswith(real):
            yield stem.removesuffix(real) + imaginary + name[len(stem) :]


REFUSALS = (
    Refusal(
        "weights in a rotated basis",
        _rotated,
        "A product needs its activations rotated the same way (Hadamard), which a .rsr file does "
        "not describe. Compile a checkpoint whose weights are not rotated",
    ),
    Refusal(
        "a LoRA or other PEFT adapter",
        _adapter,
        "It changes a model and is none. Merge it into its base model first (in PEFT: "
        "model.merge_and_unload().save_pretrained(FOLDER)) and compile that",
    ),
    Refusal(
        "ternary codes with offsets (ternary-quant)",
        _codes_and_offsets,
        "Its weights are alpha * code + mu, three values that do not lie about zero, which a .rsr "
        "file does not hold. Compile the floats it was made from, with --quantize",
    ),
    Refusal(
        "integers with zero points (GPTQ or AWQ)",
        _zero_points,
        "Its groups have offsets and may have more than three values, which a .rsr file does not "
        "hold. Compile the checkpoint it was made from",
    ),
    Refusal(
        "weights quantized by bitsandbytes",
        _bitsandbytes,
        "They are no ternary weights. Compile the checkpoint it was made from",
    ),
    Refusal(
        "weights quantized by another method",
        _foreign_method,
        "They are no ternary weights, or are packed in a way that is not read. Compile the "
        "checkpoint it was made from",
    ),
    Refusal(
        "complex weights",
        _complex,
        "A .rsr file holds real ternary matrices. There is nothing to convert it to without loss",
    ),
)


def refuse_unsupported(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is of a kind in the table.

    Raises:
        SourceError: says the kind, what shows it, and what to do.
    """
    try:
        config = checkpoint.config
    except SourceError:
        config = {}  # whoever needs it says what is wrong with it
    evidence = Evidence(checkpoint.folder, checkpoint.tensors, config, checkpoint.metadata)
    for refusal in REFUSALS:
        sign = refusal.sign(evidence)
        if sign is not None:
            raise SourceError(f"{checkpoint.path}: {refusal.kind}: {sign}. {refusal.advice}")
