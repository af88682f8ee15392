"""Fixtures of the tests of text generation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader


@pytest.fixture
def loaded(language_models: LanguageModels) -> Iterator[Loader]:
    """Load a family's model: loaded(name, context=..., kv=...)."""
    loader = Loader(language_models)
    yield loader
    loader.close()
