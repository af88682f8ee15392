"""Tests of the block of reasoning."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_runtime.serve.reasoning import ReasoningParser, State, state_after

TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<th", "</", "ink>", " ", "\n", "a", "é", "<"])
).map("".join)
STATES = st.sampled_from(["start", "reasoning"])


def parsed(state: State, text: str, cuts: set[int]) -> tuple[str, str]:
    """Return reasoning and content of a text that comes in pieces."""
    parser = ReasoningParser(state)
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    found = [*map(parser.push, pieces), parser.finish()]
    return "".join(thought for thought, _ in found), "".join(content for _, content in found)


@pytest.mark.parametrize(
    ("state", "text", "expected"),
    [
        ("start", "<think>\nHm.\n</think>\n\nYes.", ("Hm.", "Yes.")),
        ("start", " \n<think>Hm", ("Hm", "")),
        ("start", "Say <think>x</think>", ("", "Say <think>x</think>")),
        ("start", "<thin", ("", "<thin")),
        ("reasoning", "\nHm.\n\n</think>Yes.\n", ("Hm.", "Yes.\n")),
        ("reasoning", "Hm. </think", ("Hm. </think", "")),
        ("reasoning", "a</think>b</think>", ("a", "b</think>")),
    ],
)
def test_reasoning(state: State, text: str, expected: tuple[str, str]) -> None:
    assert parsed(state, text, set()) == expected


@given(STATES, TEXTS, st.sets(st.integers(1, 60)))
def test_cuts_change_nothing(state: State, text: str, cuts: set[int]) -> None:
    whole = parsed(state, text, set())
    assert parsed(state, text, cuts) == whole
    # Only the markers and white space around them are lost.
    kept = "".join(whole).replace("<think>", "").replace("</think>", "")
    lost = text.replace("<think>", "").replace("</think>", "")
    assert "".join(kept.split()) == "".join(lost.split())


def test_the_prompt_tells_where_an_answer_begins() -> None:
    assert state_after("assistant\n<think>\n") == "reasoning"
    assert state_after("<think>\n\n</think>\n\n") == "content"
    assert state_after("assistant\n") == "start"
