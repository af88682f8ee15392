"""Fixtures of the tests of the chat page: a real browser and a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from rsr_runtime.llm import LanguageModel
from rsr_testing import browser as browsers
from rsr_testing.chat_page import ChatPage
from rsr_testing.language_models import LanguageModels
from rsr_testing.servers import Running, long_model, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="make test-page installs it")
    path = browsers.find()
    if path is None:
        pytest.fail(browsers.NOT_FOUND)
    with api.sync_playwright() as playwright:
        # Containers and root have no sandbox.
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def served_model(
    language_models: LanguageModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LanguageModel]:
    """A small BitNet with a chat template, whose answers are long unless `max_tokens` is set."""
    with long_model(language_models, tmp_path_factory.mktemp("served")) as model:
        yield model


@pytest.fixture(scope="session")
def running(served_model: LanguageModel) -> Iterator[Running]:
    with serving(served_model) as found:
        yield found


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., ChatPage]]:
    """Return a page of a server in a browser of its own; none may have a fault in the end."""
    pages = []

    def make(url: str, **options: Any) -> ChatPage:
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        pages.append(ChatPage(context.new_page(), url))
        return pages[-1]

    yield make
    for page in pages:
        page.page.context.close()
    assert [fault for page in pages for fault in page.faults] == []


@pytest.fixture
def chat(running: Running, new_page: Callable[..., ChatPage]) -> ChatPage:
    """The page, whose answers have 40 tokens at most."""
    return new_page(running.url).open({"max_tokens": 40})
