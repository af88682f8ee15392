"""Runs a server of a language model in a thread of the tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rsr_runtime import llm
from rsr_runtime.llm import LanguageModel
from rsr_runtime.serve import Engine
from rsr_runtime.serve.guard import Access
from rsr_runtime.serve.listen import bind, http_server
from rsr_runtime.serve.server import Server

from .language_models import LanguageModels


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        port: where it listens on 127.0.0.1.
        server: the model that it serves, and its engine.
        stop: makes it end, as a signal does; returns at once.
    """

    port: int
    server: Server
    stop: Any

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def is_idle(self) -> bool:
        """Return whether it generates nothing, and nothing waits."""
        stats = self.server.engine.stats()
        return not stats.running and not stats.waiting


@contextmanager
def long_model(language_models: LanguageModels, folder: Path) -> Iterator[LanguageModel]:
    """Load a small BitNet with a chat template, whose texts can be long."""
    config = {"max_position_embeddings": 1 << 15}
    path = language_models.variant("bitnet-2b", folder, config=config)
    with llm.load(path, context=1 << 14) as model:
        yield model


@contextmanager
def serving(
    model: LanguageModel,
    access: Access | None = None,
    variables: dict[str, Any] | None = None,
    **engine: Any,
) -> Iterator[Running]:
    """Serve a model on a free port, with options of the engine."""
    access = access or Access("127.0.0.1")
    is_ready = threading.Event()
    with bind("127.0.0.1", 0) as bound, Engine(model, **engine) as made:
        server = Server(model, made, "tiny", variables or {})
        http = http_server(server, access, is_ready.set)
        thread = threading.Thread(target=http.run, args=([bound],))

        def stop() -> None:
            http.should_exit = True

        thread.start()
        try:
            assert is_ready.wait(30)
            yield Running(bound.getsockname()[1], server, stop)
        finally:
            stop()
            thread.join(30)
        assert not thread.is_alive()


def events(response: httpx.Response) -> list[Any]:
    """Return the objects of a stream of OpenAI's API, which ends with [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines]
