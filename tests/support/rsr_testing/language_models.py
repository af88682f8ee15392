"""Random language models, each made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import rsrc

from .models import FAMILIES, OTHERS, Tensor

_EVERY = FAMILIES | OTHERS


class LanguageModels:
    """Makes the models of `rsr_testing.models`, each once, and variants of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """Return the .rsr file of a family."""
        if name not in self._paths:
            self._paths[name] = _EVERY[name].build(self._folder / name)
        return self._paths[name]

    def variant(
        self,
        name: str,
        folder: Path,
        files: Mapping[str, bytes | None] | None = None,
        tensors: Callable[[dict[str, Tensor]], None] | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        """Return the .rsr file of a family's model with changes.

        Args:
            name: of the family.
            folder: where the model is made.
            files: Contents of model files; None removes one. They may be damaged, as they can be in
                a .rsr file that did not come from the compiler.
            tensors: Changes the tensors of the checkpoint, by name.
            config: Values of config.json; None removes one.
            options: of `rsrc.compile`.
        """
        family = _EVERY[name]
        made = family.tensors()  # not those that the changed config would ask for
        if tensors is not None:
            tensors(made)
        settings = {**family.config, **(config or {})}
        settings = {key: value for key, value in settings.items() if value is not None}
        dataclasses.replace(family, config=settings).save(folder / "model", made)
        for file, data in (files or {}).items():
            path = folder / "model" / file
            path.unlink() if data is None else path.write_bytes(data)
        output = folder / "model.rsr"
        with mock.patch("rsrc.source.files.check_json"):
            rsrc.compile(folder / "model", output, **options)
        return output
