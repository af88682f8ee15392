"""Requests as other clients send them: LangChain, and the shapes of two that have no package.

OpenAI's client is in most tests of this folder. lm-eval is in tests/parity.
"""

from __future__ import annotations

import gc
import http.client
import json
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI

from rsr_runtime.llm import LanguageModel
from rsr_testing.servers import Running, events

STATM = Path("/proc/self/statm")
QUESTION = "Who wrote Hamlet?"


def answer_of(model: LanguageModel, text: str, tokens: int) -> str:
    prompt = model.chat_prompt([{"role": "user", "content": text}], allow_special_tokens=False)
    return model.generate(prompt, max_tokens=tokens).text


def test_langchain_invokes_and_streams(running: Running, served_model: LanguageModel) -> None:
    options: Any = {"base_url": f"{running.url}/v1", "api_key": "none", "model": "tiny"}
    chat = ChatOpenAI(**options, temperature=0, max_tokens=12)  # type: ignore[call-arg]
    expected = answer_of(served_model, QUESTION, 12)
    answer = chat.invoke(QUESTION)
    assert answer.content == expected
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 12
    pieces = list(chat.stream(QUESTION, stream_usage=True))
    assert "".join(str(piece.content) for piece in pieces) == expected
    assert sum(p.usage_metadata["output_tokens"] for p in pieces if p.usage_metadata) == 12


def test_open_webui_lists_chats_and_titles(web: httpx.Client, served_model: LanguageModel) -> None:
    headers = {"Authorization": "Bearer none"}
    models = web.get("/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in models] == ["tiny"]
    chat = {
        "model": models[0]["id"], "stream": True, "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0,
        "params": {}, "user": {"name": "a", "id": "b"},
    }  # fmt: skip
    chunks = events(web.post("/v1/chat/completions", json=chat, headers=headers))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == answer_of(served_model, QUESTION, 12)
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    title = {**chat, "stream": False, "metadata": {"task": "title_generation"}}
    del title["stream_options"]
    answer = web.post("/v1/chat/completions", json=title, headers=headers).json()
    assert answer["choices"][0]["message"]["content"] == text


def test_continue_chats_and_completes(web: httpx.Client, served_model: LanguageModel) -> None:
    headers = {"Authorization": "Bearer none", "api-key": "none"}
    chat = {
        "model": "AUTODETECT", "max_tokens": 12, "temperature": 0, "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    }  # fmt: skip
    chunks = events(web.post("/v1/chat/completions", json=chat, headers=headers))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == answer_of(served_model, QUESTION, 12)
    raw = {
        "model": "AUTODETECT", "prompt": "def main():\n", "max_tokens": 12, "temperature": 0,
        "stop": ["\n\n\n"], "stream": True, "raw": True, "keep_alive": 1800,
    }  # fmt: skip
    chunks = events(web.post("/v1/completions", json=raw, headers=headers))
    expected = served_model.generate("def main():\n", max_tokens=12, stop=["\n\n\n"]).text
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected


@pytest.mark.skipif(not STATM.exists(), reason="the system does not say how much is in memory")
def test_memory_stays_flat(running: Running) -> None:
    """2,000 requests, from several clients at once, streamed and not, some of which leave."""

    def ask(count: int, seed: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", running.port)) as own:
            for i in range(count):
                body: dict[str, Any] = {"max_tokens": 1, "stream": i % 2 == 0}
                path, text = "/completions" if i % 4 else "/chat/completions", f"{seed} and {i}"
                body |= (
                    {"prompt": text} if i % 4 else {"messages": [{"role": "user", "content": text}]}
                )
                own.request("POST", path, json.dumps(body))
                with own.getresponse() as response:
                    assert response.status == 200
                    if i % 5:
                        response.read()
                if not i % 5:
                    own.close()

    def wave(count: int) -> int:
        threads = [threading.Thread(target=ask, args=(count // 4, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = wave(200)
    assert wave(2000) - before < 8 << 20


def test_openais_client_tries_again_when_the_queue_is_full(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsr_runtime.llm.errors import QueueFullError

    submit, tries = running.server.engine.submit, []

    def full_once(*arguments: Any, **options: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise QueueFullError(8, 1)
        return submit(*arguments, **options)

    monkeypatch.setattr(running.server.engine, "submit", full_once)
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=1) as client:
        done = client.completions.create(model="m", prompt="a", max_tokens=1)
    assert len(done.choices) == 1
    assert len(tries) == 2
