"""Test of the example of Ray Serve, where ray is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rsr_testing.language_models import LanguageModels
from rsr_testing.paths import EXAMPLES

pytest.importorskip("ray.serve")
URL = "http://127.0.0.1:8000/v1"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: Ray has its sockets there."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_replicas_answer(language_models: LanguageModels, tmp_path: Path, short: Path) -> None:
    """Replicas answer alike; without a key they do not."""
    environment = {
        **os.environ, "RSR_MODEL": str(language_models.path("bitnet-2b")), "RSR_API_KEY": "secret",
        "RAY_TMPDIR": str(short), "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "app:app"]
    folder = EXAMPLES / "ray-serve"
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(process, tmp_path / "log")
            body = {"messages": [{"role": "user", "content": "the rain"}], "max_tokens": 3}
            texts = {_answer(body)["choices"][0]["message"]["content"] for _ in range(4)}
            assert len(texts) == 1
            assert httpx.post(f"{URL}/chat/completions", json=body).status_code == 401
        finally:
            process.terminate()
            process.wait(60)


def _answer(body: dict[str, object]) -> dict[str, list[dict[str, dict[str, str]]]]:
    answer = httpx.post(
        f"{URL}/chat/completions", json=body, headers={"authorization": "Bearer secret"}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, list[dict[str, dict[str, str]]]] = answer.json()
    return found


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        try:
            if httpx.get("http://127.0.0.1:8000/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()
        time.sleep(0.5)
    pytest.fail(log.read_text())
