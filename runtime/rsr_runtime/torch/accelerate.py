"""Swap the linear layers of a loaded model for the matrices of a `.rsr` file, in place."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from rsr_formats.architectures import PREFIXES, DecoderNames, other_prefix
from rsr_formats.pretrained import RSR_FILE
from rsr_formats.text import listed

from ..inputs import kind_of
from ..matrix import Matrix
from ..model import Model, load
from .errors import AccelerateError
from .linear import NormalizedRsrLinear, RsrLinear

_MOST_LISTED = 4  # modules that the repr of a report names for each reason
_LARGEST = 127  # of a sample's entries: int8 activations represent it exactly
_SPAN = 64  # columns of a sample that are not 0, and the least magnitude of these
_TOLERANCE = 1e-4  # of a row's largest result; of shorter floats two of their roundings


@dataclass(frozen=True, repr=False)
class Acceleration:
    """What `accelerate` did to a model.

    Attributes:
        file: path of the `.rsr` file.
        swapped: names of the modules that multiply by it now.
        kept: names of linear layers, embeddings and experts that did not change, and why.
        freed_bytes: of the weights that the swapped modules held.
        index_bytes: of the index that they read instead, in the mapped file.
    """

    file: str
    swapped: tuple[str, ...]
    kept: Mapping[str, str]
    freed_bytes: int
    index_bytes: int

    def __repr__(self) -> str:
        lines = [
            f"{len(self.swapped)} linear layers multiply by {self.file}: its index of "
            f"{self.index_bytes / 1e6:,.1f} MB replaces {self.freed_bytes / 1e6:,.1f} MB of weights"
        ]
        by_reason: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.kept.items():
            by_reason[reason].append(name)
        lines += [
            f"kept: {listed(names, _MOST_LISTED)} ({reason})" for reason, names in by_reason.items()
        ]
        return "\n".join(lines)


def accelerate(model: Module, path: str | os.PathLike[str]) -> Acceleration:
    """Swap the linear layers of a model for `RsrLinear` layers of a `.rsr` file, in place.

    It swaps `torch.nn.Linear`, and transformers' `BitLinear` and `AutoBitLinear`, whose activations
    stay int8, wherever the file has a matrix of the module's name. The prefix of a decoder's names
    ("model.", "model.language_model.", ...) may differ. Each new layer is compared first with the
    module that it replaces: shapes, and products with vectors that together have an entry for every
    column. If one differs, nothing is swapped. The old weights are freed, biases and norms stay.

    An embedding stays dense, and so does an output head that shares its weight.

    Args:
        model: on the CPU, of any package.
        path: compiled from the same checkpoint; or a folder that `rsrc export-transformers` wrote,
            which has such a file.

    Raises:
        AccelerateError: the file is that of another model, which no layer fits; or the model is no
            module, or not on the CPU; or the folder has no such file.
        FormatError: the file is damaged.
        OSError: the file cannot be read.
    """
    if not isinstance(model, Module):
        raise AccelerateError(f"model is {kind_of(model)}, expected a torch.nn.Module")
    file = _file(Path(path))
    found = _Plan(model, load(file, memory="auto"), str(file))
    found.find()
    found.swap()
    return found.report()


def _file(path: Path) -> Path:
    """Return the .rsr file that a path names."""
    if not path.is_dir():
        return path
    if not (path / RSR_FILE).is_file():
        inside = listed([p.name for p in sorted(path.glob("*.rsr"))], _MOST_LISTED)
        raise AccelerateError(
            f"{path} is a folder without {RSR_FILE}, expected a .rsr file: "
            + (f"it has {inside}" if inside else "compile the checkpoint first (rsrc compile)")
        )
    return path / RSR_FILE


class _Plan:
    """The layers to swap; the model does not change before all of them are known to be right."""

    def __init__(self, model: Module, file: Model, path: str) -> None:
        self._model = model
        self._file = file
        self._path = path
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._owners = _owners_of_weights(model)
        self._layers: dict[Module, RsrLinear] = {}  # by what they replace
        self._kept: dict[str, str] = {}

    def find(self) -> None:
        """Decide on every matrix of the file and every linear layer of the model."""
        for module_name, name in _module_names(self._file, self._modules).items():
            self._matrix(module_name, name)
        for module_name, module in self._modules.items():
            if isinstance(module, torch.nn.Linear) and module not in self._layers:
                self._kept.setdefault(module_name, self._why_dense(module_name))
        if not self._layers and any(isinstance(m, RsrLinear) for m in self._modules.values()):
            raise AccelerateError(f"{type(self._model).__name__} is accelerated already")
        if not self._layers:
            raise AccelerateError(
                f"{self._path} replaces no layer of {type(self._model).__name__}: "
                + listed([f"{n} ({why})" for n, why in self._kept.items()], _MOST_LISTED)
            )

    def _why_dense(self, module_name: str) -> str:
        other = self._shares_weight_with(module_name)
        if other is not None:
            return f"its weight is that of {other}"
        return "the file has no matrix of that name"

    def _shares_weight_with(self, module_name: str) -> str | None:
        """Return another module that has the weight of a module; None if there is none."""
        owners = self._owners[_address(self._modules[module_name])]
        return next((o for o in owners if self._modules[o] is not self._modules[module_name]), None)

    def _matrix(self, module_name: str, name: str) -> None:
        module = self._modules.get(module_name)
        if isinstance(base := getattr(module, "base_layer", None), Module):  # in a PEFT adapter
            module_name, module = f"{module_name}.base_layer", base
        if module is None:
            holder = self._holder_of_experts(module_name)
            if holder is None:
                raise AccelerateError(
                    f"{self._path} is not of this model: it has {name!r}, and the model no "
                    f"module {module_name!r}"
                )
            self._kept[holder] = "its experts are in one tensor"
        elif isinstance(module, torch.nn.Embedding):
            self._kept[module_name] = "an embedding"
        elif isinstance(module, RsrLinear):
            self._kept[module_name] = "it is an RsrLinear already"
        elif self._shares_weight_with(module_name) is not None:
            self._kept[module_name] = self._why_dense(module_name)
        elif (activations := _activations(module)) is None:
            self._kept[module_name] = f"the class {type(module).__name__} is not known"
        elif _has_hooks(module):
            self._kept[module_name] = "it has hooks"
        else:
            matrix = self._file.matrix(name)
            self._layers[module] = self._checked(module_name, module, matrix, activations)

    def _holder_of_experts(self, module_name: str) -> str | None:
        """Return the module that holds the experts one of which is named; None if there is none."""
        holder, found, _ = module_name.partition(".experts.")
        holder = f"{holder}.experts"
        return holder if found and holder in self._modules else None

    def _checked(
        self, module_name: str, module: Module, matrix: Matrix, activations: str
    ) -> RsrLinear:
        """Return the new layer of a module.

        Raises:
            AccelerateError: its shape or a product differs, or the module is not on the CPU.
        """
        shape, device = (module.out_features, module.in_features), module.weight.device
        if matrix.shape != shape:
            raise AccelerateError(
                f"{self._path} is not of this model: {matrix.name!r} has shape {matrix.shape}, "
                f"{module_name!r} {shape}"
            )
        if device.type != "cpu":
            raise AccelerateError(
                f"{module_name!r} is on {device}, expected the CPU: load the model there"
            )
        layer = RsrLinear(matrix, _bias(module), activations)
        difference = _difference(module, layer)
        if not difference <= 1:
            raise AccelerateError(
                f"{self._path} is not of this model: a product of {module_name!r} differs by "
                f"{difference:.2g} times what rounding allows from that of {matrix.name!r}"
            )
        norm = getattr(module, "rms_norm", None)
        if norm is None:
            return layer
        return NormalizedRsrLinear(norm, matrix, layer.bias, activations)

    def swap(self) -> None:
        """Put the new layers in the places of the old ones."""
        for name, module in self._modules.items():
            if module in self._layers:
                self._model.set_submodule(name, self._layers[module].train(module.training))
        for module in self._model.modules():
            if isinstance(module, _pretrained()):
                module.save_pretrained = partial(_save_adapters, module)

    def report(self) -> Acceleration:
        freed = sum(module.weight.nbytes for module in self._layers)
        index = sum(layer.matrix.nbytes for layer in self._layers.values())
        swapped = tuple(name for name, module in self._modules.items() if module in self._layers)
        return Acceleration(self._path, swapped, self._kept, freed, index)


def _module_names(file: Model, modules: Mapping[str, Module]) -> dict[str, str]:
    """Return the names of the file's matrices by the names that their modules have in a model."""
    weights = [f"{name}.weight" for name in modules]
    wrapper, other = "", other_prefix(weights)  # what the names of a wrapped decoder begin with
    if other is not None:
        wrapper = other.removesuffix(max((p for p in PREFIXES if other.endswith(p)), key=len))
    unwrapped = [name.removeprefix(wrapper) for name in weights]
    ours, theirs = DecoderNames.find(file), DecoderNames.find(unwrapped)
    found = {}
    for matrix in file.matrices():
        module = ours.renamed(matrix.name.removesuffix(".weight"), theirs)
        if module == theirs.head and f"{module}.weight" not in unwrapped:
            continue  # the model returns hidden states
        found[wrapper + module] = matrix.name
    return found


