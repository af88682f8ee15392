"""Which modules a `modules_to_not_convert` from an untrusted config.json covers."""

from __future__ import annotations

import time

import pytest

from rsr_formats.modules_to_not_convert import ModulesToNotConvert


@pytest.mark.parametrize(
    ("entry", "module", "covered"),
    [
        ("lm_head", "lm_head", True),
        ("lm_head.weight", "model.lm_head", True),
        ("model.layers.0", "model.layers.0.mlp.up_proj", True),
        ("model.layers.0", "model.layers.01.mlp.up_proj", False),
        ("model.layers.*.mlp", "model.layers.7.mlp.up_proj", True),
        ("model.layers.*.mlp", "model.layers.7.self_attn.q_proj", False),
        ("up_proj", "model.layers.0.mlp.down_proj", False),
    ],
)
def test_covered_modules(entry: str, module: str, covered: bool) -> None:
    assert (module in ModulesToNotConvert([entry])) == covered


def test_other_types_are_ignored() -> None:
    found = ModulesToNotConvert([None, 1, [], {}, "", ".", "lm_head"])
    assert "lm_head" in found
    assert "model.layers.0.mlp.up_proj" not in found


@pytest.mark.parametrize("entry", ["(a+)+$", "a|b", "[ab]", "*", "a.**", "\\d"])
def test_other_regular_expressions_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="a regular expression that is not supported"):
        ModulesToNotConvert([entry])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([f"a{i}.*" for i in range(65)], "65 entries with .*, expected at most 64"),
        (["a" * 4096 + ".*b"], "4097 letters in total, expected at most 4096"),
    ],
)
def test_limits(entries: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModulesToNotConvert(entries)


def test_a_pattern_that_would_backtrack_takes_no_time() -> None:
    found = ModulesToNotConvert(["a.*" * 1000 + "b"])
    start = time.process_time()
    assert "a" * 1000 not in found
    assert time.process_time() - start < 1
