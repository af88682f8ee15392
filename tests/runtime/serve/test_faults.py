"""Clients that leave, do not read or are too many; templates that fail; the end of the server."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rsr_runtime import llm
from rsr_runtime.llm import LanguageModel
from rsr_runtime.llm.errors import CacheMemoryError
from rsr_testing.language_models import LanguageModels
from rsr_testing.servers import Running, serving

LONG: dict[str, Any] = {"prompt": "The weights", "max_tokens": 16_000, "temperature": 0}
LONG["logit_bias"] = {"299": -100, "300": -100}  # the ends of a text


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def sent(running: Running, body: dict[str, Any], path: str = "/v1/completions") -> Iterator[Any]:
    """Send a request whose response is not read."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(head.encode() + data)
        yield raw


def not_listening(running: Running) -> bool:
    with socket.socket() as raw:
        return raw.connect_ex(("127.0.0.1", running.port)) != 0


def generating(running: Running, count: int = 1) -> Callable[[], bool]:
    return lambda: running.server.engine.stats().running == count


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(running: Running, stream: bool) -> None:
    with sent(running, {**LONG, "stream": stream}):
        until(generating(running))
    left = time.monotonic()
    until(running.is_idle)
    assert time.monotonic() - left < 1  # the text takes several seconds


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_leaves_while_its_prompt_is_read(running: Running, stream: bool) -> None:
    prompt = [index % 256 for index in range(12_000)]
    with sent(running, {"prompt": prompt, "max_tokens": 4000, "stream": stream}):
        until(generating(running))
    left = time.monotonic()
    until(running.is_idle)
    assert time.monotonic() - left < 2


def test_a_full_queue_is_refused_and_clients_leave_it(served_model: LanguageModel) -> None:
    with (
        serving(served_model, parallel=1, queue=1) as full,
        httpx.Client(base_url=full.url, timeout=60) as web,
    ):
        with sent(full, LONG):
            until(generating(full))
            with sent(full, {**LONG, "stream": True}):
                until(lambda: full.server.engine.stats().waiting == 1)
                for stream in (False, True):
                    refused = web.post("/v1/completions", json={**LONG, "stream": stream})
                    assert refused.status_code == 429
                    assert refused.json()["error"]["code"] == "queue_full"
                    assert int(refused.headers["retry-after"]) >= 1
            until(lambda: full.server.engine.stats().waiting == 0)
            assert generating(full)()
        until(full.is_idle)
        assert web.post("/v1/completions", json={"prompt": "a"}).status_code == 200


