"""Completions, by OpenAI's own client; the model itself is the judge."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import openai
import pytest

from rsr_runtime.llm import LanguageModel, Sampling

PROMPT = "The weights of a trained network"


def log_softmax(logits: Any) -> Any:
    wide = np.asarray(logits, np.float64)
    return (
        wide
        - np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - (wide.max(-1, keepdims=True))
    )


def test_a_text_is_the_models(client: openai.OpenAI, served_model: LanguageModel) -> None:
    sampling = Sampling(temperature=0.9, seed=1)
    expected = served_model.generate(PROMPT, max_tokens=16, sampling=sampling)
    options: Any = {"prompt": PROMPT, "model": "m", "temperature": 0.9, "seed": 1}
    assert client.completions.create(**options).choices[0].text == expected.text
    pieces = [c.choices[0].text for c in client.completions.create(**options, stream=True)]
    assert "".join(pieces) == expected.text
    echoed = client.completions.create(**options, echo=True)
    assert echoed.choices[0].text == PROMPT + expected.text


def test_prompts_and_texts_are_numbered(client: openai.OpenAI, served_model: LanguageModel) -> None:
    tokens = served_model.encode(PROMPT)
    options: Any = {"model": "m", "temperature": 1, "max_tokens": 5}
    both = client.completions.create(
        prompt=[tokens, served_model.encode("Once")], n=2, seed=3, **options
    )
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    for choice, prompt, seed in zip(
        both.choices, [tokens, tokens, served_model.encode("Once")], [3, 4, 3], strict=False
    ):
        alone = client.completions.create(prompt=prompt, seed=seed, **options)
        assert choice.text == alone.choices[0].text
    assert both.usage is not None
    assert both.usage.completion_tokens == 20
    assert both.usage.prompt_tokens == len(tokens) + len(served_model.encode("Once"))


def test_a_request_has_more_prompts_than_the_queue_holds(web: httpx.Client) -> None:
    body = {"prompt": [[5 + i] for i in range(20)], "max_tokens": 1}
    assert len(web.post("/v1/completions", json=body).json()["choices"]) == 20


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_are_scored(
    client: openai.OpenAI, served_model: LanguageModel, stream: bool
) -> None:
    prompt = f"{PROMPT} 🙂 ñ"
    tokens = served_model.encode(prompt)
    found: Any = client.completions.create(
        prompt=tokens, model="m", echo=True, logprobs=3, max_tokens=2, temperature=0, stream=stream
    )
    choices = [chunk.choices[0] for chunk in (found if stream else [found]) if chunk.choices]
    parts = [choice.logprobs for choice in choices if choice.logprobs]
    logprobs = [value for part in parts for value in part.token_logprobs]
    top = [value for part in parts for value in part.top_logprobs]
    offsets = [value for part in parts for value in part.text_offset]
    names = [value for part in parts for value in part.tokens]
    text = "".join(choice.text for choice in choices)
    assert text.startswith(prompt)
    generated = served_model.generate(tokens, max_tokens=2).tokens
    all_tokens = [*tokens, *generated]
    expected = log_softmax(served_model.logits(all_tokens))
    assert logprobs[0] is None
    assert top[0] is None
    rows = [expected[i, token] for i, token in enumerate(all_tokens[1:])]
    np.testing.assert_allclose(logprobs[1:], rows, atol=1e-4)
    for i, entries in enumerate(top[1:]):
        best = np.sort(expected[i])[::-1][:3]
        assert max(entries.values()) == pytest.approx(best[0], abs=1e-4)
        assert logprobs[i + 1] in entries.values()
    assert len(names) == len(offsets) == len(all_tokens)
    for name, offset in zip(names, offsets, strict=True):
        if not name.startswith(("<|", "bytes:")):
            assert text[offset:].startswith(name)


def test_a_prompt_is_scored_without_a_text(
    client: openai.OpenAI, served_model: LanguageModel
) -> None:
    found = client.completions.create(
        prompt=PROMPT, model="m", echo=True, logprobs=0, max_tokens=0, temperature=0
    ).choices[0]
    assert found.text == PROMPT
    assert found.finish_reason == "length"
    assert found.logprobs is not None
    assert len(found.logprobs.token_logprobs or []) == len(served_model.encode(PROMPT))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": PROMPT, "best_of": 2}, "best_of"),
        ({"prompt": PROMPT, "suffix": "end"}, "suffix"),
        ({"prompt": PROMPT, "max_tokens": 0}, "max_tokens"),
        ({"prompt": PROMPT, "logprobs": 21}, "logprobs"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [1 << 80]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({}, "prompt"),
    ],
)
def test_fields_are_refused_by_name(web: httpx.Client, body: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        refused = web.post("/v1/completions", json={**body, "stream": stream})
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["param"] == param
