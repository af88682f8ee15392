"""Fixtures of the tests of the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import openai
import pytest

from rsr_runtime import llm
from rsr_runtime.llm import LanguageModel
from rsr_testing import chat_templates
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader
from rsr_testing.servers import Running, long_model, serving


@pytest.fixture(scope="package")
def served_model(
    language_models: LanguageModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LanguageModel]:
    """A small BitNet with a chat template, whose texts can be long."""
    with long_model(language_models, tmp_path_factory.mktemp("served")) as model:
        yield model


@pytest.fixture(scope="package")
def running(served_model: LanguageModel) -> Iterator[Running]:
    """A server of it."""
    with serving(served_model, queue=8) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def web(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as found:
        yield found


@pytest.fixture
def loaded(language_models: LanguageModels) -> Iterator[Loader]:
    """Load a family's model: loaded(name, context=..., kv=...)."""
    loader = Loader(language_models)
    yield loader
    loader.close()


@pytest.fixture(scope="package")
def server_of(
    language_models: LanguageModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Running]]:
    """Serve a random BitNet with a template of `chat_templates`, by its name there."""
    opened: dict[str, Running] = {}
    with ExitStack() as stack:

        def serve(name: str) -> Running:
            if name not in opened:
                config = {
                    "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>",
                    "chat_template": getattr(chat_templates, name.upper()),
                }  # fmt: skip
                path = language_models.variant(
                    "bitnet-2b",
                    tmp_path_factory.mktemp(name),
                    {"tokenizer_config.json": json.dumps(config).encode()},
                    config={"max_position_embeddings": 2048},
                )
                opened[name] = stack.enter_context(serving(stack.enter_context(llm.load(path))))
            return opened[name]

        yield serve