def test_a_text_without_memory_is_refused(
    served_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise CacheMemoryError

    monkeypatch.setattr("rsr_runtime.llm.model.KVCache", no_memory)
    with serving(served_model) as full, httpx.Client(base_url=full.url) as web:
        refused = web.post("/v1/completions", json={"prompt": "a"})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "out_of_memory"


def test_a_client_that_does_not_read_loses_its_request(
    served_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsr_runtime.serve.jobs.MAX_WAITING", 50)
    with serving(served_model) as slow, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", slow.port))
        data = json.dumps({**LONG, "stream": True, "logprobs": 20}).encode()
        head = (
            f"POST /completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        raw.sendall(head.encode() + data)
        until(generating(slow))
        until(slow.is_idle)
        predicted = slow.server.metrics.predicted_tokens
        assert predicted < 15_000
        raw.settimeout(20)
        received = b""
        while chunk := raw.recv(1 << 16):  # it reads at last, and finds an error
            received += chunk
            if b"slow_reader" in received[-2000:]:
                break
        assert b'"code":"slow_reader"' in received


def test_silence_is_filled_with_comments(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsr_runtime.serve.sse.PING_SECONDS", 0.05)
    prompt = [index % 256 for index in range(12_000)]
    with sent(running, {"prompt": prompt, "max_tokens": 3, "stream": True}) as raw:
        received = b""
        while b"[DONE]" not in received:
            received += raw.recv(1 << 16)
    assert received.count(b": ping\n\n") >= 2
    assert received.index(b": ping") < received.index(b'"finish_reason":"length"')


def test_many_clients_with_some_that_leave(running: Running, served_model: LanguageModel) -> None:
    """32 clients at once: those that stay get what the model writes, those that leave go."""
    expected = {
        i: served_model.generate(f"Client {i}", max_tokens=25).text for i in range(0, 32, 2)
    }

    def stay(i: int) -> None:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="k", max_retries=50)
        done = client.completions.create(
            model="m", prompt=f"Client {i}", max_tokens=25, temperature=0
        )
        assert done.choices[0].text == expected[i]

    def leave(i: int) -> None:
        with sent(running, {**LONG, "prompt": f"Client {i}", "stream": i % 4 == 1}) as raw:
            raw.settimeout(0.02 * (i % 7 + 1))
            with suppress(TimeoutError):
                raw.recv(500)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda i: leave(i) if i % 2 else stay(i), range(32)))
    until(running.is_idle)


def test_a_template_that_fails_or_never_ends_is_the_requests_fault(
    language_models: LanguageModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsr_runtime.llm.template.MAX_CPU", 1.0)
    template = (
        b"{% if messages[0].content == 'loop' %}{% for i in range(99999999) %}"
        b"{% for j in range(99999999) %}{% endfor %}{% endfor %}"
        b"{% elif messages[0].content == 'no' %}{{ raise_exception('never') }}"
        b"{% elif messages[0].content == 'fail' %}{{ messages[0].nothing.at_all }}"
        b"{% endif %}ok"
    )
    path = language_models.variant("bitnet-2b", tmp_path, files={"chat_template.jinja": template})
    with llm.load(path) as model, serving(model) as found:
        for content in ("loop", "no", "fail"):
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
            refused = httpx.post(f"{found.url}/v1/chat/completions", json=body, timeout=60)
            assert refused.status_code == 400, content
            assert "template" in refused.json()["error"]["message"]
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        assert httpx.post(f"{found.url}/v1/chat/completions", json=body).status_code == 200


def test_a_model_without_a_template_continues_texts_only(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    path = language_models.variant("bitnet-2b", tmp_path, files={"tokenizer_config.json": b"{}"})
    with llm.load(path) as model, serving(model) as found:
        body: Any = {"messages": [{"role": "user", "content": "Hi"}]}
        refused = httpx.post(f"{found.url}/v1/chat/completions", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "no_chat_template"
        assert "/v1/completions" in refused.json()["error"]["message"]
        body = {"prompt": "a", "max_tokens": 1}
        assert httpx.post(f"{found.url}/v1/completions", json=body).status_code == 200
        assert httpx.get(f"{found.url}/tokenizer_info").json()["chat_template"] is None


def test_the_end_lets_requests_finish_and_then_cuts_them_short(
    served_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsr_runtime.serve.listen.GRACE_SECONDS", 1.0)
    results: dict[str, Any] = {}
    with serving(served_model) as ending:

        def ask(name: str, body: dict[str, Any]) -> None:
            with httpx.stream("POST", f"{ending.url}/v1/completions", json=body, timeout=60) as r:
                results[name] = r.status_code, r.read().decode()

        bodies = {
            "short": {**LONG, "max_tokens": 300},
            "long": LONG,
            "streamed": {**LONG, "stream": True},
        }
        threads = [threading.Thread(target=ask, args=item) for item in bodies.items()]
        for thread in threads:
            thread.start()
        until(generating(ending, 3))
        ending.stop()
        until(lambda: httpx.get(f"{ending.url}/health").status_code == 503)
        late = httpx.post(f"{ending.url}/v1/completions", json={"prompt": "a"})
        for thread in threads:
            thread.join(30)
        until(lambda: not_listening(ending))
    assert late.status_code == 503
    assert late.json()["error"]["code"] == "shutting_down"
    assert results["short"][0] == 200
    assert results["long"][0] == 503
    assert json.loads(results["long"][1])["error"]["code"] == "shutting_down"
    status, text = results["streamed"]
    assert status == 200
    last = text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_no_text_of_a_request_is_logged(
    web: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "Rosebud"
    with caplog.at_level(logging.DEBUG):
        web.post("/v1/completions", json={"prompt": secret, "max_tokens": 2})
        web.post("/v1/chat/completions", json={"messages": [{"role": secret}]})
        web.get(f"/v1/models?prompt={secret}")
    ours = [record for record in caplog.records if record.name.startswith("rsr_runtime")]
    assert [record.getMessage().split()[1:4] for record in ours] == [
        ["POST", "/v1/completions", "200"],
        ["POST", "/v1/chat/completions", "400"],
        ["GET", "/v1/models", "200"],
    ]
    assert all(secret not in record.getMessage() for record in ours)
