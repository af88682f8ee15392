"""A fixture for tests of all forms."""

from __future__ import annotations

from pathlib import Path

import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import tensors


@pytest.fixture
def all_matrices(kit: Kit, tmp_path: Path) -> Path:
    """A .rsr file of `MATRICES`, compiled from tmp_path / "s.safetensors", without config.json."""
    source = kit.save(tmp_path / "s.safetensors", tensors(kit))
    rsrc.compile(source, tmp_path / "x.rsr")
    return tmp_path / "x.rsr"
