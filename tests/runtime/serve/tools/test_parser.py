"""Tests of reading calls of tools."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsr_runtime.serve.tools import Call, CallFormat, CallParser
from rsr_runtime.serve.tools.formats import HERMES, LLAMA, MISTRAL
from rsr_runtime.serve.tools.parser import Piece

FORMATS = [HERMES, MISTRAL, LLAMA]
NAMES = {"get", "put"}


def parsed(written: CallFormat, text: str, cuts: set[int]) -> list[Piece]:
    """Return the parts of a text that comes in pieces, with neighboring texts joined."""
    parser = CallParser(written, NAMES)
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    found: list[Piece] = []
    for part in [part for piece in pieces for part in parser.push(piece)] + parser.finish(
        is_cut=False
    ):
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


GET = Call("get", '{"a": 1}')


@pytest.mark.parametrize(
    ("written", "text", "expected"),
    [
        (
            HERMES,
            'Wait.\n<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>{"name":"put","arguments":{"x":"</tool_call>"}}</tool_call> Done.',
            ["Wait.", GET, Call("put", '{"x":"</tool_call>"}'), "Done."],
        ),
        (  # a model that ends its answer before the marker, or within it
            HERMES, '<tool_call>{"name": "get", "arguments": {"a": 1}}\n</tool', [GET],
        ),
        (  # arguments as a string; a list; without arguments
            HERMES,
            '<tool_call>[{"name":"get","arguments":"{\\"a\\": 1}"},{"name":"put"}]</tool_call>',
            [GET, Call("put", "{}")],
        ),
        (HERMES, '<tool_call>{"name": "get"', ['<tool_call>{"name": "get"']),
        (HERMES, 'a <tool_call>\n{"name": "rm"}</tool_call>', None),  # a tool that is not known
        (HERMES, '<tool_call>{"name": "get", "arguments": [1]}</tool_call>', None),
        (HERMES, "<tool_call>get()</tool_call> <tool_call", None),
        (
            HERMES,
            '<tool_call>{bad}</tool_call><tool_call>{"name": "get", "arguments": {"a": 1}}',
            ["<tool_call>{bad}</tool_call>", GET],
        ),
        (MISTRAL, '[TOOL_CALLS] [{"name": "get", "arguments": {"a": 1}}]', [GET]),
        (LLAMA, ' {"name": "get", "parameters": {"a": 1}}', [GET]),
        (LLAMA, '<|python_tag|>{"name": "get", "parameters": {"a": 1}}', [GET]),
        (LLAMA, '{"name": "Ann", "age": 3} is JSON', None),
        (LLAMA, 'See {"name": "get", "parameters": {"a": 1}}', None),
    ],
)  # fmt: skip
def test_calls(written: CallFormat, text: str, expected: list[Piece] | None) -> None:
    assert parsed(written, text, set()) == ([text] if expected is None else expected)


@pytest.mark.parametrize(
    ("written", "text", "is_required", "expected"),
    [
        (HERMES, 'a<tool_call>{"name": "get", "arguments": {"a": [1', False,
         ["a", Call("get", '{"a": [1')]),
        (HERMES, '<tool_call>{"name": "get"', False, [Call("get", "")]),
        (HERMES, '<tool_call>\n{"name": "get", "argu', False, [Call("get", "")]),
        (HERMES, '<tool_call>\n{"name": "ge', False, ['<tool_call>\n{"name": "ge']),
        (HERMES, '<tool_call>\n{"name": "ge', True, []),
        (HERMES, "<tool_ca", True, []),
        (HERMES, '<tool_call>{"name": "no", "arguments": {', False,
         ['<tool_call>{"name": "no", "arguments": {']),
        (HERMES, '<tool_call>{"name": "get", "age": 3', False,
         ['<tool_call>{"name": "get", "age": 3']),
        (HERMES, '<tool_call>{"name": "get", "arguments": {"a": 1}}\n</tool_call>\n<tool_', True,
         [GET]),
        (MISTRAL, '[TOOL_CALLS][{"name": "get", "arguments": {"a": 1}}, {"name": "put", "argum',
         True, [GET, Call("put", "")]),
        (MISTRAL, '[TOOL_CALLS][{"name": "get", "arguments": {"a": 1}}', False, [GET]),
        (MISTRAL, '[TOOL_CALLS][{"name": "no", "arguments": {}}, {"name": "get"', False,
         ['[TOOL_CALLS][{"name": "no", "arguments": {}}, {"name": "get"']),
        (LLAMA, '{"name": "get", "parameters": {"a": "\\', False, [Call("get", '{"a": "\\')]),
    ],
)  # fmt: skip
def test_a_cut_call(
    written: CallFormat, text: str, is_required: bool, expected: list[Piece]
) -> None:
    parser = CallParser(written, NAMES, is_required)
    assert [part for piece in text for part in parser.push(piece)] + parser.finish(
        is_cut=True
    ) == expected


def test_a_named_call_is_cut_before_its_name() -> None:
    parser = CallParser(HERMES, {"get"}, is_required=True)
    assert parser.push("<tool_call>") + parser.finish(is_cut=True) == [Call("get", "")]
    nothing = CallParser(HERMES, {"get"}, is_required=True)
    assert nothing.finish(is_cut=True) == []


PIECES = [
    HERMES.begin, HERMES.end, MISTRAL.begin, LLAMA.begin, '{"name": "get", "arguments": {}}',
    '{"name":"put","parameters":{"a":"}\\"{"}}', '{"name": "no"}', "[", "]", "{", "}", '"', "\\",
    " ", "\n", "a", "é", "<tool", "<", ";",
]  # fmt: skip


@example(LLAMA, [PIECES[4], PIECES[4]], {len(PIECES[4])})  # cut between calls without a marker
@given(st.sampled_from(FORMATS), st.lists(st.sampled_from(PIECES)), st.sets(st.integers(1, 200)))
def test_cuts_change_nothing(written: CallFormat, pieces: list[str], cuts: set[int]) -> None:
    text = "".join(pieces)
    whole = parsed(written, text, set())
    assert parsed(written, text, cuts) == whole
    assert parsed(written, text, set(range(len(text)))) == whole
    if not any(isinstance(part, Call) for part in whole):
        assert "".join(map(str, whole)) == text


JSON_OBJECTS = st.dictionaries(
    st.text(), st.text() | st.integers() | st.lists(st.text() | st.none())
)


@given(st.sampled_from(FORMATS), st.lists(JSON_OBJECTS, min_size=1, max_size=3), st.booleans())
def test_written_calls_are_read(written: CallFormat, objects: list[object], ascii_: bool) -> None:
    calls = [{"name": "get", written.arguments: value} for value in objects]
    if written.is_list:
        text = written.begin + json.dumps(calls, ensure_ascii=ascii_)
    else:
        texts = (json.dumps(call, ensure_ascii=ascii_) for call in calls)
        text = "\n".join(f"{written.begin}\n{each}\n{written.end}" for each in texts)
    found = parsed(written, text, set(range(len(text))))
    assert [json.loads(call.arguments) for call in found if isinstance(call, Call)] == objects
    assert len(found) == len(objects)
