"""Fixtures of the layouts' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsr_testing.bench import Bench
from rsr_testing.checkpoints import Kit


@pytest.fixture
def bench(kit: Kit, tmp_path: Path) -> Bench:
    return Bench(kit, tmp_path)
