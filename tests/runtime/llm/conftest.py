"""Models that are loaded, for the tests of text generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import rsr_runtime as rsr

if TYPE_CHECKING:
    from rsr_runtime.llm import LanguageModel
    from tests.conftest import LanguageModels


class Loader:
    """Loads models of families, and closes them."""

    def __init__(self, models: LanguageModels) -> None:
        self._models = models
        self._opened: list[LanguageModel] = []

    def __call__(self, name: str, **options: Any) -> LanguageModel:
        from rsr_runtime import llm

        model = llm.load(self._models.path(name), **options)
        self._opened.append(model)
        return model

    def close(self) -> None:
        for model in self._opened:
            model.close()


@pytest.fixture
def loaded(language_models: LanguageModels) -> Iterator[Loader]:
    """Load a family's model: loaded(name, context=..., kv=...)."""
    loader = Loader(language_models)
    yield loader
    loader.close()


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back after the test."""
    before = rsr.get_num_threads()
    yield
    rsr.set_num_threads(before)
