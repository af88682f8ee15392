"""Models, health, tokens; and what is not there."""

from __future__ import annotations

import httpx
import openai
import pytest

from rsr_runtime.llm import LanguageModel
from rsr_testing.servers import serving

TEXT = "The weights 🙂 never<|eot_id|> change."


def test_the_model_is_listed(
    client: openai.OpenAI, web: httpx.Client, served_model: LanguageModel
) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4o")
    assert error.value.code == "model_not_found"
    (entry,) = web.get("/models").json()["data"]
    assert entry["max_model_len"] == served_model.context
    assert entry["meta"]["n_vocab"] == served_model.config.vocab_size


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_tokens_and_back(web: httpx.Client, served_model: LanguageModel, prefix: str) -> None:
    encoded = web.post(f"{prefix}/tokenize", json={"prompt": TEXT}).json()
    assert encoded["tokens"] == served_model.encode(TEXT)
    assert encoded["count"] == len(encoded["tokens"])
    plain = web.post(
        f"{prefix}/tokenize", json={"prompt": TEXT, "add_special_tokens": False}
    ).json()
    assert plain["tokens"] == encoded["tokens"][1:]
    assert web.post(f"{prefix}/tokenize", json={"content": TEXT}).json() == plain
    decoded = web.post(f"{prefix}/detokenize", json={"tokens": plain["tokens"]}).json()
    for wrong in (-1, 1 << 20):
        assert web.post(f"{prefix}/detokenize", json={"tokens": [wrong]}).status_code == 400
    assert decoded["prompt"] == TEXT
    assert web.get(f"{prefix}/health").json() == {"status": "ok"}
    info = web.get(f"{prefix}/tokenizer_info").json()
    assert info["eos_token"] == "<|end_of_text|>"
    assert "start_header_id" in info["chat_template"]


def test_a_conversation_has_tokens(web: httpx.Client, served_model: LanguageModel) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    found = web.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert found == served_model.chat_prompt(messages)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/embeddings", 400),
        ("POST", "/embeddings", 400),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/tokenize", 405),
        ("POST", "/tokenize", 400),
        ("POST", "/detokenize", 400),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/app.py", 404),
    ],
)
def test_what_is_not_there_is_an_error_object(
    web: httpx.Client, method: str, path: str, status: int
) -> None:
    refused = web.request(method, path, json={"tokens": [-1]} if method == "POST" else None)
    assert refused.status_code == status
    assert refused.json()["error"]["message"]


def test_health_tells_that_the_engine_has_ended(served_model: LanguageModel) -> None:
    with serving(served_model) as ended, httpx.Client(base_url=ended.url) as web:
        ended.server.engine.close()
        assert web.get("/health").status_code == 503
