"""Fixtures of all tests."""

from __future__ import annotations

import os

import hypothesis
import pytest

from rsr_testing.language_models import LanguageModels

# Child processes read the bytecode of our modules. To compile these anew takes 0.8 s in each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# On a busy machine any example may take long.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> LanguageModels:
    return LanguageModels(tmp_path_factory.mktemp("language_models"))
