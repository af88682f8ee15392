"""The walk in CONTRIBUTING.md leads through files that exist, each visited once."""

from __future__ import annotations

import re
from importlib.util import find_spec

from rsr_testing.paths import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_walk() -> None:
    _, _, rest = TEXT.partition("## From model.safetensors")
    files = re.findall(r"^\| .* \| `([^`]+)` \|$", rest.partition("\n## ")[0], re.MULTILINE)
    assert len(files) == len(set(files)) == 20
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_modules_that_are_named_exist() -> None:
    (module,) = re.findall(r"python -m (rsr_testing[\w.]+)", TEXT)
    assert find_spec(module)


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|cpp|h|md|cmake|txt))`", TEXT))
    assert len(named) > 20
    assert sorted(file for file in named if not (ROOT / file).exists()) == []
