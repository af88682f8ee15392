"""Small language models, for the tests of the runtime and of the command line."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _parity_models() -> ModuleType:
    """Import tests/parity/models.py by path: in pytest's importlib mode it has no name."""
    name = "rsr_tests_parity_models"
    if name not in sys.modules:
        path = Path(__file__).parent / "parity" / "models.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before it runs: its dataclasses look themselves up there
        spec.loader.exec_module(module)
    return sys.modules[name]


class LanguageModels:
    """Makes random models of every family that can be run, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}
        self.module = _parity_models()
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
        import rsrc

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


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> LanguageModels:
    return LanguageModels(tmp_path_factory.mktemp("language_models"))
