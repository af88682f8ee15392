"""docs/serving.md names tests and paths that exist, and every path that is served."""

from __future__ import annotations

import re

import httpx

from rsr_runtime.serve.schema import ChatRequest, CompletionRequest
from rsr_testing.paths import ROOT

TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_tests_of_the_table_exist() -> None:
    named = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/.]+)\)", TEXT)
    assert len(named) > 8
    for name, path in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_the_endpoints_exist(web: httpx.Client) -> None:
    endpoints = re.findall(r"`(GET|POST) (/[^`]*)`", TEXT)
    assert len(endpoints) > 8
    for method, path in endpoints:
        answer = web.request(method, path.replace("{id}", "tiny"))
        assert answer.status_code not in (404, 405), path


def test_every_field_is_described() -> None:
    for request in (ChatRequest, CompletionRequest):
        for field in request.__struct_fields__:
            assert f"`{field}" in TEXT, field
