"""Fixtures for the tests of the file format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rsr_formats import RsrFile
from rsr_testing.drafts import Draft


@pytest.fixture
def draft() -> Draft:
    return Draft()


@pytest.fixture(scope="session")
def small_file() -> bytes:
    """A small valid file with every kind of part."""
    return Draft().bytes()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], RsrFile]:
    """Write bytes to a file and open it."""

    def open_bytes(data: bytes) -> RsrFile:
        path = tmp_path / "test.rsr"
        path.write_bytes(data)
        return RsrFile(path)

    return open_bytes
