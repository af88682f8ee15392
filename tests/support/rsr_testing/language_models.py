"""Makes random language models, each once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rsrc

from . import models


class LanguageModels:
    """Makes random models of every family that can be run, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}
        self.module = models
        self.names = tuple(self.module.FAMILIES)

    def path(self, name: str) -> Path:
        """Return the .rsr file of a family."""
        if name not in self._paths:
            self._paths[name] = self.module.FAMILIES[name].build(self._folder / name)
        return self._paths[name]

    def variant(
        self,
        name: str,
        folder: Path,
        files: Mapping[str, bytes | None] | None = None,
        tensors: Callable[[dict[str, Any]], None] | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        """Return the .rsr file of a family's model with changes.

        Args:
            name: of the family.
            folder: where it is made.
            files: what model files hold instead; None removes one.
            tensors: changes the tensors, by name, before they are written.
            config: values that config.json has instead; None removes one.
            options: of `rsrc.compile`.
        """
        family = self.module.FAMILIES[name]
        settings = {**family.config, **(config or {})}
        changed = dataclasses.replace(
            family, config={k: v for k, v in settings.items() if v is not None}
        )
        made = family.tensors()
        if tensors is not None:
            tensors(made)
        object.__setattr__(changed, "tensors", lambda seed=None: made)
        changed.save(folder / "model")
        for file, data in (files or {}).items():
            path = folder / "model" / file
            path.unlink() if data is None else path.write_bytes(data)
        output = folder / "model.rsr"
        rsrc.compile(folder / "model", output, **options)
        return output
