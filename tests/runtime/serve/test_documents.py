"""docs/serving.md names tests and paths that exist, and every path that is served."""

from __future__ import annotations

import ast
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


def test_every_code_of_an_error_is_described() -> None:
    """The codes and statuses in the table are those in the source, and no others."""
    codes, statuses = set(), {404, 405}  # which Starlette raises
    for path in (ROOT / "runtime" / "rsr_runtime" / "serve").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found = [word.value for word in node.keywords if word.arg == "code"]
                if node.func.id == "refused":
                    found += node.args[2:]
                if node.func.id == "ApiError":
                    first = node.args[0]
                    if isinstance(first, ast.Constant) and isinstance(first.value, int):
                        statuses.add(first.value)
                codes |= {one.value for one in found if isinstance(one, ast.Constant)}
    rows = re.findall(r"^\| (\d{3}) \|(.*?)\|", TEXT, re.MULTILINE)
    assert {code for _, cell in rows for code in re.findall(r"`(\w+)`", cell)} == codes
    assert {int(status) for status, _ in rows} == statuses


def test_every_field_is_described() -> None:
    for request in (ChatRequest, CompletionRequest):
        for field in request.__struct_fields__:
            assert f"`{field}" in TEXT, field
