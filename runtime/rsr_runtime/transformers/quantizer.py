"""Gives a model of transformers its linear layers from a `.rsr` file while it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.quantizers import HfQuantizer, register_quantizer
from transformers.utils import cached_file

from rsr_formats.architectures import DecoderNames, canonical
from rsr_formats.pretrained import QUANT_METHOD, RSR_FILE, WEIGHTS_KEY

from ..errors import OptionError, ReplacedError
from ..matrix import Matrix
from ..model import Model, load
from ..torch import RsrLinear
from .config import RsrConfig
from .saving import Saver

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLACES = ("auto", "balanced", "balanced_low_0", "sequential")  # device_map: transformers decides


class _Layer(NamedTuple):
    """A linear layer of a model, and what takes its place."""

    module: str
    matrix: Matrix
    activations: str


@register_quantizer(QUANT_METHOD)
class RsrQuantizer(HfQuantizer):  # type: ignore[misc]
    """Replaces `torch.nn.Linear` by `RsrLinear` in a model that `from_pretrained` loads.

    transformers calls its methods; the class is of no use by itself. Linear layers lose their
    weights before the tensors of model.safetensors are loaded, and are replaced after that, because
    transformers then replaces all tensors of a module that it does not find there.
    """

    requires_calibration = True  # it quantizes no weights of floats
    quantization_config: RsrConfig

    def __init__(self, quantization_config: RsrConfig, **options: Any) -> None:
        """Take the settings of a config.json; `options` are those of transformers."""
        super().__init__(quantization_config, **options)
        self._layers: list[_Layer] = []  # while a model is loaded
        self._path = Path()

    def validate_environment(self, *arguments: Any, device_map: Any = None, **options: Any) -> None:
        """Check that the model is to be on the CPU.

        Raises:
            OptionError: it is to be elsewhere, or partly on the disk.
        """
        places = device_map.values() if isinstance(device_map, Mapping) else ()
        others = sorted({str(place) for place in places} - {"cpu"})
        if others:
            raise OptionError(
                f"device_map: found {', '.join(others)}, expected 'cpu': RsrLinear multiplies on "
                "the CPU, straight from the mapped .rsr file"
            )

    def update_device_map(self, device_map: Any) -> Any:
        """Return a device_map that keeps the whole model on the CPU."""
        return {"": torch.device("cpu")} if device_map in _PLACES else device_map

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Check the dtype of the model.

        Raises:
            OptionError: `RsrLinear` does not take it.
        """
        if dtype not in _DTYPES:
            raise OptionError(f"dtype: found {dtype}, expected float32, bfloat16 or float16")
        return dtype

    def update_attn_implementation(self, config: Any) -> Any:
        """Return the config without the file of weights that is there to stop others.

        transformers gives the config to no other method before it looks for the weights.
        """
        if hasattr(config, WEIGHTS_KEY):
            delattr(config, WEIGHTS_KEY)
        return config

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **options: Any
    ) -> None:
        if not checkpoint_files:
            raise OptionError("a model with a .rsr file is loaded from its directory only")
        self._path = _find_file(model.config.name_or_path, Path(checkpoint_files[0]).parent)
        opened = load(self._path)
        if opened.digest.hex() != self.quantization_config.digest:
            raise ReplacedError(
                f"{self._path} is not the file that config.json was written for: export the model "
                "again (rsrc export-transformers)"
            )
        self._layers = [*_find_layers(model, opened, self.quantization_config)]
        for layer in self._layers:
            model.get_submodule(layer.module).register_parameter("weight", None)

    def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:
        for layer in self._layers:
            bias = model.get_submodule(layer.module).bias
            model.set_submodule(layer.module, RsrLinear(layer.matrix, bias, layer.activations))
        self._layers = []
        model.save_pretrained = Saver(model, self._path)
        return model

    def is_serializable(self) -> bool:
        """Return that `save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether adapters can be trained on top."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Whether `torch.compile` works."""
        return True


def _find_file(name: str, folder: Path) -> Path:
    """Return the path of the .rsr file beside the other files of a model.

    Args:
        name: what the model was loaded from, a directory or an id on the hub.
        folder: of model.safetensors; of a model on the hub, a snapshot in its cache.
    """
    if folder.parent.name != "snapshots":
        return folder / RSR_FILE
    cache = folder.parents[2]
    return Path(cached_file(name, RSR_FILE, revision=folder.name, cache_dir=cache))


def _find_layers(model: Any, opened: Model, config: RsrConfig) -> Iterator[_Layer]:
    """Yield the layers whose weights are in the .rsr file, the tied output head included.

    Raises:
        OptionError: the model has no linear layer for a matrix, or one of another shape.
    """
    names = DecoderNames.find(opened)
    modules = {canonical(name): name for name, module in model.named_modules()}
    embeddings: dict[str, Matrix] = {}
    for matrix in opened.matrices():
        usual = names.usual(matrix.name).removesuffix(".weight")
        name = modules.get(usual)
        module = None if name is None else model.get_submodule(name)
        if isinstance(module, torch.nn.Embedding):  # model.safetensors holds its floats
            embeddings[f"{name}.weight"] = matrix
            continue
        if name is None or not _fits(module, matrix):
            raise OptionError(
                f"{matrix!r}: {type(model).__name__} has no linear layer of its shape named {usual}"
            )
        yield _Layer(name, matrix, config.activations_of(usual))
    for head, embedding in [*model.all_tied_weights_keys.items()]:
        name = head.removesuffix(".weight")
        if embedding in embeddings and _fits(model.get_submodule(name), embeddings[embedding]):
            del model.all_tied_weights_keys[head]
            yield _Layer(name, embeddings[embedding], "float32")


def _fits(module: object, matrix: Matrix) -> bool:
    if not isinstance(module, torch.nn.Linear):
        return False
    return (module.out_features, module.in_features) == matrix.shape
