"""rsrc eval: what it refuses before lm-evaluation-harness is loaded, which need not be installed.

``tests/parity/test_evaluation.py`` has its results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rsr_testing.commands import refused, rsrc
from rsr_testing.embedding_models import EMBEDDING_FAMILIES
from rsr_testing.language_models import LanguageModels
from rsrc.cli.eval_table import print_results


@pytest.fixture(autouse=True)
def without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "rsr_runtime.evaluation", raising=False)


def test_refused(path: Path, language_models: LanguageModels, tmp_path: Path) -> None:
    said = refused(rsrc("eval", path, "--tasks", "arc_easy"))
    assert said == (
        "rsrc: an evaluation needs the package lm-eval: pip install 'rsr-ternary[eval]'\n"
    )
    encoder = EMBEDDING_FAMILIES["qwen3-embedding"].build(tmp_path / "encoder")
    assert "no output head" in refused(rsrc("eval", encoder, "--tasks", "arc_easy"))
    files = {"tokenizer.json": None}
    bare = language_models.variant("bitnet-2b", tmp_path / "bare", files)
    assert "no tokenizer.json" in refused(rsrc("eval", bare, "--tasks", "arc_easy"))
    output = tmp_path / "results.json"
    output.touch()
    said = refused(rsrc("eval", path, "--tasks", "arc_easy", "-o", output))
    assert "already exists: use --force" in said
    for wrong in ([], ["--tasks", " , "], ["--tasks", "a", "--limit", 0]):
        refused(rsrc("eval", path, *wrong), 2)


def test_the_table_has_groups_before_their_members(capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {"alias": "x", "sample_len": 9, "acc,none": 0.25}
    print_results({
        "results": {
            "zoo_b": {**values, "acc_stderr,none": 0.125, "f1,strict": "n/a"},
            "zoo": values, "alone": {"perplexity,none": 12.34567, "perplexity_stderr,none": "N/A"},
        },
        "groups": {"zoo": values}, "group_subtasks": {"zoo": ["zoo_b"]},
        "versions": {"zoo_b": 2}, "n-shot": {"zoo_b": 5},
        "higher_is_better": {"zoo_b": {"acc": True}, "alone": {"perplexity": False}},
    })  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert rows == [
        ["zoo", "", "none", "", "acc", "", "0.2500", ""],
        ["zoo_b", "2", "none", "5", "acc", "↑", "0.2500", "0.1250"],
        ["zoo_b", "2", "strict", "5", "f1", "", "n/a", ""],
        ["alone", "", "none", "", "perplexity", "↓", "12.3457", "N/A"],
        ["zoo", "", "none", "", "acc", "", "0.2500", ""],
    ]
    assert [line.index("zoo") for line in lines if "zoo" in line] == [2, 4, 4, 2]
