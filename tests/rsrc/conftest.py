"""Fixtures for the tests of rsrc."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsr_testing.paths import DIGITS


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for property tests, whose examples overwrite each other's files."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def digits_source() -> Path:
    return DIGITS


@pytest.fixture(scope="session")
def gguf_kit() -> GgufKit:
    return GgufKit()
