"""Fixtures of the tests of text generation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import rsr_runtime as rsr
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader


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
