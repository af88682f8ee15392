"""The text of /metrics, and what it counts."""

from __future__ import annotations

import re

import httpx
import openai

from rsr_runtime.serve.metrics import Histogram


def values(text: str) -> dict[str, float]:
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in found.items()}


def test_buckets_count_all_values_up_to_their_bound() -> None:
    histogram = Histogram([0.5, 1.0])
    for value in (0.25, 0.5, 0.75, 4.0):
        histogram.add(value)
    assert histogram.lines("h") == [
        'h_bucket{le="0.5"} 2',
        'h_bucket{le="1.0"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 5.5",
        "h_count 4",
    ]


def test_every_sample_has_a_type(web: httpx.Client) -> None:
    text = web.get("/metrics").text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name in values(text):
        base = re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name)
        assert base in types
    assert types["rsr_requests_processing"] == "gauge"


def test_tokens_are_counted(client: openai.OpenAI, web: httpx.Client) -> None:
    before = values(web.get("/metrics").text)
    done = client.completions.create(model="m", prompt="Once", max_tokens=5, n=2)
    after = values(web.get("/metrics").text)
    assert done.usage is not None
    new = {name: after[name] - before.get(name, 0) for name in after}
    assert new["rsr_tokens_predicted_total"] == done.usage.completion_tokens
    assert new["rsr_prompt_tokens_total"] == done.usage.prompt_tokens
    assert new["rsr_time_to_first_token_seconds_count"] == 2
    assert new["rsr_inter_token_seconds_count"] == done.usage.completion_tokens - 2
    assert new['rsr_responses_total{status="200"}'] == 2  # with that of /metrics
    assert after["rsr_requests_processing"] == after["rsr_requests_deferred"] == 0
