"""Fixtures of all tests."""

from __future__ import annotations

import pytest

from rsr_testing.language_models import LanguageModels


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> LanguageModels:
    return LanguageModels(tmp_path_factory.mktemp("language_models"))
