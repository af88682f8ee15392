"""Requests that name an adapter as their model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rsr_runtime import OptionError
from rsr_runtime.serve import serve
from rsr_testing.adapters import write_adapter
from rsr_testing.loader import Loader
from rsr_testing.servers import Running, serving

PROMPT = "The weights of a trained network"
NAMES = ("tiny", "one", "two")


@pytest.fixture
def adapted(loaded: Loader, tmp_path: Path) -> Iterator[Running]:
    """A server of a model with two adapters."""
    model = loaded("bitnet-2b")
    paths = [write_adapter(tmp_path / name, model, i) for i, name in enumerate(NAMES[1:])]
    with serving(loaded("bitnet-2b", adapters=paths)) as running:
        yield running


def test_each_api_takes_the_adapter_that_is_named(adapted: Running) -> None:
    model, options = adapted.server.model, {"max_tokens": 8, "temperature": 0.0}
    wanted = {
        name: model.generate(PROMPT, max_tokens=8, adapter=None if name == "tiny" else name).text
        for name in NAMES
    }
    assert len(set(wanted.values())) == len(NAMES)
    with openai.OpenAI(base_url=f"{adapted.url}/v1", api_key="none", max_retries=0) as client:
        listed = client.models.list().data
        assert [one.id for one in listed] == list(NAMES)
        assert client.models.retrieve("two").parent == "tiny"  # type: ignore[attr-defined]
        for name in NAMES:
            found = client.completions.create(model=name, prompt=PROMPT, **options)  # type: ignore[call-overload]
            assert (found.model, found.choices[0].text) == (name, wanted[name])
        with pytest.raises(openai.NotFoundError, match="found no model 'gpt', expected") as error:
            client.completions.create(model="gpt", prompt=PROMPT)
        assert error.value.code == "model_not_found"
        messages: list[Any] = [{"role": "user", "content": "Hi"}]
        said = {
            name: client.chat.completions.create(
                model=name, messages=messages, max_tokens=8, temperature=0.0
            )
            for name in NAMES
        }
        answers = {name: one.choices[0].message.content for name, one in said.items()}
        assert [one.model for one in said.values()] == list(NAMES)
        assert len(set(answers.values())) == len(NAMES)
        response = client.responses.create(
            model="one", input="Hi", max_output_tokens=8, temperature=0.0
        )
        assert (response.model, response.output_text) == ("one", answers["one"])
    with httpx.Client(base_url=adapted.url, timeout=60) as web:
        asked = {"model": "two", "messages": messages, **options}
        message = web.post("/v1/messages", json=asked).json()
        assert (message["model"], message["content"][0]["text"]) == ("two", answers["two"])
        unnamed = web.post("/v1/completions", json={"prompt": PROMPT, **options}).json()
        assert (unnamed["model"], unnamed["choices"][0]["text"]) == ("tiny", wanted["tiny"])
        for name, status in (("two", 200), ("gpt", 404)):
            asked = {"model": name, "messages": messages}
            assert web.post("/v1/messages/count_tokens", json=asked).status_code == status
        refused = web.post("/v1/embeddings", json={"model": "one", "input": "x"})
        assert refused.status_code == 400
        assert "adapters do not embed" in refused.text


def test_an_adapter_may_not_have_the_name_of_the_model(loaded: Loader, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "one", loaded("bitnet-2b"))
    with pytest.raises(OptionError, match="an adapter has the name of the model, 'one'"):
        serve(loaded("bitnet-2b", adapters=[path]), "one", port=0)
