"""/v1/embeddings by OpenAI's client, and what a model without a head does not serve."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from rsr_runtime import llm
from rsr_runtime.llm import LanguageModel
from rsr_runtime.serve import serve
from rsr_testing.embedding_models import EMBEDDING_FAMILIES, TEXTS
from rsr_testing.language_models import LanguageModels
from rsr_testing.servers import Running, serving


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    folder: Path = tmp_path_factory.mktemp("encoder")
    with llm.load(EMBEDDING_FAMILIES["qwen3-embedding"].build(folder)) as model:
        yield model


@pytest.fixture(scope="module")
def embedding_server(encoder: LanguageModel) -> Iterator[Running]:
    with serving(encoder) as found:
        yield found


@pytest.fixture
def openai_client(embedding_server: Running) -> Iterator[openai.OpenAI]:
    url = f"{embedding_server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def embedding_web(embedding_server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=embedding_server.url, timeout=60) as found:
        yield found


def test_openais_client(openai_client: openai.OpenAI, encoder: LanguageModel) -> None:
    expected = encoder.embed(TEXTS)
    tokens = [encoder.tokenizer.encode(text) for text in TEXTS]
    for given in (TEXTS, tokens):
        answer = openai_client.embeddings.create(model="tiny", input=given)  # asks for base64
        assert (answer.object, answer.model) == ("list", "tiny")
        assert [one.index for one in answer.data] == list(range(len(TEXTS)))
        assert {one.object for one in answer.data} == {"embedding"}
        vectors = np.array([one.embedding for one in answer.data], np.float32)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        total = sum(map(len, tokens))
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (total, total)
    for single in (TEXTS[0], tokens[0]):
        answer = openai_client.embeddings.create(
            model="tiny", input=single, encoding_format="float", dimensions=7, user="somebody"
        )
        (one,) = answer.data
        cut = encoder.embed([TEXTS[0]], dimensions=7)[0]
        np.testing.assert_allclose(one.embedding, cut, atol=1e-5)


def test_formats_and_prompts(embedding_web: httpx.Client, encoder: LanguageModel) -> None:
    request: dict[str, Any] = {"input": TEXTS[0], "prompt_name": "query"}
    numbers = embedding_web.post("/v1/embeddings", json=request).json()["data"][0]["embedding"]
    request |= {"encoding_format": "base64"}
    coded = embedding_web.post("/embeddings", json=request).json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), numbers)
    (expected,) = encoder.embed([TEXTS[0]], prompt_name="query")
    np.testing.assert_allclose(numbers, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("request_", "param", "message"),
    [
        ({}, "input", "input: found nothing"),
        ({"input": ""}, "input", "input: text 0 is empty"),
        ({"input": []}, "input", "input: found 0 texts, expected 1 to 2048"),
        ({"input": ["a"] * 2049}, "input", "input: found 2049 texts, expected 1 to 2048"),
        ({"input": ["a", []]}, "input", "input: text 1 is empty"),
        ({"input": ["a", 3]}, "input", "input: found the number 3 beside texts or lists"),
        ({"input": 3}, "input", "input: found an integer, expected a string or an array"),
        ({"input": [[1 << 20]]}, "input", "input: found token 1048576, expected a token below"),
        (
            {"input": "a", "dimensions": 0},
            "dimensions",
            "dimensions: found 0, expected an integer of at least 1",
        ),
        (
            {"input": "a", "dimensions": 129},
            "dimensions",
            "dimensions: found 129, expected 1 to 128",
        ),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "encoding_format: found"),
        (
            {"input": "a", "prompt_name": "x"},
            "prompt_name",
            "prompt_name: found 'x', but the model has",
        ),
    ],
)
def test_refused(
    embedding_web: httpx.Client, request_: dict[str, Any], param: str, message: str
) -> None:
    answer = embedding_web.post("/v1/embeddings", json=request_)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith(message)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_long_text_is_refused_by_code(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="text 1 has 261 tokens, expected") as refused:
        openai_client.embeddings.create(model="tiny", input=["a", "b " * 130])
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "model": "m"},
        ),
    ],
)
def test_a_model_without_a_head_refuses_text(
    embedding_web: httpx.Client, path: str, request_: dict[str, Any]
) -> None:
    answer = embedding_web.post(path, json={"model": "tiny", **request_})
    assert answer.status_code == 400
    assert "has no output head, so it embeds texts only: use /v1/embeddings" in answer.text


def test_a_model_for_text_embeds_if_the_server_was_asked(
    running: Running, client: openai.OpenAI, served_model: LanguageModel
) -> None:
    with pytest.raises(openai.BadRequestError, match="start the server with --embeddings") as error:
        client.embeddings.create(model="m", input="a")
    assert error.value.code == "no_pooling"
    running.server.embeddings = True
    try:
        answer = client.embeddings.create(model="m", input=TEXTS[0])
    finally:
        running.server.embeddings = False
    expected = served_model.embed([TEXTS[0]], pooling="lasttoken", normalize=True)[0]
    np.testing.assert_array_equal(np.array(answer.data[0].embedding, np.float32), expected)


def test_files_that_do_not_say_how_a_model_for_text_embeds(
    tmp_path: Path, language_models: LanguageModels
) -> None:
    """Only requests for vectors are refused; all are if the server was asked for vectors."""
    path = language_models.variant("bitnet-2b", tmp_path, {"modules.json": b"[1"})
    with llm.load(path) as model:
        with serving(model) as server, httpx.Client(base_url=server.url, timeout=60) as web:
            answer = web.post("/v1/embeddings", json={"input": "a"})
            text = web.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        assert (answer.status_code, text.status_code) == (400, 200)
        assert answer.json()["error"]["code"] == "no_pooling"
        assert "modules.json: not valid JSON" in answer.json()["error"]["message"]
        with pytest.raises(llm.ModelError, match=r"modules\.json: not valid JSON"):
            serve(model, "m", port=0, embeddings=True)


def test_metrics(embedding_web: httpx.Client) -> None:
    def prompts() -> tuple[float, float]:
        found = dict(re.findall(r"^rsr_prompt_(tokens|seconds)_total (\S+)$", text(), re.MULTILINE))
        return float(found["tokens"]), float(found["seconds"])

    def text() -> str:
        return embedding_web.get("/metrics").text

    before = prompts()
    tokens = embedding_web.post("/v1/embeddings", json={"input": TEXTS}).json()["usage"]
    after = prompts()
    assert after[0] - before[0] == tokens["prompt_tokens"]
    assert after[1] > before[1]


def test_embeddings_beside_a_stream(client: openai.OpenAI, running: Running) -> None:
    running.server.embeddings = True
    try:
        stream = client.completions.create(model="m", prompt="Hi", max_tokens=60, stream=True)
        next(iter(stream))
        answer = client.embeddings.create(model="m", input=[TEXTS[5]] * 30)
        assert len(answer.data) == 30
        assert len(list(stream)) > 3
    finally:
        running.server.embeddings = False