def _owners_of_weights(model: Module) -> dict[int, list[str]]:
    """Return the names of the modules that have each weight, by its address."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if any(tensor is weight for tensor in _tensors(module)):
            owners[_address(module)].append(name)
    return owners


def _address(module: Module) -> int:
    # Tensors on the device "meta" have no memory, and are told apart by themselves.
    address: int = module.weight.data_ptr()
    return address or id(module.weight)


def _bit_linear() -> tuple[type[Module], ...]:
    """Return transformers' layers with int8 activations, none if transformers is not loaded."""
    found = sys.modules.get("transformers.integrations.bitnet")
    return () if found is None else (found.BitLinear, found.AutoBitLinear)


def _pretrained() -> tuple[type[Module], ...]:
    """Return transformers' base class of models, none if transformers is not loaded."""
    found = sys.modules.get("transformers.modeling_utils")
    return () if found is None else (found.PreTrainedModel,)


def _save_adapters(model: Any, *arguments: Any, **options: Any) -> None:
    """Replace `save_pretrained`, which would write a model without its weights."""
    if not getattr(model, "_hf_peft_config_loaded", False):
        raise AccelerateError(
            "save_pretrained: an accelerated model has no dense weights. Save it before, or "
            "make a directory of the .rsr file: rsrc export-transformers"
        )
    type(model).save_pretrained(model, *arguments, **options)


