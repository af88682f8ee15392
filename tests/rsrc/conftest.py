"""Fixtures for the tests of rsrc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsr_testing.hub import Hub, client_of, serving_hub
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


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    with serving_hub() as hub:
        yield hub


@pytest.fixture
def hub(hub_server: Hub, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub that `hf://` means in this test, and an empty cache in tmp_path / "home"."""
    hub_server.clear()
    with client_of(hub_server.url, tmp_path / "home"):
        yield hub_server
