"""Test of the configuration of nginx, where nginx is installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import openai
import pytest

from rsr_runtime import llm
from rsr_testing.language_models import LanguageModels
from rsr_testing.paths import ROOT
from rsr_testing.servers import serving

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


def _configured(folder: Path, port: int, servers: list[int]) -> Path:
    """Write the configuration with these servers and without TLS."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for number, server in enumerate(servers, 1):
        text = text.replace(f"10.0.0.{number}:8080", f"127.0.0.1:{server}")
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    text = re.sub(r" *ssl_certificate.*\n", "", text)
    text = text.replace("server_name models.example.org;", "server_name localhost;")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    text = text.replace("http {\n", f"http {{\naccess_log off;\n{paths}", 1)
    path = folder / "nginx.conf"
    path.write_text(f"daemon off;\npid {folder}/pid;\nerror_log {folder}/errors;\n{text}")
    return path


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_a_server_that_is_gone_is_skipped(language_models: LanguageModels, tmp_path: Path) -> None:
    """Two servers answer, and one alone after the other ended; streams come through."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model_path = language_models.path("bitnet-2b")
    with (
        llm.load(model_path) as model, llm.load(model_path) as other,
        serving(model) as first, serving(other) as second,
        openai.OpenAI(
            base_url=f"http://localhost:{port}/v1", api_key="none", max_retries=0
        ) as client,
    ):  # fmt: skip
        config = _configured(tmp_path, port, [first.port, second.port])
        assert NGINX is not None
        with subprocess.Popen([NGINX, "-p", tmp_path, "-c", config]) as process:
            try:
                _wait(port)
                before = _answer(client)
                assert httpx.get(f"http://localhost:{port}/metrics").status_code == 403
                for ended in (first, second):
                    if ended.server.engine.stats().generated_tokens:
                        ended.stop()
                        break
                time.sleep(0.5)
                assert _answer(client) == before
            finally:
                process.terminate()
                process.wait(30)


def _answer(client: openai.OpenAI) -> str:
    chunks = client.chat.completions.create(
        model="rsr", messages=[{"role": "user", "content": "the rain"}], max_tokens=4, stream=True
    )
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def _wait(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("nginx does not listen")
