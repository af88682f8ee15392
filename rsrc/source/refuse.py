"""Checkpoints that `rsrc compile` rejects as a whole, although they open.

Products with their weights would be wrong, or would not be products of the model. Each row of
`REFUSALS` names a kind of checkpoint, how it is detected, and what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rsr_formats.contents import GGUF, RSR, SAFETENSORS
from rsr_formats.text import quoted

from ..common.errors import SourceError
from .checkpoint import Checkpoint
from .files import config_in
from .rotation import FILE, PREFIX
from .wrong_file import identified, look

PICKLES = (".bin", ".pt", ".pth", ".ckpt")

# Quantization methods of transformers whose weights are not ternary matrices with scales.
FOREIGN_METHODS = frozenset(
    {
        "aqlm", "auto-round", "awq", "bitsandbytes", "compressed-tensors", "eetq", "fbgemm_fp8",
        "fouroversix", "fp8", "fp_quant", "gptq", "higgs", "hqq", "metal", "mxfp4", "mxfp8",
        "nvfp4", "quanto", "quark", "sinq", "spqr", "torchao", "vptq",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A kind of checkpoint.

    Attributes:
        kind: its name.
        sign: returns what shows that a checkpoint is of this kind, None if nothing does. It reads
            no tensor.
        advice: why it is rejected, and what to do instead.
    """

    kind: str
    sign: Callable[[Checkpoint], str | None]
    advice: str


def refuse_unsupported(checkpoint: Checkpoint) -> None:
    """Reject a checkpoint of a kind in `REFUSALS`.

    Raises:
        SourceError: names the kind, what shows it, and what to do instead.
    """
    try:
        _ = checkpoint.config
    except SourceError:  # whatever needs the config reports it
        checkpoint = replace(checkpoint, config_path=None, files={})
    for refusal in REFUSALS:
        sign = refusal.sign(checkpoint)
        if sign is not None:
            raise SourceError(f"{checkpoint.path}: {refusal.kind}: {sign}. {refusal.advice}")


def refuse_by_config(source: Path) -> None:
    """Reject a source by its config.json and file names alone, before its tensors are known.

    Raises:
        SourceError: as `refuse_unsupported`.
    """
    folder = source if source.is_dir() else source.parent
    refuse_unsupported(Checkpoint(source, {}, config_in(folder)))


