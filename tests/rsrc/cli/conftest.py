"""Fixtures of the tests of commands that run language models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rsr_testing.language_models import LanguageModels
from rsr_testing.terminal import Terminal, on_a_terminal


@pytest.fixture(scope="session")
def path(language_models: LanguageModels) -> Path:
    return language_models.path("bitnet-2b")


@pytest.fixture(scope="session")
def endless(language_models: LanguageModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose texts no token ends."""
    files = {"generation_config.json": b'{"eos_token_id": 70000}'}
    return language_models.variant("bitnet-2b", tmp_path_factory.mktemp("endless"), files)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    pytest.importorskip("termios")
    with ExitStack() as opened:
        yield lambda *arguments: opened.enter_context(on_a_terminal(*arguments))
