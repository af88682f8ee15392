"""docs/checkpoints.md: every row of its tables names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rsr_formats.keys.config import CONFIG
from rsr_formats.keys.generation import GENERATION
from rsr_formats.keys.gguf import ARCHITECTURE
from rsr_testing import key_tables
from rsr_testing.paths import ROOT

TEXT = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| family", "| type", "| form"))
]
TEST = re.compile(r"`((?:\w+/)*test_\w+\.py)((?:::\w+)*)`")


def names(path: Path) -> set[str]:
    """Every test and class of tests in a file, as pytest names them."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(f"::{node.name}")
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef))
            found |= {f"::{node.name}::{function.name}" for function in inner}
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_row_names_tests_that_exist(row: list[str]) -> None:
    tests = TEST.findall(" | ".join(row))
    assert tests
    for file, test in tests:
        folder = ROOT / "tests" if file.startswith("parity/") else ROOT / "tests" / "rsrc"
        assert test in names(folder / file) | {""}, f"{file}{test}"


def test_the_tables_are_whole() -> None:
    assert len(ROWS) > 40


def test_the_tables_of_keys_are_up_to_date() -> None:
    """If not: PYTHONPATH=tests/support python -m rsr_testing.key_tables."""
    assert key_tables.document() == TEXT
    for table in (CONFIG, GENERATION, ARCHITECTURE):
        assert all(f"`{key}`" in TEXT for key in table)
