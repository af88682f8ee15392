"""The examples of docs/clients.md, run as they are shown, except for the port of the server.

``make test-clients`` installs LlamaIndex and llm in an environment of their own, and runs all.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from rsr_runtime.llm import LanguageModel
from rsr_testing.documents import blocks
from rsr_testing.language_models import LanguageModels
from rsr_testing.paths import ROOT
from rsr_testing.servers import Running, long_model, serving

SHOWN_AT = "http://127.0.0.1:8080"
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def part(name: str) -> str:
    """Return the section of a client."""
    return PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    folder = tmp_path_factory.mktemp("model")
    with long_model(LanguageModels(folder), folder) as found:
        yield found


@pytest.fixture(scope="module")
def running(model: LanguageModel) -> Iterator[Running]:
    with serving(model) as found:
        yield found


def answer(model: LanguageModel, *messages: tuple[str, str], tokens: int = 50) -> str:
    asked = [{"role": role, "content": text} for role, text in messages]
    return model.generate(model.chat_prompt(asked), max_tokens=tokens).text


def printed(name: str, running: Running) -> str:
    """Run the Python of a section, and return what it prints."""
    (code,) = blocks("python", part(name))
    assert SHOWN_AT in code
    out = StringIO()
    with redirect_stdout(out):
        exec(compile(code.replace(SHOWN_AT, running.url), name, "exec"), {})
    return out.getvalue()


def test_openai(running: Running, model: LanguageModel) -> None:
    chats = [answer(model, ("user", text)) for text in ("Why is the sky blue?", "And the sea?")]
    text = model.generate("Once upon a time", max_tokens=20).text
    assert printed("openai-python", running) == f"{chats[0]}\n{chats[1]}{text}\n"


def test_langchain(running: Running, model: LanguageModel) -> None:
    system = ("system", "Answer in a word.")
    chats = [
        answer(model, system, ("user", text))
        for text in ("What color is the sky?", "And the sea?", "One", "Two")
    ]
    found = printed("LangChain", running)
    assert found.startswith(f"{chats[0]}\n{chats[1]}[AIMessage(content=")
    assert found.count("AIMessage(content=") == 2
    for text in chats[2:]:
        assert f"content={text!r}" in found


def test_llama_index(running: Running, model: LanguageModel) -> None:
    pytest.importorskip("llama_index.llms.openai_like")
    chats = [answer(model, ("user", text)) for text in ("Why is the sky blue?", "And the sea?")]
    assert printed("LlamaIndex", running) == f"assistant: {chats[0]}\n{chats[1]}"


@pytest.mark.parametrize("is_chat", [True, False])
def test_llm(is_chat: bool, running: Running, model: LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    (settings,) = blocks("yaml", part("llm"))
    (lines,) = blocks("sh", part("llm"))
    settings = settings.replace(SHOWN_AT, running.url)
    (tmp_path / "extra-openai-models.yaml").write_text(
        settings if is_chat else settings + "  completion: true\n"
    )
    first, second = (line for line in lines.splitlines() if line.startswith("llm "))
    if is_chat:
        assert run_llm(first, tmp_path) == answer(model, ("user", "Why is the sky blue?")) + "\n"
        asked = ("system", "Answer in a word."), ("user", "What color is the sea?")
        assert run_llm(second, tmp_path) == answer(model, *asked) + "\n"
    else:
        text = model.generate("Why is the sky blue?", max_tokens=50).text
        assert run_llm(first, tmp_path) == text + "\n"


def run_llm(line: str, folder: Path) -> str:
    """Run a line of the shell with a folder for the settings of llm."""
    code = "import sys; from llm.cli import cli; cli(prog_name='llm')"
    environment: dict[str, Any] = {"LLM_USER_PATH": str(folder), "PYTHONUTF8": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(line)[1:]],
        capture_output=True, env=environment, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.decode()  # a text may have carriage returns
