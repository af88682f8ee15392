"""Imports of `rsr_runtime.llm`, and errors where a package or config.json is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

import rsrc
from rsr_runtime import llm
from rsr_testing.language_models import LanguageModels
from rsr_testing.paths import DIGITS
from rsr_testing.process import run_python

LOADED = """
def loaded():
    import sys
    names = {"tokenizers", "jinja2", "click", "rich", "safetensors", "rsrc", "torch"}
    found = {name.partition(".")[0] for name in sys.modules} & names
    return sorted(found) + [n for n in ("rsr_runtime.llm",) if n in sys.modules]
"""


def lines(code: str, *arguments: object) -> list[str]:
    done = run_python(LOADED + code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_runtime_loads_nothing_of_it() -> None:
    assert lines("import rsr_runtime; print(loaded())") == ["[]"]


def test_packages_are_loaded_when_they_are_used(language_models: LanguageModels) -> None:
    code = """
import sys
from rsr_runtime import llm
print(loaded())
model = llm.load(sys.argv[1])
model.next_logits([1, 2, 3])
print(loaded())
model.generate("The rows", max_tokens=2)
print(loaded())
"""
    assert lines(code, language_models.path("bitnet-2b")) == [
        "['rsr_runtime.llm']",
        "['rsr_runtime.llm']",
        "['tokenizers', 'rsr_runtime.llm']",
    ]


def test_without_the_packages_the_extra_is_named(language_models: LanguageModels) -> None:
    """Logits of tokens need no package."""
    code = """
import sys
sys.modules["tokenizers"] = sys.modules["jinja2"] = None
from rsr_runtime import llm
model = llm.load(sys.argv[1])
print(model.next_logits([1, 2, 3]).shape)
calls = lambda: model.generate("x"), lambda: model.generate([1]), lambda: model.template
for call in calls:
    try:
        call()
    except llm.DependencyError as error:
        print(isinstance(error, ImportError), error.name, str(error).partition(": ")[2])
"""
    assert lines(code, language_models.path("bitnet-2b")) == [
        "(304,)",
        "True tokenizers pip install 'rsr-ternary[llm]'",
        "True tokenizers pip install 'rsr-ternary[llm]'",
        "True jinja2 pip install 'rsr-ternary[llm]'",
    ]


def test_other_models_are_refused(tmp_path: Path) -> None:
    """A .rsr file compiled from a single .safetensors file has no config.json."""
    rsrc.compile(DIGITS, tmp_path / "digits.rsr")
    with pytest.raises(llm.ModelError, match=r"no config\.json.*compile the model's directory"):
        llm.load(tmp_path / "digits.rsr")