def _activations(module: Module) -> str | None:
    """Return what a module multiplies; None for a module of another kind.

    Classes derived from these may compute anything, and are another kind.
    """
    if type(module) is torch.nn.Linear:
        return "float32"
    return "int8" if type(module) in _bit_linear() else None


def _has_hooks(module: Module) -> bool:
    """Return whether calls of a module run more than its class says."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(getattr(module, name, None) for name in hooks)


def _bias(module: Module) -> Parameter | None:
    """Return the bias that a module adds to its product."""
    bias: Tensor | None = module.bias
    if bias is None:
        return None
    if type(module) in _bit_linear():
        if isinstance(module, torch.nn.Linear) and not module.online_quant:
            bias = bias * module.weight_scale  # AutoBitLinear scales its whole result
        return Parameter(bias.detach(), requires_grad=False)
    return bias


# --- sample products ----------------------------------------------------------------------------


def _difference(module: Module, layer: RsrLinear) -> float:
    """Return the largest difference of sample products, as a share of what rounding allows.

    Entries of a sample are integers whose largest magnitude is 127. Layers with int8 activations
    quantize them to themselves, in every dtype. A sample has 64 entries that are not 0, each at
    least 64: a single weight that differs shows in the result. Results are compared row by row, as
    scales may differ. A row's may cancel in all samples, so a typical one also counts.
    """
    dtype = next(t.dtype for t in _tensors(module) if t.is_floating_point())
    samples = _samples(module.in_features).to(dtype)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), _without_norm(module):
        wanted, found = module(samples).float(), layer(samples).float()
    typical = _LARGEST * _SPAN**0.5 * _scales_of_rows(layer.matrix)
    largest = torch.maximum(wanted.abs().amax(0), typical)
    allowed = max(_TOLERANCE, 2 * torch.finfo(dtype).eps) * largest
    difference = (wanted - found).abs()
    return float((difference / allowed.clamp(min=torch.finfo(dtype).tiny)).max())


def _scales_of_rows(matrix: Matrix) -> Tensor:
    """Return the largest magnitude of each row's scales, float32 (out_features,) or (1,)."""
    scale = np.abs(matrix.scale)
    return torch.from_numpy(scale.max(1) if scale.ndim == 2 else scale.reshape(-1))


def _tensors(module: Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _samples(columns: int) -> Tensor:
    """Return samples of integers, float32 (samples, columns), each 0 but for its own columns."""
    generator = torch.Generator().manual_seed(0)
    count = -(-columns // _SPAN)
    values = torch.randint(_SPAN, _LARGEST + 1, (columns,), generator=generator)
    values[::_SPAN] = _LARGEST
    signs = 1 - 2 * torch.randint(0, 2, (columns,), generator=generator)
    of_column = torch.arange(columns) // _SPAN
    samples = torch.zeros(count, columns)
    samples[of_column, torch.arange(columns)] = (signs * values).float()
    return samples


@contextmanager
def _without_norm(module: Module) -> Iterator[None]:
    """Have a BitNet layer multiply its input itself, not the normalized one."""
    norm: Any = getattr(module, "rms_norm", None)
    if norm is None:
        yield
        return
    module.rms_norm = None
    try:
        yield
    finally:
        module.rms_norm = norm
