"""Loads language models for a test, and closes them after it."""

from __future__ import annotations

from typing import Any

from rsr_runtime import llm
from rsr_runtime.llm import LanguageModel

from .language_models import LanguageModels


class Loader:
    """Loads models of families, and closes them."""

    def __init__(self, models: LanguageModels) -> None:
        self._models = models
        self._opened: list[LanguageModel] = []

    def __call__(self, name: str, **options: Any) -> LanguageModel:
        model = llm.load(self._models.path(name), **options)
        self._opened.append(model)
        return model

    def close(self) -> None:
        for model in self._opened:
            model.close()
