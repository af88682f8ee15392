"""What messages show of untrusted names and values."""

from __future__ import annotations

import pytest

from rsr_formats.text import alternatives, listed, printable, quoted, shown


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[2J\nb\u202eé") == "a\\x1b[2J\\nb\\u202eé"


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more")]
)
def test_what_is_beyond_the_limit_is_counted(count: int, expected: str) -> None:
    assert listed([str(i) for i in range(count)], 3) == expected


def test_a_count_of_items_that_were_not_made() -> None:
    assert listed(["a", "b"], 2, count=1000) == "a, b and 998 more"


def test_another_separator() -> None:
    assert listed(["a", "b", "c"], 2, separator="; ") == "a; b; and 1 more"


def test_names_are_quoted_and_shortened() -> None:
    assert quoted(["a\n", "x" * 200]) == f"'a\\n', '{'x' * 120}'"
    assert quoted(["n"] * 12) == ", ".join(["'n'"] * 10) + " and 2 more"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "nothing"),
        ([[[]]], "a list"),
        ([], "an empty list"),
        ({"a": 1}, "an object"),
        (1.5, "1.5"),
        ("x" * 100, f"'{'x' * 59}..."),
    ],
)
def test_values(value: object, expected: str) -> None:
    assert shown(value) == expected


def test_alternatives_to_a_misspelled_name() -> None:
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(30)]
    found = alternatives("model.layers.7.mlp.up_porj.weight", names)
    assert found.startswith("similar names: 'model.layers.7.mlp.up_proj.weight'")
    assert alternatives("layers.29.mlp", names).startswith(f"similar names: {names[29]!r}")
    assert alternatives("rotary", names).endswith("and 25 more")
    assert alternatives("", ["a"]) == "it has 'a'"
    assert alternatives("a", []) == "it has none"
    long = [f"{i}" + "x" * 1000 for i in range(100)]
    assert len(alternatives("x" * 10**6, long)) < 500
