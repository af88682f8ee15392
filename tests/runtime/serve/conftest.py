"""Fixtures of the tests of the server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from rsr_runtime import llm
from rsr_runtime.llm import LanguageModel
from rsr_testing.language_models import LanguageModels
from rsr_testing.servers import Running, serving


@pytest.fixture(scope="package")
def served_model(language_models: LanguageModels) -> Iterator[LanguageModel]:
    """A small BitNet with a chat template."""
    with llm.load(language_models.path("bitnet-2b")) as model:
        yield model


@pytest.fixture(scope="package")
def running(served_model: LanguageModel) -> Iterator[Running]:
    """A server of it."""
    with serving(served_model) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as found:
        yield found