def is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle by its name, and its contents do not contradict it."""
    return path.name.endswith(PICKLES) and identified(path) not in (GGUF, RSR, SAFETENSORS)


def refuse_pickles(source: Path, pickles: Sequence[str]) -> None:
    """Reject a source if it has pickles, given by name.

    Raises:
        SourceError: says how to convert them, unless the converted weights would be rejected, too.
    """
    if not pickles:
        return
    refuse_by_config(source)
    options = "map_location='cpu', weights_only=True"
    load = f"torch.load({pickles[0]!r}, {options})"
    if len(pickles) > 1:  # shards, and perhaps other pickles such as training_args.bin
        shards = any(name.startswith("pytorch_model") for name in pickles)
        files = "pytorch_model*.bin" if shards else f"*{Path(pickles[0]).suffix}"
        each = f"torch.load(f, {options}).items()"
        load = f"{{n: t for f in sorted(glob.glob({files!r})) for n, t in {each}}}"
    raise SourceError(  # tests/parity runs this code
        f"{source}: pickled weights ({quoted(pickles, 20)}) are not read, as opening them can run "
        "code. If you trust them, convert them in Python with torch and safetensors: "
        f"`w = {load}`, then `safetensors.torch.save_file("
        "{n: t.contiguous().clone() for n, t in w.items()}, 'model.safetensors')`"
        + _not_downloaded(source, pickles)
    )


def _not_downloaded(source: Path, pickles: Iterable[str]) -> str:
    """Say of the first pickle that is not there or not itself that it must be downloaded."""
    folder = source if source.is_dir() else source.parent
    for name in pickles:
        try:
            look(folder / name)
        except SourceError as error:
            return f". Before that, see to {error}"
        except OSError:
            return f". Before that, download {name[:120]}"
    return ""


def _rotated(c: Checkpoint) -> str | None:
    if c.basis is not None:
        return None
    if (c.folder / FILE).is_file():
        return f"there is a {FILE}"
    for where, keys in (("metadata", c.metadata), ("config.json", c.config)):
        for key in keys:
            if key.startswith(PREFIX):
                return f"its {where} has the key {key[:64]!r}"
    return None


def _tensor_named(c: Checkpoint, is_sign: Callable[[str], bool]) -> str | None:
    found = next(filter(is_sign, c.tensors), None)
    return None if found is None else f"there is a tensor {found[:120]!r}"


def _adapter(c: Checkpoint) -> str | None:
    def is_pair(name: str) -> bool:
        return ".lora_A" in name and name.replace(".lora_A", ".lora_B") in c.tensors

    if found := _tensor_named(c, is_pair):
        return found
    only_adapter = all(path.name.startswith("adapter_model") for path in c.shards)
    if only_adapter and (c.folder / "adapter_config.json").is_file():
        return "there is an adapter_config.json"
    return None


def _codes_and_offsets(c: Checkpoint) -> str | None:
    if all(any((c.folder / name).glob("*.bin")) for name in ("codes", "scales")):
        return "there are codes/*.bin and scales/*.bin"
    return None


def _zero_points(c: Checkpoint) -> str | None:
    def is_packed(name: str) -> bool:
        stem = name.removesuffix(".qweight")
        return stem != name and any(f"{stem}.{part}" in c.tensors for part in ("qzeros", "scales"))

    return _tensor_named(c, is_packed)


def _bitsandbytes(c: Checkpoint) -> str | None:
    return _tensor_named(c, lambda name: ".quant_state.bitsandbytes__" in name)


def _foreign_method(c: Checkpoint) -> str | None:
    method = c.quantization.method
    return f"config.json says quant_method {method!r}" if method in FOREIGN_METHODS else None


def _complex(c: Checkpoint) -> str | None:
    classes = c.config.get("architectures")
    for value in [c.config.get("model_type"), *(classes if isinstance(classes, list) else [])]:
        if isinstance(value, str) and "fairy" in value.lower():
            return f"config.json says {value[:64]!r}"
    for name, tensor in c.tensors.items():
        if len(tensor.shape) != 2 or "weight" not in name:
            continue
        if tensor.dtype == "C64":
            return f"{name[:120]!r} is C64"
        if any(other in c.tensors for other in _imaginary(name)):
            return f"{name[:120]!r} has an imaginary part beside it"
    return None


def _imaginary(name: str) -> Iterator[str]:
    """Yield the possible names of the imaginary part, if `name` may be that of a real part."""
    stem = name.removesuffix(".weight")
    for real, imaginary in (("real", "imag"), ("_re", "_im")):
        if stem.endswith(real):
            yield stem.removesuffix(real) + imaginary + name[len(stem) :]


REFUSALS = (
    Refusal(
        "weights in a rotated basis",
        _rotated,
        f"Products need activations rotated the same way (Hadamard). {FILE} beside safetensors "
        "files and the metadata of GGUF files say how; nothing else is read",
    ),
    Refusal(
        "a LoRA or other PEFT adapter",
        _adapter,
        "It changes a model but is not one. Compile its base model, and apply the adapter when "
        "that runs: rsrc run MODEL.rsr --lora DIR",
    ),
    Refusal(
        "ternary codes with offsets (ternary-quant)",
        _codes_and_offsets,
        "Its weights are alpha * code + mu, three values not symmetric about zero, which a .rsr "
        "file cannot hold. Compile the floating-point checkpoint it was made from, with --quantize",
    ),
    Refusal(
        "integers with zero points (GPTQ or AWQ)",
        _zero_points,
        "Its groups have offsets and may have more than three values, which a .rsr file cannot "
        "hold. Compile the checkpoint it was made from",
    ),
    Refusal(
        "weights quantized by bitsandbytes",
        _bitsandbytes,
        "They are not ternary. Compile the checkpoint it was made from",
    ),
    Refusal(
        "weights quantized by another method",
        _foreign_method,
        "They are not ternary, or are packed in an unsupported way. Compile the checkpoint it was "
        "made from",
    ),
    Refusal(
        "complex weights",
        _complex,
        "A .rsr file holds real ternary matrices. No conversion without loss is known",
    ),
)
