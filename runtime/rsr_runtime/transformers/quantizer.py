"""Gives a model of transformers its linear layers from a `.rsr` file while it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers import HfQuantizer, register_quantizer
from transformers.utils import cached_file

from rsr_formats.pretrained import QUANT_METHOD, RSR_FILE, WEIGHTS_KEY

from ..errors import OptionError, ReplacedError
from ..model import load
from .config import RsrConfig
from .layers import Replacement, check_complete, dense_names, find_replacements
from .saving import Saver

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLACES = ("auto", "balanced", "balanced_low_0", "sequential")  # device_map: transformers decides


@register_quantizer(QUANT_METHOD)
class RsrQuantizer(HfQuantizer):  # type: ignore[misc]
    """Replaces the modules whose weights are in a .rsr file, in a model that is being loaded.

    transformers calls its methods; the class is of no use by itself. Linear layers lose their
    weights before the tensors of model.safetensors are loaded, and are replaced after that: in
    between, transformers makes up all tensors that it does not find there.
    """

    requires_calibration = True  # it quantizes no weights of floats
    quantization_config: RsrConfig

    def __init__(self, quantization_config: RsrConfig, **options: Any) -> None:
        """Take the settings of a config.json; `options` are those of transformers."""
        super().__init__(quantization_config, **options)
        self._replaced: list[Replacement] = []  # while a model is loaded
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
        opened = load(self._path, memory="auto")
        if opened.digest.hex() != self.quantization_config.digest:
            raise ReplacedError(
                f"{self._path} is not the file that config.json was written for: export the model "
                "again (rsrc export-transformers)"
            )
        dense = dense_names(checkpoint_files)
        self._replaced = [*find_replacements(model, opened, dense, self.quantization_config)]
        for one in self._replaced:
            one.begin(model)
        check_complete(model, dense)

    def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:
        for one in self._replaced:
            one.end(model)
        self._replaced = []
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
        folder: of model.safetensors; of a model on the hub, a snapshot in its cache, or a folder in
            one.

    Raises:
        OptionError: the hub refuses it, as a `token` given to transformers does not get here.
    """
    path = folder / RSR_FILE
    snapshot = next((p for p in (folder, *folder.parents) if p.parent.name == "snapshots"), None)
    if snapshot is None or path.exists():
        return path
    try:
        found = cached_file(
            name,
            RSR_FILE,
            revision=snapshot.name,
            cache_dir=snapshot.parents[2],
            subfolder=folder.relative_to(snapshot).as_posix(),
        )
    except OSError as error:
        why = str(error).strip().partition("\n")[0]
        raise OptionError(
            f"{name}: {RSR_FILE} cannot be downloaded ({why}): if the model is private, set "
            "HF_TOKEN or log in with `hf auth login`, as token= does not reach this download"
        ) from error
    return Path(found)
