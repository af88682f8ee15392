"""Fixtures of all tests."""

from __future__ import annotations

import hypothesis
import pytest

from rsr_testing.language_models import LanguageModels

# On a busy machine any example may take long.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> LanguageModels:
    return LanguageModels(tmp_path_factory.mktemp("language_models"))
