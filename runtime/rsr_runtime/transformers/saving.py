"""`save_pretrained` of a model whose linear layers are in a `.rsr` file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsr_formats.atomic import atomic_file, link_or_copy
from rsr_formats.pretrained import IMPORT_FIRST, RSR_FILE, WEIGHTS_KEY

from ..errors import OptionError


class Saver:
    """Replaces the method `save_pretrained` of a model: also saves the .rsr file."""

    def __init__(self, model: Any, path: Path) -> None:
        """Save a model.

        Args:
            model: of transformers.
            path: its .rsr file.
        """
        self._model = model
        self._path = path

    def __call__(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        *arguments: Any,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Write a directory that `from_pretrained` loads.

        Args:
            save_directory: as in transformers.
            is_main_process: as in transformers.
            arguments: as in transformers.
            push_to_hub: not supported; `push_to_hub` of the model uploads all files.
            options: as in transformers.

        Raises:
            OptionError: `push_to_hub` is set.
            OSError: writing failed.
        """
        if push_to_hub:
            raise OptionError(
                "save_pretrained(push_to_hub=True) would not upload model.rsr: call "
                "model.push_to_hub(NAME) instead"
            )
        model = self._model
        type(model).save_pretrained(model, save_directory, is_main_process, *arguments, **options)
        has_adapters = getattr(model, "_hf_peft_config_loaded", False)
        if has_adapters or not is_main_process:  # of a model with adapters, only these are saved
            return
        folder = Path(save_directory)
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config[WEIGHTS_KEY] = IMPORT_FIRST  # transformers leaves it out
        with atomic_file(path, force=True) as out:
            out.write(json.dumps(config, indent=2, sort_keys=True).encode() + b"\n")
        link_or_copy(self._path, folder / RSR_FILE)
